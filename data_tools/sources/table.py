"""Lists of images and labels: CSV, TSV and JSON lines.

Columns are found by their names; a CSV or TSV without a header holds path and label, or only paths.
Paths are relative to the list's folder, or absolute. The order is the list's.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import posixpath
import re
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.regular import read_regular
from data_tools.sources.rows import LABEL_NAMES, number_labels

if TYPE_CHECKING:
    from data_tools.location import Location

PATH_NAMES = (
    "path", "file", "file_name", "filename", "image", "image_path", "filepath", "file_path",
    "img", "img_path", "image_file",
)
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# Lists of Hugging Face's image folders.
METADATA = ("metadata.csv", "metadata.jsonl")
LINE_BYTES = 1 << 20
# Of files in remote places: asking for each one's size would take longer than to prepare it.
REMOTE_BYTES = 100_000
# Not 007: that is a name.
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")


class Row(NamedTuple):
    line: int
    path: str
    label: str
    """Empty: unlabelled."""


def recognises(location: Location) -> bool:
    """True for a list by its name, and for a folder with Hugging Face's list that has labels."""
    try:
        if location.is_dir():
            return find_metadata(location) is not None
        return location.name.lower().endswith(SUFFIXES) and b"\0" not in location.pread(4096, 0)
    except (OSError, UserError, ValueError):
        return False


def open(location: Location) -> TableSource:
    """Raises UserError, with the line's number, for what is no list of distinct images."""
    if not location.is_dir():
        return TableSource(location)
    found = find_metadata(location)
    if found is None:
        raise UserError(f"{location}: holds no {' or '.join(METADATA)} with labels")
    return TableSource(found)


def find_metadata(folder: Location) -> Location | None:
    """The list of labels in a folder; None where there is none, or one of other things."""
    names = folder.names()
    for name in METADATA:
        if name in names:
            place = folder.child(name)
            with_label = next(read_json_lines(place) if name.endswith("l") else read_cells(place),
                              None)
            columns = {cell.lower() for cell in (with_label[1] if with_label else [])}
            if columns & set(PATH_NAMES) and columns & set(LABEL_NAMES):
                return place
    return None


class TableSource:
    """The images that a list names. A file that isn't there is quarantined when it is read."""

    ignored = 0

    def __init__(self, location: Location) -> None:
        self.name = location.name
        self.notes: list[str] = []
        self._folder = location.parent
        is_json = location.name.lower().endswith((".jsonl", ".ndjson"))
        seen: dict[str, int] = {}
        codes, names = array("q"), {"": -1}
        digest = hashlib.sha256()
        for row in (json_rows if is_json else cell_rows)(location):
            key = row.path if "://" in row.path else posixpath.normpath(row.path)
            if key in seen:
                raise UserError(f"{location}: line {row.line}: {row.path} is listed already in "
                                f"line {seen[key]}; list each image once")
            seen[key] = row.line
            codes.append(names.setdefault(row.label, len(names) - 1))
            digest.update(repr((key, row.label)).encode("utf-8", "surrogateescape"))
        if not seen:
            raise UserError(f"{location}: lists no images")
        self.keys = list(seen)
        del seen
        self.labels, self.classes = self._number(np.frombuffer(codes, np.int64), list(names)[1:])
        self.sizes = self._measure(location, digest)
        self.fingerprint = digest.hexdigest()
        self.kind = f"{'JSON' if is_json else 'CSV or TSV'} list"

    def _number(self, codes: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
        """Labels and classes, from each row's place in the names as they came; -1: none."""
        if not names:
            self.notes.append("no labels: no column is named label")
            return codes.copy(), []
        if all(WHOLE.fullmatch(name) for name in names):
            values = np.array([*map(int, names), -1], np.int64)
            labels, classes, note = number_labels(values[codes])
            self.notes += [note] if note else []
            return labels, classes
        place = {name: i for i, name in enumerate(sorted(names))}
        table = np.array([*(place[name] for name in names), -1], np.int64)
        return table[codes], sorted(names)

    def _measure(self, location: Location, digest: hashlib._Hash) -> np.ndarray:
        """The files' bytes, int64 [N]; 0 for those that aren't there."""
        if self._folder.local is None:
            return np.full(len(self.keys), REMOTE_BYTES)
        folder = str(self._folder.local)
        sizes = np.zeros(len(self.keys), np.int64)
        missing = ""
        for i, key in enumerate(self.keys):
            if "://" in key:
                sizes[i] = REMOTE_BYTES
                continue
            try:
                status = os.stat(os.path.join(folder, key))
            except (OSError, ValueError):
                missing = missing or key
                continue
            sizes[i] = status.st_size
            digest.update(b"%d %d;" % (status.st_size, int(status.st_mtime)))
        if not sizes.any():
            raise UserError(f"{location}: none of its files is there, like {missing or key}; "
                            f"paths must be absolute, or relative to {folder}")
        return sizes

    def read(self, i: int) -> bytes:
        key = self.keys[i]
        if "://" in key:
            place = type(self._folder)(key)
        elif self._folder.local is not None:
            return read_regular(os.path.join(self._folder.local, key), int(self.sizes[i]))
        else:
            place = self._folder.child(key)
        return place.pread(place.size(), 0)

    def close(self) -> None:
        pass


def lines(location: Location) -> Iterator[str]:
    """The lines, with their ends. Bytes that are not UTF-8 stay as surrogate escapes."""
    with location.open() as file:
        first = True
        while line := file.readline(LINE_BYTES):
            if len(line) == LINE_BYTES:
                raise UserError(f"{location}: a line of more than {LINE_BYTES} bytes; "
                                "give a list with one image a line")
            if first and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError(f"{location}: is UTF-16; save it as UTF-8")
            if b"\0" in line:
                raise UserError(f"{location}: is no text; give a CSV, TSV or JSON list")
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line).decode(
                "utf-8", "surrogateescape")
            first = False


def read_cells(location: Location) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV or TSV that are not blank, with the number of their (last) line."""
    source = lines(location)
    head = next(source, "")
    delimiter = "\t" if location.name.lower().endswith(".tsv") or "\t" in head else (
        ";" if ";" in head and "," not in head else ",")

    def all_lines() -> Iterator[str]:
        yield head
        yield from source

    reader = csv.reader(all_lines(), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{location}: line {reader.line_num}: {error}; correct it") from None


def cell_rows(location: Location) -> Iterator[Row]:
    rows = read_cells(location)
    line, first = next(rows, (0, []))
    names = [cell.lower() for cell in first]
    path = find_column(names, PATH_NAMES)
    label = find_column(names, LABEL_NAMES)
    width = len(first)
    headless = path < 0
    if headless:
        path_like = bool(first) and ("." in first[0] or "/" in first[0])
        if first and (label >= 0 or width > 2 or not path_like):
            raise UserError(f"{location}: line {line}: no column is called path or file_name; "
                            f"its columns are {', '.join(first)[:200]}")
        path, label = 0, (1 if width == 2 else -1)
        if first:
            yield Row(line, first[0], first[1] if width == 2 else "")
    for line, cells in rows:
        if len(cells) != width and (len(cells) > width or len(cells) <= max(path, label)):
            raise UserError(f"{location}: line {line}: has {len(cells)} columns where {width} "
                            "must be; quote what has a separator in it")
        if not cells[path]:
            raise UserError(f"{location}: line {line}: names no file")
        yield Row(line, cells[path], cells[label] if label >= 0 else "")


def find_column(names: list[str], wanted: tuple[str, ...]) -> int:
    return next((names.index(name) for name in wanted if name in names), -1)


def read_json_lines(location: Location) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(lines(location), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{location}: line {number}: no JSON object; correct it")
        yield number, row


def json_rows(location: Location) -> Iterator[Row]:
    path = label = ""
    for number, row in read_json_lines(location):
        names = {name.lower(): name for name in row}
        path = path or next((names[name] for name in PATH_NAMES if name in names), "")
        # The first lines may be of unlabelled images.
        label = label or next((names[name] for name in LABEL_NAMES if name in names), "")
        place, value = row.get(path), row.get(label) if label else None
        if not isinstance(place, str) or not place:
            raise UserError(f"{location}: line {number}: names no file; each line needs a "
                            "path or file_name")
        if value is not None and not isinstance(value, (str, int, float)):
            raise UserError(f"{location}: line {number}: the label is neither a name nor a number")
        if isinstance(value, (bool, float)) and value == value and int(value) == value:
            value = int(value)
        yield Row(number, place, "" if value is None else str(value))
