"""Checks a Parquet file's columns and the claims of their pages, before pyarrow decodes them.

A page's header says how many bytes the page unpacks to, and pyarrow allocates that many without a
check: one changed byte takes 2 GB. So footer and page headers are read here first, in Thrift's
compact protocol. Formats: github.com/apache/parquet-format (parquet.thrift) and
github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from data_tools.sources.tables.thrift import LISTS, STRUCT, Compact

if TYPE_CHECKING:
    from data_tools.sources.location import Location

MARK = b"PAR1"
# Most bytes of a footer. Some thousand row groups of some columns take 2 MB.
MOST_FOOTER = 16 << 20
# Images hardly shrink when packed. A page that unpacks to more than MOST_PAGE, and to more than
# MOST_RATIO times its size, holds no images.
MOST_PAGE, MOST_RATIO = 64 << 20, 20
# Most values of a repeated column per unpacked byte of its pages: dictionary codes of 1 bit.
VALUES_A_BYTE = 8
# Most entries of a dictionary that are measured one by one.
MOST_ENTRIES = 1 << 20
HEADER_BYTES, MOST_HEADER = 4096, 16 << 20
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
UNCOMPRESSED = 0
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
DICTIONARY_CODES, DELTA_BYTE_ARRAY = (2, 8), 7


class Chunk(NamedTuple):
    """One column of one row group."""

    codec: int
    values: int
    start: int
    size: int


def read_chunks(location: Location) -> list[list[Chunk]]:
    """The columns of each row group. Raises ValueError for a damaged footer, and OSError."""
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
    """The columns of a RowGroup. size: bytes of the file."""
    chunks: list[Chunk] = []
    for field, kind in reader.fields():
        if field == 1 and kind in LISTS:
            chunks = [read_chunk(reader, size) for _ in range(reader.items()[0])]
        else:
            reader.skip(kind)
    return chunks


def read_chunk(reader: Compact, size: int) -> Chunk:
    """A ColumnChunk. size: bytes of the file."""
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
    """A ColumnMetaData. size: bytes of the file, inside which the column must be."""
    found = {field: value for (field,), value in reader.integers({}).items()}
    if not {4, 5, 7, 9} <= found.keys():
        raise ValueError("a column without its place")
    # A dictionary, if there is one, is before the data.
    start = found[9] if found.get(11, 0) <= 0 else min(found[9], found[11])
    if (start < len(MARK) and found[5]) or found[7] < 0 or found[5] < 0 or start + found[7] > size:
        raise ValueError(f"a column at byte {start} with {found[7]} bytes, in {size}")
    return Chunk(found[4], found[5], start, found[7])


def longest_value(
    location: Location, chunk: Chunk, *, is_bytes: bool, repeated: bool, entries: bool
) -> int:
    """Approximate bytes of the largest value of a column; 1 if all are numbers.

    For plain values this is the greatest mean of a page, for a dictionary its longest entry, and
    for values that share prefixes the whole page. is_bytes: the schema says that values are byte
    arrays. repeated: the column holds lists. entries: entries of the dictionary count too.
    Raises ValueError for pages that claim to hold more than they can.
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
            elif is_bytes and head[count]:
                longest = max(longest, full // head[count])
        at += packed
    if repeated and (values > VALUES_A_BYTE * unpacked + (1 << 16)
                     or unpacked > max(MOST_PAGE, MOST_RATIO * chunk.size)):
        raise ValueError(f"{values} values in {chunk.size} bytes")
    # Reading the dictionary costs time, so only if its entries could unpack to too much. Images of
    # more than 6 KB seldom reach this bound.
    if entries and is_bytes and coded * dictionary[2] > 3 * MOST_PAGE:
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
            # The header may be longer, because it holds statistics.
            if size >= min(end - at, MOST_HEADER):
                raise ValueError(f"no page at byte {at}") from None
            size *= 64


def longest_entry(
    location: Location, codec: int, at: int, packed: int, full: int, entries: int
) -> int:
    """The longest value of a dictionary page of byte arrays, in which each follows its length.

    If the page can't be unpacked here, this is the whole page.
    """
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
