"""Hugging Face datasets as Parquet or Arrow files: one, a folder of them, or a list.

The schema's metadata "huggingface" holds the features: which column is an Image, and a
ClassLabel's names. Files of others are read by the columns' names and types.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.errors import UserError
from data_tools.sources.columns import (
    Names,
    class_names,
    feature_type,
    features_of,
    find_label,
    holds_bytes,
    label_values,
)
from data_tools.sources.record_batches import (
    ArrowRows,
    Group,
    ParquetRows,
    damaged,
    first_line,
    format_of,
    open_rows,
)
from data_tools.sources.rows import RowKeys, number_labels

if TYPE_CHECKING:
    import pyarrow as pa

    from data_tools.location import Location

SUFFIXES = (".parquet", ".arrow")
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes")
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P6", b"P5")
# Decoded pieces that are kept: threads read some rows ahead of each other, over a group's end.
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


def open(location: Location | Sequence[Location]) -> ParquetSource:
    """Raises UserError for what holds no images, for splits side by side, for damaged files."""
    if isinstance(location, Sequence):
        return ParquetSource(list(location), location[0].parent)
    if not location.is_dir():
        return ParquetSource([location], location)
    if "dataset_dict.json" in location.names():
        raise UserError(f"{location}: holds several splits; give one of its folders, "
                        f"like {location}/train")
    files = files_of(location)
    if not files:
        raise UserError(f"{location}: holds no Parquet or Arrow files")
    refuse_splits([file.name for file in files], location)
    return ParquetSource(files, location)


def files_of(folder: Location) -> list[Location]:
    """The data files of a folder, in order: of save_to_disk as state.json has them; else sorted."""
    names = folder.names()
    if "state.json" in names:
        state = read_json(folder.child("state.json"))
        listed = [str(row.get("filename")) for row in state.get("_data_files") or []
                  if isinstance(row, dict)]
        if state.get("_indices_data_files"):
            raise UserError(f"{folder}: was saved with an order of its own; "
                            "save it again after flatten_indices()")
        if listed and set(listed) <= set(names):
            return [folder.child(name) for name in listed]
    # metadata.parquet lists the images of an image folder.
    found = [n for n in names if n.endswith(SUFFIXES) and not n.startswith((".", "metadata."))]
    if not found and "data" in names and folder.child("data").is_dir():
        return files_of(folder.child("data"))
    return [folder.child(name) for name in sorted(found)]


def read_json(location: Location) -> dict[str, Any]:
    """A small JSON file's object; empty where there is none."""
    try:
        found = json.loads(location.pread(1 << 24, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_splits(names: list[str], folder: Location) -> None:
    """Raises UserError where files of train and test lie side by side."""
    words = [set(re.split(r"[-_.]", name.lower())) & SPLITS for name in names]
    found = sorted(set().union(*words))
    if len(found) > 1:
        name = names[next(i for i, word in enumerate(words) if word)]
        raise UserError(f"{folder}: holds {' and '.join(found)} side by side; give one by a "
                        f"pattern, like '{folder}/train-*.{name.rpartition('.')[2]}'")


class ParquetSource:
    """The rows of the files, in order. Threads share one reader; pieces are kept a while."""

    ignored = 0

    def __init__(self, files: list[Location], place: Location) -> None:
        self.name = place.name
        self.notes: list[str] = []
        self._files = [open_rows(file) for file in files]
        first = self._files[0]
        with damaged(first.location):
            features = features_of(first.schema) or features_of_folder(files[0].parent)
            self._image = self._find_image(first, features)
            self._label = find_label(first.schema, features, self._image)
            self._check_columns()
        self._groups: list[tuple[int, int]] = []  # (file, group in it)
        counts: list[Group] = []
        rows_of_file = []
        for number, file in enumerate(self._files):
            with damaged(file.location):
                groups = file.groups(self._image)
            self._groups += [(number, i) for i in range(len(groups))]
            counts += groups
            rows_of_file.append(sum(group.rows for group in groups))
        rows = [group.rows for group in counts]
        self._starts = RowKeys([""] * len(rows), rows)
        self.keys: Sequence[str] = RowKeys(distinct_names(files), rows_of_file)
        if not len(self.keys):
            raise UserError(f"{place}: holds no rows")
        self.sizes = np.repeat([g.bytes // max(g.rows, 1) for g in counts], rows)
        self.labels, self.classes = self._read_labels(features)
        form = "Parquet" if isinstance(first, ParquetRows) else "Arrow"
        self.kind = f"{form}, {len(files):,} file{'s' * (len(files) > 1)}"
        self.fingerprint = self._digest(files)
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()  # (group, first row)
        self._readers: OrderedDict[int, tuple[int, Iterator[pa.Array]]] = OrderedDict()
        self._broken: dict[int, tuple[int, str]] = {}  # group: from which row, why

    def _find_image(self, file: ParquetRows | ArrowRows, features: dict[str, Any]) -> str:
        """The name of the column that holds images."""
        declared = [name for name in features if feature_type(features, name) == "Image"]
        fields = {field.name: field.type for field in file.schema}
        holders = [name for name, kind in fields.items() if holds_bytes(kind)]
        declared = [name for name in declared if name in holders]
        if len(declared) > 1:
            self.notes.append(f"of the image columns {', '.join(declared)} the first is taken")
        if declared:
            return declared[0]
        for name in IMAGE_NAMES:
            if name in holders:
                return name
        for name in holders:
            value = next((v for v in first_values(file, name) if v is not None), b"")
            if value.startswith(MAGIC):
                return name
        raise UserError(f"{file.location}: no column holds images; its columns are "
                        f"{', '.join(fields) or 'none'}")

    def _check_columns(self) -> None:
        first = self._files[0]
        for file in self._files[1:]:
            for name in filter(None, (self._image, self._label)):
                index = file.schema.get_field_index(name)
                want = first.schema.field(name).type
                if index < 0 or file.schema.field(index).type != want:
                    raise UserError(f"{file.location}: its column {name} is not as in "
                                    f"{first.location}; give files of one dataset")

    def _read_labels(self, features: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
        samples = len(self.keys)
        if not self._label:
            self.notes.append("no labels: no column is named label")
            return np.full(samples, -1, np.int64), []
        values, names = [], Names()
        for file in self._files:
            with damaged(file.location):
                values += [label_values(piece, names) for piece in file.column(self._label)]
        labels = np.concatenate(values) if values else np.empty(0, np.int64)
        if len(labels) != samples:
            raise UserError(f"{self._files[0].location}: damaged: {samples} images but "
                            f"{len(labels)} labels; copy or download it again")
        if names.found:
            return names.sorted(labels)
        classes = class_names(features.get(self._label))
        if classes and -1 <= labels.min() and labels.max() < len(classes):
            return labels, classes
        if classes:
            self.notes.append(f"labels go from {labels.min()} to {labels.max()}, but there are "
                              f"{len(classes)} names: the names are left out")
        labels, classes, note = number_labels(labels)
        self.notes += [note] if note else []
        return labels, classes

    def _digest(self, files: list[Location]) -> str:
        digest = hashlib.sha256(repr((self._image, self.classes)).encode())
        for file in files:
            digest.update(repr((file.name, file.size(), file.mtime())).encode())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def read(self, i: int) -> bytes:
        group, row = self._starts.locate(i)
        location = self._files[self._groups[group][0]].location
        with self._lock:
            start, piece = self._piece(group, row)
            try:
                value = piece[row - start].as_py()
            except ValueError as error:  # names in it that are not UTF-8
                raise OSError(f"damaged: {first_line(error)}") from None
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            if data is None and path:
                place = type(location)(path) if str(path).startswith("/") else (
                    location.parent.child(str(path)))
                return place.pread(place.size(), 0)
            value = data
        if value is None:
            raise OSError("the row holds no image")
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
            except Exception as error:  # pyarrow's, and what the place raises
                if isinstance(error, OSError) and not self._is_local(group):
                    raise  # the line may be better the next time
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
        return self._files[file].pieces(self._image, index)

    def _hold(self, group: int, start: int, piece: pa.Array) -> None:
        self._held[group, start] = piece
        while len(self._held) > 2 and sum(p.nbytes for p in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)

    def close(self) -> None:
        with self._lock:
            self._held.clear()
            self._readers.clear()


def first_values(file: ParquetRows | ArrowRows, column: str) -> list[bytes | None]:
    for group in range(len(file.groups(column))):
        for piece in file.pieces(column, group):
            values = [value.as_py() for value in piece[:16]]
            return [v.get("bytes") if isinstance(v, dict) else v for v in values]
    return []


def features_of_folder(folder: Location) -> dict[str, Any]:
    features = read_json(folder.child("dataset_info.json")).get("features")
    return features if isinstance(features, dict) else {}


def distinct_names(files: list[Location]) -> list[str]:
    """The files' names; where two are the same, with as many folders as tell them apart."""
    paths = [str(file).split("/") for file in files]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{i}/{file.name}" for i, file in enumerate(files)]
