"""Hugging Face datasets as Parquet or Arrow files: one, a folder of them, or a list.

The schema's metadata "huggingface" holds the features: the column that is an Image, and the names
of a ClassLabel. In files of other writers, names and types of columns decide.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import BadLabel, number_labels
from data_tools.sources.keys import Picked, RowKeys
from data_tools.sources.tables import listed
from data_tools.sources.tables.cells import reader_of
from data_tools.sources.tables.image_column import find_image
from data_tools.sources.tables.parquet_columns import (
    Names,
    check_columns,
    class_names,
    features_of,
    find_label,
    find_split,
    is_missing,
    label_values,
)
from data_tools.sources.tables.parquet_folder import (
    distinct_names,
    features_of_folder,
    files_of,
    refuse_splits,
)
from data_tools.sources.tables.parquet_rows import (
    Group,
    ParquetRows,
    damaged,
    first_line,
    format_of,
    open_rows,
)
from data_tools.sources.tables.splits import check_splits, wanted_splits

if TYPE_CHECKING:
    import pyarrow as pa

    from data_tools.sources.location import Location

# Most bytes of decoded pieces that are kept. Threads read rows of two groups at the same time when
# they pass the end of one, so one piece is not enough.
HELD_BYTES = 128 << 20
OPEN_GROUPS = 4


def recognises(location: Location) -> bool:
    """True for a Parquet or Arrow file, and for a folder that holds some (or data/ does)."""
    try:
        if location.is_dir():
            return "dataset_dict.json" in location.names() or bool(files_of(location))
        return bool(format_of(location))
    except (OSError, UserError, ValueError):
        return False


def open(location: Location | Sequence[Location], split: str = "") -> ParquetSource:
    """Opens one file, the files of a folder, or several files one after another.

    split: keep only the rows with this value in the column of splits. Raises UserError for damaged
    files, for tables without images, and for several splits of which none is chosen.
    """
    if isinstance(location, Sequence):
        return ParquetSource(list(location), location[0].parent, split)
    if not location.is_dir():
        return ParquetSource([location], location, split)
    if "dataset_dict.json" in location.names():
        raise UserError(f"{location}: holds several splits; give one of its folders, "
                        f"like {location}/train")
    files = files_of(location)
    if not files:
        raise UserError(f"{location}: holds no Parquet or Arrow files")
    refuse_splits([file.name for file in files], location)
    return ParquetSource(files, location, split)


class ParquetSource:
    """The rows of the files, in order.

    A Parquet group is decoded from its start on. So threads share readers and decoded pieces.
    """

    ignored = 0

    def __init__(self, files: list[Location], place: Location, split: str = "") -> None:
        self.name = place.name
        self.notes: list[str] = []
        self._files = [open_rows(file) for file in files]
        first = self._files[0]
        with damaged(first.location):
            features = features_of(first.schema) or features_of_folder(files[0].parent)
            self._column = find_image(first, features)
            self._label, reason = find_label(first.schema, features, self._column.name)
            check_columns(self._files, self._column.name, self._label)
        self.notes += [self._column.note] if self._column.note else []
        self.notes += [] if self._label else [f"no labels: {reason}"]
        self._groups: list[tuple[int, int]] = []  # (file, group in it)
        counts: list[Group] = []
        rows_of_file = []
        for number, file in enumerate(self._files):
            with damaged(file.location):
                groups = file.groups(self._column.name)
            self._groups += [(number, i) for i in range(len(groups))]
            counts += groups
            rows_of_file.append(sum(group.rows for group in groups))
        rows = [group.rows for group in counts]
        self._starts = RowKeys([""] * len(rows), rows)
        self.keys: Sequence[str] = RowKeys(distinct_names(files), rows_of_file)
        if not len(self.keys):
            raise UserError(f"{place}: holds no rows")
        # If the column holds paths, its own bytes say nothing about the size of the images.
        by_path = self._column.path != ""
        each = [listed.REMOTE_BYTES if by_path else g.bytes // max(g.rows, 1) for g in counts]
        self.sizes = np.repeat(each, rows)
        if by_path:
            listed.place_of(files[0].parent, self._column.path).check_package()
            if listed.with_slashes(files[0].parent, self._column.path):
                self.notes.append(listed.BACKSLASHES)
        self.labels, self.classes = self._read_labels(features)
        self._rows = self._choose(place, split)
        form = "Parquet" if isinstance(first, ParquetRows) else "Arrow"
        self.kind = f"{form}, {len(files):,} file{'s' * (len(files) > 1)}"
        self.kind += f", split {split}" if split else ""
        self.fingerprint = self._digest(files, split)
        self._cells = [reader_of(file.schema.field(self._column.name).type) for file in self._files]
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()  # (group, first row)
        self._readers: OrderedDict[int, tuple[int, Iterator[pa.Array]]] = OrderedDict()
        self._broken: dict[int, tuple[int, str]] = {}  # by group: (first bad row, reason)

    def _read_labels(self, features: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
        """Labels int64 [N] and classes. Also sets `minus_ones`, and adds notes."""
        self.minus_ones = np.zeros(len(self.keys), np.bool_)
        if not self._label:
            return np.full(len(self.keys), -1, np.int64), []
        names = Names()
        codes = labels = self._read_column(self._label, names)
        if len(names):
            try:
                labels, classes, notes = names.labels(labels)
            except BadLabel as error:
                raise UserError(f"{self._files[0].location}: {error}") from None
            self.notes += notes
            self.minus_ones = (labels < 0) & (codes >= 0)
            return labels, classes
        self.minus_ones = labels == -1
        if self.minus_ones.any():
            self.minus_ones &= ~self._read_missing(self._label)
        if not (labels != -1).any():
            if self.minus_ones.any():
                return labels, []
            self.notes.append(f"no labels: the column {self._label} is empty")
            return labels, []
        classes = class_names(features.get(self._label))
        if classes and -1 <= labels.min() and labels.max() < len(classes):
            return labels, classes
        if classes:
            self.notes.append(f"labels go from {labels.min()} to {labels.max()}, but there are "
                              f"{len(classes)} names: the names are left out")
        labels, classes, note = number_labels(labels)
        self.notes += [note] if note else []
        return labels, classes

    def _read_missing(self, name: str) -> np.ndarray:
        """bool [N]: True if a label column holds null or NaN."""
        values: list[np.ndarray] = []
        for file in self._files:
            with damaged(file.location):
                values += map(is_missing, file.column(name))
        return np.concatenate(values)[: len(self.keys)]

    def _read_column(self, name: str, names: Names) -> np.ndarray:
        """The values of a label column, int64 [N]: numbers, or codes of the texts in `names`."""
        values: list[np.ndarray] = []
        count = 0
        for file in self._files:
            with damaged(file.location):
                for piece in file.column(name):
                    values.append(label_values(piece, names))
                    count += len(piece)
                    if count > len(self.keys):
                        break
        if count != len(self.keys):
            raise UserError(f"{self._files[0].location}: damaged: {len(self.keys)} images but "
                            f"{count} values of {name}; copy or download it again")
        return names.count(np.concatenate(values)) if len(names) else np.concatenate(values)

    def _choose(self, place: Location, split: str) -> np.ndarray | None:
        """The rows of the split; None for all. Cuts keys, sizes and labels down to them."""
        column = find_split(self._files[0].schema, (self._column.name, self._label))
        if not column:
            check_splits(place, "", {}, split)
            return None
        check_columns(self._files, self._column.name, column)
        texts = Names()
        codes = self._read_column(column, texts)
        if not len(texts):  # a column of numbers, in which -1 is a value like others
            numbers, codes = np.unique(codes, return_inverse=True)
            codes = texts.count(np.array([texts.number(str(n)) for n in numbers.tolist()])[codes])
        counts = dict(texts.counts)
        if (codes < 0).any():
            counts[""] = int((codes < 0).sum())
        check_splits(place, column, counts, split)
        if not split:
            return None
        wanted = wanted_splits(split)
        chosen = [i for i, text in enumerate(texts.counts) if text.lower() in wanted]
        rows = np.flatnonzero(np.isin(codes, chosen))
        self.keys = Picked(self.keys, rows.tolist())
        self.sizes, self.labels = self.sizes[rows], self.labels[rows]
        self.minus_ones = self.minus_ones[rows]
        return rows

    def _digest(self, files: list[Location], split: str) -> str:
        # A mark if images are files of their own: releases before assumed other sizes for them, so
        # their parts were cut elsewhere.
        marks = (["paths"] if self._column.path else []) + ([split] if split else [])
        digest = hashlib.sha256(repr((self._column.name, self.classes, *marks)).encode())
        for file in files:
            digest.update(repr((file.name, file.size(), file.mtime())).encode())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def read(self, i: int) -> bytes:
        group, row = self._starts.locate(i if self._rows is None else int(self._rows[i]))
        number = self._groups[group][0]
        with self._lock:
            start, piece = self._piece(group, row)
            try:
                value = self._cells[number](piece[row - start])
            except ValueError as error:  # a path that is not UTF-8
                raise OSError(f"damaged: {first_line(error)}") from None
        if not value:
            raise OSError("the row holds no image")
        if isinstance(value, str):
            return listed.read_listed(self._files[number].location.parent, value)
        return value

    def _piece(self, group: int, row: int) -> tuple[int, pa.Array]:
        """The piece of a group that holds a row, and its first row."""
        for (of, start), piece in self._held.items():
            if of == group and start <= row < start + len(piece):
                self._held.move_to_end((of, start))
                return start, piece
        bad, reason = self._broken.get(group, (row + 1, ""))
        if row >= bad:
            raise OSError(reason)
        at, reader = self._readers.pop(group, (0, None))
        if reader is None or at > row:
            at, reader = 0, self._pieces(group)
        while True:
            try:
                piece = next(reader)
            except StopIteration:
                reason = "damaged: the file ends before it"
            except Exception as error:  # pyarrow raises many types, and the file system OSErrors
                if isinstance(error, OSError) and not self._is_local(group):
                    raise  # the network may recover, so the group is not marked as broken
                reason = f"damaged: {first_line(error)}"
            else:
                start, at = at, at + len(piece)
                self._hold(group, start, piece)
                if at > row:
                    self._readers[group] = at, reader
                    if len(self._readers) > OPEN_GROUPS:
                        self._readers.popitem(last=False)
                    return start, piece
                continue
            self._broken[group] = at, reason
            raise OSError(reason)

    def _is_local(self, group: int) -> bool:
        return self._files[self._groups[group][0]].location.local is not None

    def _pieces(self, group: int) -> Iterator[pa.Array]:
        file, index = self._groups[group]
        return self._files[file].pieces(self._column.name, index)

    def _hold(self, group: int, start: int, piece: pa.Array) -> None:
        self._held[group, start] = piece
        while len(self._held) > 2 and sum(p.nbytes for p in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._readers.clear()
