"""Where a Parquet file's columns are, and what their pages claim, before pyarrow decodes them.

A page's header says how many bytes it unpacks to, and pyarrow allocates them on its word: one
changed byte takes 2 GB. So footer and page headers are read here first, in Thrift's compact
protocol. Formats: github.com/apache/parquet-format (parquet.thrift) and
github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from data_tools.location import Location

MARK = b"PAR1"
# Some thousand row groups of some columns take 2 MB.
MOST_FOOTER = 16 << 20
MOST_DEPTH = 16
# A page of images packs to about its size. What unpacks to more than MOST_PAGE, and to more than
# MOST_RATIO times its size, is no page of images.
MOST_PAGE, MOST_RATIO = 64 << 20, 20
# Values of a repeated column per byte that its pages unpack to: 1-bit dictionary codes.
VALUES_A_BYTE = 8
# Of a dictionary of more entries no image or class name is looked for.
MOST_ENTRIES = 1 << 20
HEADER_BYTES, MOST_HEADER = 4096, 16 << 20
BOOLS, INTEGERS, DOUBLE, BINARY, LISTS, MAP, STRUCT = (1, 2), (3, 4, 5, 6), 7, 8, (9, 10), 11, 12
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
BYTE_ARRAY = 6
UNCOMPRESSED = 0
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
DICTIONARY_CODES, DELTA_BYTE_ARRAY = (2, 8), 7


class Chunk(NamedTuple):
    """One column of one row group."""

    column: str
    """The name of the column at the top, which may have several chunks."""
    type: int
    codec: int
    values: int
    start: int
    size: int


class Compact:
    """A reader of Thrift's compact protocol. Raises ValueError or IndexError for damage."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        self._forward(size)
        return self.data[self.at - size : self.at]

    def fields(self) -> Iterator[tuple[int, int]]:
        """(field id, type) of a struct; its value must be read or skipped before the next."""
        field = 0
        while head := self.data[self.at]:
            self.at += 1
            step, kind = head >> 4, head & 15
            field = field + step if step else self.integer()
            yield field, kind
        self.at += 1

    def items(self) -> tuple[int, int]:
        """(number, type) of a list's items."""
        head = self.data[self.at]
        self.at += 1
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self.varint()
        if count > len(self.data) - self.at:
            raise ValueError(f"a list that claims {count} items")
        return count, kind

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > MOST_DEPTH:
            raise ValueError("nested too deep")
        if kind in BOOLS:
            pass
        elif kind == 3:
            self._forward(1)
        elif kind in INTEGERS:
            self.varint()
        elif kind == DOUBLE:
            self._forward(8)
        elif kind == BINARY:
            self._forward(self.varint())
        elif kind in LISTS:
            count, kind = self.items()
            for _ in range(count):
                self._skip_item(kind, depth)
        elif kind == MAP:
            count = self.varint()
            kinds = self.data[self.at] if count else 0
            self.at += count > 0
            for _ in range(count):
                self._skip_item(kinds >> 4, depth)
                self._skip_item(kinds & 15, depth)
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError(f"a field of the unknown type {kind}")

    def _skip_item(self, kind: int, depth: int) -> None:
        # In a list a truth value takes a byte; as a field it is in the type.
        if kind in BOOLS:
            self._forward(1)
        else:
            self.skip(kind, depth + 1)

    def _forward(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends too early")

    def integers(self, inner: dict[int, tuple[int, ...]]) -> dict[tuple[int, ...], int]:
        """The integer fields of a struct by (field,), and of the structs `inner` by (field, field).
        """
        found: dict[tuple[int, ...], int] = {}
        for field, kind in self.fields():
            if kind in INTEGERS and kind != 3:
                found[field,] = self.integer()
            elif kind == STRUCT and field in inner:
                for below, kind in self.fields():
                    if below in inner[field] and kind in INTEGERS and kind != 3:
                        found[field, below] = self.integer()
                    else:
                        self.skip(kind)
            else:
                self.skip(kind)
        return found


def read_chunks(location: Location) -> list[list[Chunk]]:
    """The columns of each row group. Raises ValueError for a damaged footer, OSError as reading."""
    size = location.size()
    tail = location.pread(8, max(0, size - 8))
    if tail[4:] == b"PARE":
        raise ValueError("it is encrypted")
    if tail[4:] != MARK or size < 12:
        raise ValueError("its end is missing")
    length = struct.unpack("<I", tail[:4])[0]
    if not 0 < length <= min(size - 12, MOST_FOOTER):
        raise ValueError(f"its footer claims {length} bytes")
    reader = Compact(location.pread(length, size - 8 - length))
    groups: list[list[Chunk]] = []
    try:
        for field, kind in reader.fields():
            if field == 4 and kind in LISTS:
                groups = [read_group(reader, size) for _ in range(reader.items()[0])]
            else:
                reader.skip(kind)
    except IndexError:
        raise ValueError("its footer ends too early") from None
    if len({len(group) for group in groups}) > 1:
        raise ValueError("its row groups differ in their columns")
    return groups


def read_group(reader: Compact, size: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    for field, kind in reader.fields():
        if field == 1 and kind in LISTS:
            chunks = [read_chunk(reader, size) for _ in range(reader.items()[0])]
        else:
            reader.skip(kind)
    return chunks


def read_chunk(reader: Compact, size: int) -> Chunk:
    chunk = None
    for field, kind in reader.fields():
        if field == 3 and kind == STRUCT:
            chunk = read_place(reader, size)
        else:
            reader.skip(kind)
    if chunk is None:
        raise ValueError("a column without its place")
    return chunk


def read_place(reader: Compact, size: int) -> Chunk:
    """A ColumnMetaData. size: the file's bytes, in which it must be."""
    names: list[bytes] = []
    found: dict[int, int] = {}
    for field, kind in reader.fields():
        if field == 3 and kind in LISTS:
            count, kind = reader.items()
            if kind != BINARY:
                raise ValueError("a column without a name")
            names = [reader.binary() for _ in range(count)]
        elif kind in INTEGERS and kind != 3:
            found[field] = reader.integer()
        else:
            reader.skip(kind)
    if not names or not {1, 4, 5, 7, 9} <= found.keys():
        raise ValueError("a column without its place")
    # A dictionary, if there is one, is before the data.
    start = found[9] if found.get(11, 0) <= 0 else min(found[9], found[11])
    if (start < len(MARK) and found[5]) or found[7] < 0 or found[5] < 0 or start + found[7] > size:
        raise ValueError(f"a column at byte {start} with {found[7]} bytes, in {size}")
    column = names[0].decode("utf-8", "replace")
    return Chunk(column, found[1], found[4], found[5], start, found[7])


def longest_value(location: Location, chunk: Chunk, repeated: bool) -> int:
    """About the most bytes that a value of a column decodes to; 1 if all are numbers.

    Of plain values it is the greatest mean of a page, of a dictionary its longest entry, and the
    page itself if values share their beginnings. repeated: the column holds lists. Raises
    ValueError for pages that claim to hold more than they can.
    """
    longest, values, unpacked, coded = 1, 0, 0, 0
    dictionary = (0, 0, 0, 0)
    at, end = chunk.start, chunk.start + chunk.size
    while at < end and values < chunk.values:
        head, length = read_header(location, at, end)
        kind, full, packed = (head.get((i,), -1) for i in (1, 2, 3))
        at += length
        check_page(full, packed, end - at, chunk.codec)
        unpacked += full
        if kind == DICTIONARY_PAGE:
            dictionary = at, packed, full, head.get((7, 1), -1)
        elif kind in (DATA_PAGE, DATA_PAGE_V2):
            count, encoding = (8, 1), (8, 4)
            if kind == DATA_PAGE:
                count, encoding = (5, 1), (5, 2)
            if head.get(count, -1) < 0:
                raise ValueError(f"a page without values at byte {at}")
            values += head[count]
            if head.get(encoding) in DICTIONARY_CODES:
                coded += head[count]
            elif head.get(encoding) == DELTA_BYTE_ARRAY:
                longest = max(longest, full)
            elif chunk.type == BYTE_ARRAY and head[count]:
                longest = max(longest, full // head[count])
        at += packed
    if repeated and (values > VALUES_A_BYTE * unpacked + (1 << 16)
                     or unpacked > max(MOST_PAGE, MOST_RATIO * chunk.size)):
        raise ValueError(f"{values} values in {chunk.size} bytes")
    # Below this the longest entry doesn't matter; images of more than 6 KB seldom come above it.
    if chunk.type == BYTE_ARRAY and coded * dictionary[2] > 3 * MOST_PAGE:
        longest = max(longest, longest_entry(location, chunk.codec, *dictionary))
    return longest


def check_page(full: int, packed: int, left: int, codec: int) -> None:
    """Raises ValueError for a page of `packed` bytes that claims to unpack to `full` too many."""
    if not 0 <= packed <= left or full < 0:
        raise ValueError(f"a page claims {packed} bytes of {left}")
    if full > max(MOST_PAGE, MOST_RATIO * packed):
        raise ValueError(f"a page of {packed} bytes claims to unpack to {full}")
    if codec == UNCOMPRESSED and full != packed:
        raise ValueError(f"a page of {packed} bytes claims {full}")


def read_header(location: Location, at: int, end: int) -> tuple[dict[tuple[int, ...], int], int]:
    """A page header's integers (Compact.integers), and its length."""
    size = HEADER_BYTES
    while True:
        reader = Compact(location.pread(min(size, end - at), at))
        try:
            return reader.integers({5: (1, 2), 7: (1,), 8: (1, 4)}), reader.at
        except (IndexError, ValueError):
            # Statistics in it may be long.
            if size >= min(end - at, MOST_HEADER):
                raise ValueError(f"no page at byte {at}") from None
            size *= 64


def longest_entry(
    location: Location, codec: int, at: int, packed: int, full: int, entries: int
) -> int:
    """The longest value of a dictionary page of byte arrays: each is its length, and itself."""
    import pyarrow as pa

    known = codec in CODECS and pa.Codec.is_available(CODECS[codec])
    if not 0 <= entries <= MOST_ENTRIES or not (known or codec == UNCOMPRESSED):
        return full
    data = location.pread(packed, at)
    if known:
        data = pa.Codec(CODECS[codec]).decompress(data, full, asbytes=True)
    longest = place = 0
    while place + 4 <= len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        longest = max(longest, size)
        place += 4 + size
    return min(longest, full)
