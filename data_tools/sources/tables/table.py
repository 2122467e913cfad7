"""Lists of images and labels: CSV, TSV and JSON lines.

Paths are relative to the list's folder, or absolute, or URLs. The order is the list's.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from array import array
from collections import Counter

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import LABEL_NAMES, BadLabel, holds_bytes, shown, text_labels
from data_tools.sources.location import Location, is_url
from data_tools.sources.tables.list_rows import (
    JSON_SUFFIXES,
    PATH_NAMES,
    ListRows,
    Row,
    read_cells,
    read_json_lines,
)
from data_tools.sources.tables.listed import BACKSLASHES, REMOTE_BYTES, read_listed, with_slashes
from data_tools.sources.tables.splits import check_splits, wanted_splits

SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES)
# Recognised only to give the reason: a compressed list must be unpacked first.
PACKED_SUFFIXES = tuple(s + end for s in SUFFIXES for end in (".gz", ".bz2", ".xz", ".zst"))
# Names of the lists in Hugging Face's image folders.
METADATA = ("metadata.csv", "metadata.jsonl")


def recognises(location: Location) -> bool:
    """True for a list by its name, and for a folder with Hugging Face's list that has labels."""
    try:
        if location.is_dir():
            return find_metadata(location) is not None
        name = location.name.lower()
        return name.endswith(SUFFIXES + PACKED_SUFFIXES) and location.is_file()
    except (OSError, UserError, ValueError):
        return False


def open(location: Location, split: str = "") -> TableSource:
    """Opens a list. split: keep only the rows with this value in the column of splits.

    Raises UserError, with the number of the line, for a list that is damaged or names an image
    twice, and for several splits of which none is chosen.
    """
    if not location.is_dir():
        return TableSource(location, split)
    found = find_metadata(location)
    if found is None:
        raise UserError(f"{location}: holds no {' or '.join(METADATA)} with labels")
    return TableSource(found, split)


def find_metadata(folder: Location) -> Location | None:
    """The list of labels in a folder; None if there is none, or only one without labels."""
    names = folder.names()
    for name in METADATA:
        if name in names:
            place = folder.child(name)
            first = next(read_json_lines(place) if name.endswith("l") else read_cells(place), None)
            columns = {cell.lower() for cell in (first[1] if first else [])}
            if columns & set(PATH_NAMES) and columns & set(LABEL_NAMES):
                return place
    return None


class TableSource:
    """The images that a list names. A missing file is quarantined when it is read."""

    ignored = 0

    def __init__(self, location: Location, split: str = "") -> None:
        self.name = location.name
        self.notes: list[str] = []
        self._location, self._folder = location, location.parent
        rows = ListRows(location)
        digest = hashlib.sha256()
        names = {"": -1}
        codes, counts = self._read(rows, split, names, digest)
        self.labels, self.classes = self._number(rows, codes, list(names)[1:], counts)
        self.sizes = self._measure(digest)
        if split:
            digest.update(f"#{split}".encode("utf-8", "surrogateescape"))
        self.fingerprint = digest.hexdigest()
        form = "JSON" if rows.is_json else "CSV or TSV"
        self.kind = f"{form} list" + (f", split {split}" if split else "")

    def _read(
        self, rows: ListRows, split: str, names: dict[str, int], digest: hashlib._Hash
    ) -> tuple[np.ndarray, Counter[str]]:
        """Reads the list and sets the keys. Fills `names` with the labels.

        Returns the position in `names` of each image's label, and the number of rows by label. The
        rows of other splits count too, so that all splits of a list number the classes alike.
        """
        wanted = wanted_splits(split) if split else None
        seen: dict[str, int] = {}
        codes = array("q")
        splits: Counter[str] = Counter()
        twice: tuple[Row, int] | None = None
        others: Counter[str] = Counter()
        urls: dict[str, str] = {}
        for row in rows:
            code = names.setdefault(row.label, len(names) - 1)
            if rows.split:
                splits[row.split] += 1
                if wanted is not None and row.split.lower() not in wanted:
                    others[row.label] += 1
                    continue
            if is_url(row.path):
                key = row.path
                urls.setdefault(key.partition(":")[0], key)
            else:
                key = posixpath.normpath(row.path)
            line = seen.setdefault(key, row.line)
            if line != row.line:
                twice = twice or (row, line)
                if not rows.split:
                    break
                continue
            codes.append(code)
            digest.update(repr((key, row.label)).encode("utf-8", "surrogateescape"))
        # Before the error about an image that is listed twice: it may be once in each split.
        check_splits(self._location, rows.split, splits, split)
        if twice is not None:
            row, line = twice
            raise UserError(f"{self._location}: line {row.line}: {row.path} is listed already in "
                            f"line {line}; list each image once")
        if not seen:
            raise UserError(f"{self._location}: lists no images")
        for url in urls.values():
            Location(url).check_package()
        self.keys = list(seen)
        found = np.frombuffer(codes, np.int64)
        held = np.bincount(found + 1, minlength=len(names)).tolist()
        return found, others + Counter(dict(zip(["", *list(names)[1:]], held, strict=True)))

    def _number(
        self, rows: ListRows, codes: np.ndarray, names: list[str], counts: Counter[str]
    ) -> tuple[np.ndarray, list[str]]:
        """Labels and classes, from each image's position in the names; -1 for no label."""
        if not names:
            self.notes.append(f"no labels: the column {rows.label} is empty" if rows.label else
                              "no labels: no column is named label")
            self.minus_ones = np.zeros(len(codes), np.bool_)
            return codes.copy(), []
        try:
            labels, classes, notes = text_labels(names, [counts[name] for name in names])
        except BadLabel as error:
            raise UserError(f"{self._location}: {error}") from None
        self.notes += notes
        found = np.append(labels, -1)[codes]
        self.minus_ones = (found < 0) & (codes >= 0)
        return found, classes

    def _measure(self, digest: hashlib._Hash) -> np.ndarray:
        """Sizes of the files, int64 [N]; 0 for missing files. Adds sizes and times to the digest.
        """
        if self._folder.local is None:
            first = next((key for key in self.keys if "\\" in key), "")
            if with_slashes(self._folder, first):
                self.notes.append(BACKSLASHES)
            return np.full(len(self.keys), REMOTE_BYTES)
        folder = str(self._folder.local)
        sizes = np.zeros(len(self.keys), np.int64)
        missing = ""
        not_utf8: list[str] = []
        turned = False
        for i, key in enumerate(self.keys):
            if is_url(key):
                sizes[i] = REMOTE_BYTES
                continue
            try:
                status = os.stat(os.path.join(folder, key))
            except (OSError, ValueError):
                other = with_slashes(self._folder, key)
                if not other:
                    missing = missing or key
                    # Only missing files count: bytes that name a file on the disk are right.
                    not_utf8 += [key] if holds_bytes(key) else []
                    continue
                turned, self.keys[i] = True, other
                status = os.stat(os.path.join(folder, other))
            sizes[i] = status.st_size
            digest.update(b"%d %d;" % (status.st_size, int(status.st_mtime)))
        if not sizes.any():
            raise UserError(f"{self._location}: none of its files exists, like "
                            f"{missing or key}; paths must be absolute, or relative to {folder}")
        if not_utf8:
            many = len(not_utf8) > 1
            words = "paths are not UTF-8 and name" if many else "path is not UTF-8 and names"
            self.notes.append(f"warning: {len(not_utf8):,} {words} no file, like "
                              f"{shown(not_utf8[0])}: save the list as UTF-8")
        if turned:
            self._turn_backslashes()
        return sizes

    def _turn_backslashes(self) -> None:
        self.notes.append(BACKSLASHES)
        if len(set(self.keys)) < len(self.keys):
            key, _ = Counter(self.keys).most_common(1)[0]
            raise UserError(f"{self._location}: {key} is listed twice, once with \\ as the "
                            "separator; list each image once")

    def read(self, i: int) -> bytes:
        return read_listed(self._folder, self.keys[i], int(self.sizes[i]))

    def close(self) -> None:
        pass
