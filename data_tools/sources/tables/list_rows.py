"""The rows of a list of images in CSV, TSV or JSON lines, each with its path, label and split.

Columns are found by their names; a CSV or TSV without a header holds path and label, or only paths.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from data_tools.errors import UserError
from data_tools.label_values import LABEL_NAMES, BadLabel, is_storable, whole_number
from data_tools.sources.tables.splits import SPLIT_COLUMNS

if TYPE_CHECKING:
    from data_tools.sources.location import Location

PATH_NAMES = (
    "path", "file", "file_name", "filename", "image", "image_path", "filepath", "file_path",
    "img", "img_path", "image_file", "img_file", "image_filename", "image_name", "url",
    "image_url", "img_url", "uri", "image_uri",
)
JSON_SUFFIXES = (".jsonl", ".ndjson")
LINE_BYTES = 1 << 20
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\3\4")
UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


class Row(NamedTuple):
    """One image in a list."""

    line: int
    path: str
    label: str
    """Empty for an image without a label."""
    split: str
    """Empty if the list has no column of splits, or if this cell is empty."""


class ListRows:
    """The rows of a list, in order. Raises UserError, with the number of the line, for bad ones."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.is_json = location.name.lower().endswith(JSON_SUFFIXES)
        self.path = self.label = self.split = ""
        """Names of the columns: empty before they are found, and if the list has none."""

    def __iter__(self) -> Iterator[Row]:
        return self._of_objects() if self.is_json else self._of_cells()

    def _fail(self, line: int, reason: str) -> NoReturn:
        raise UserError(f"{self.location}: line {line}: {reason}")

    def _of_cells(self) -> Iterator[Row]:
        rows = read_cells(self.location)
        line, first = next(rows, (0, []))
        path, label, split = self._header(line, first)
        width = len(first)
        if path < 0 and first:
            path, label = 0, (1 if width == 2 else -1)
            self.label = "2" if width == 2 else ""
            yield Row(line, first[0], first[1] if width == 2 else "", "")
        least = max(path, label, split)
        for line, cells in rows:
            if len(cells) != width and (len(cells) > width or len(cells) <= least):
                self._fail(line, f"has {len(cells)} columns where {width} must be; quote what has "
                                 "a separator in it")
            if not cells[path]:
                self._fail(line, "names no file")
            yield Row(line, cells[path], cells[label] if label >= 0 else "",
                      cells[split] if split >= 0 else "")

    def _header(self, line: int, cells: Sequence[str]) -> tuple[int, int, int]:
        """The positions of path, label and split, by the first row; -1 for none.

        If no column is a path, the row is no header but the first image.
        """
        self._find(line, cells)
        places = [cells.index(name) if name else -1 for name in (self.path, self.label, self.split)]
        if not self.path and cells:
            path_like = "." in cells[0] or "/" in cells[0] or "\\" in cells[0]
            if self.label or len(cells) > 2 or not path_like:
                self._fail(line, "no column is called path or file_name; its columns are "
                                 f"{', '.join(cells)[:200]}")
            return -1, -1, -1
        return places[0], places[1], places[2]

    def _find(self, line: int, names: Iterable[str]) -> None:
        """Looks for the columns that are not known yet among the names."""
        lower: dict[str, list[str]] = {}
        for name in names:
            lower.setdefault(name.lower(), []).append(name)
        self.path = self.path or self._column(line, lower, PATH_NAMES)
        self.label = self.label or self._column(line, lower, LABEL_NAMES)
        self.split = self.split or self._column(line, lower, SPLIT_COLUMNS)

    def _column(self, line: int, lower: dict[str, list[str]], wanted: Sequence[str]) -> str:
        found = next((lower[name] for name in wanted if name in lower), [""])
        if len(found) > 1:
            self._fail(line, f"{len(found)} columns are called {found[0]}; keep one of them")
        return found[0]

    def _of_objects(self) -> Iterator[Row]:
        known: object = None
        for line, row in read_json_lines(self.location):
            # Every line may have other keys: the first images may lack a label or a split.
            if row.keys() != known:
                known = row.keys()
                self._find(line, row)
            path, split = row.get(self.path), row.get(self.split)
            if not isinstance(path, str) or not path:
                self._fail(line, "names no file; each line needs a path or file_name")
            if not is_storable(path):
                self._fail(line, "the path holds a NUL or a lone surrogate; correct it")
            if split is not None and not isinstance(split, str | int):
                self._fail(line, f"{self.split} is neither a name nor a number")
            label = self._label_of(line, row.get(self.label))
            yield Row(line, path, label, "" if split is None else str(split))

    def _label_of(self, line: int, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if not isinstance(value, int | float):
            self._fail(line, "the label is neither a name nor a number")
        try:
            # NaN is unlabelled; -1 as a number is too.
            return "" if value != value else str(whole_number(value))
        except BadLabel as error:
            self._fail(line, str(error))


def lines(location: Location) -> Iterator[str]:
    """The lines, with their line ends. Bytes that are not UTF-8 become surrogate escapes.

    Raises UserError for a compressed list, another encoding, and a line without an end.
    """
    with location.open() as file:
        head = file.readline(LINE_BYTES)
        if head.startswith(PACKED):
            raise UserError(f"{location}: is compressed; unpack it first")
        if head.startswith(UTF_16_OR_32):
            raise UserError(f"{location}: is UTF-16 or UTF-32; save it as UTF-8")
        if b"\r" in head.rstrip(b"\r\n"):
            yield from lines_with_returns(location)
            return
        file.seek(0)
        first = True
        while line := file.readline(LINE_BYTES):
            check_line(location, len(line), b"\0" in line)
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line).decode(
                "utf-8", "surrogateescape")
            first = False


def check_line(location: Location, length: int, has_nul: bool) -> None:
    """Raises UserError for a line that is too long, or that holds a NUL."""
    if length == LINE_BYTES:
        raise UserError(f"{location}: a line of more than {LINE_BYTES} bytes; "
                        "give a list with one image per line")
    if has_nul:
        raise UserError(f"{location}: is no text, or no UTF-8: it holds NUL bytes; "
                        "give a CSV, TSV or JSON list in UTF-8")


def lines_with_returns(location: Location) -> Iterator[str]:
    """The lines of a list whose lines end in a carriage return, as on old Macs."""
    with io.TextIOWrapper(location.open(), "utf-8-sig", "surrogateescape") as file:
        while line := file.readline(LINE_BYTES):
            check_line(location, len(line), "\0" in line)
            yield line


def read_cells(location: Location) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV or TSV that are not blank, each with the number of its (last) line."""
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
        if "new-line character" in str(error):
            raise UserError(f"{location}: line {reader.line_num}: a carriage return in the middle "
                            "of a line; end all lines alike") from None
        raise UserError(f"{location}: line {reader.line_num}: {error}; correct it") from None


def read_json_lines(location: Location) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list of JSON lines, each with the number of its line."""
    decode = json.JSONDecoder(object_pairs_hook=distinct).decode
    for number, line in enumerate(lines(location), 1):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except RecursionError:
            raise UserError(f"{location}: line {number}: no JSON object, but one nested too deep; "
                            "correct it") from None
        except ValueError as error:
            if number == 1 and line.lstrip().startswith("["):
                row = []  # the first line of an array that spans many lines
            else:
                reason = getattr(error, "msg", str(error)).split(";")[0][:200]
                raise UserError(f"{location}: line {number}: no JSON object: {reason}; "
                                "correct it") from None
        if not isinstance(row, dict):
            array = ", but an array" if isinstance(row, list) else ""
            raise UserError(f"{location}: line {number}: no JSON object{array}; write one object "
                            "a line")
        yield number, row


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that occurs twice: json would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:40]} occurs twice in it")
    return found
