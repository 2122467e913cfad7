"""Reads the directories of a TIFF (TIFF 6.0, BigTIFF): its pages and their kinds.

    header        II or MM, 42, offset of the first directory
    directory     count, then per tag: number, type, count of values, the values or their offset;
                  at the end, the offset of the next directory, or 0

A directory describes one page. A hostile file could link directories in a loop, so each is read
once, and a file whose tags claim more bytes than it has is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from data_tools.images.bad_image import BadImage

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER = 266
MAKE, STRIPS, SAMPLES, PLANES, TILE_WIDTH, TILE_LENGTH, TILES = 271, 273, 277, 284, 322, 323, 324
SUB_DIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 330, 338, 339, 50706
READ = frozenset((
    SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, MAKE, STRIPS, SAMPLES,
    PLANES, TILE_WIDTH, TILE_LENGTH, TILES, SUB_DIRECTORIES, EXTRA_SAMPLES, SAMPLE_FORMAT,
    DNG_VERSION,
))  # fmt: skip
# Bytes per value, by the type's number.
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
              16: 8, 17: 8, 18: 8}  # fmt: skip
INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q",
                 18: "Q"}  # fmt: skip
MOST_VALUES = 64  # values that are read per tag: bits of each sample, sub-directories
REDUCED = 1  # bit of SUBFILE: this page is a smaller version of another one
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


class Page(NamedTuple):
    """One image of a TIFF, as its directory describes it."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Bits of each sample; one value may stand for all."""
    samples: int
    formats: tuple[int, ...]
    """UNSIGNED, SIGNED, FLOAT or others, of each sample."""
    photometric: int
    """Meaning of the samples' values, such as grey or RGB; -1: not given."""
    compression: int
    subfile: int
    separate: bool
    """True if each band is stored by itself."""
    fill_order: int
    """2: the lowest bit of a byte is its first pixel."""
    photometric_at: int
    """Offset of the value of `photometric` in the file; 0: there is none."""
    big_endian: bool
    extra: tuple[int, ...]
    """Meaning of each sample after the colours: 0 unspecified, 1 and 2 alpha."""
    tile_pixels: int
    """Pixels per tile; 0: the page is stored in strips."""
    has_data: bool
    make: str
    """Maker of the camera."""
    dng: bool


class Tiff(NamedTuple):
    """The pages of a TIFF."""

    pages: list[Page]
    """Pages of the main chain of directories, in order."""
    others: list[Page]
    """Pages that the SubIFDs tags of these pages name."""

    def stack(self) -> int:
        """The number of pages that have the first one's size and are no thumbnails."""
        size = self.pages[0].width, self.pages[0].height
        return sum(
            (p.width, p.height) == size and p.has_data and not p.subfile & REDUCED
            for p in self.pages
        )


def is_tiff(data: bytes | memoryview) -> bool:
    """True for the start of a TIFF, also with 42 in the wrong byte order, as Pillow accepts it."""
    return data[:2] in (b"II", b"MM") and data[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+")


def read_tiff(data: bytes) -> Tiff:
    """Reads all directories. Raises BadImage if the first one is broken, or if the tags claim more
    bytes than the file has."""
    reader = Reader(data)
    pages, others = [], []
    for page, below in reader.chain(reader.first):
        pages.append(page)
        for offset in below:
            others += [page for page, _ in reader.chain(offset)]
    if not pages:
        raise BadImage("damaged TIFF: its header can't be read")
    return Tiff(pages, others)


class Reader:
    """Reads numbers and directories of one file, and counts the bytes that they claim."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.seen: set[int] = set()
        # Directories that overlap could hold far more entries and values than the file has bytes.
        self.left = 2 * len(data) + 4096
        try:
            self.first = self.number(8, "Q") if self.big else self.number(4, "I")
        except struct.error:
            self.first = 0

    def number(self, at: int, kind: str) -> int:
        """The number at an offset. kind: struct's letter for its type. Raises struct.error."""
        if at >= len(self.data):  # BigTIFF: struct itself takes no offset of 64 bits
            raise struct.error("beyond the end of the file")
        return int(struct.unpack_from(self.order + kind, self.data, at)[0])

    def chain(self, offset: int) -> Iterator[tuple[Page, tuple[int, ...]]]:
        """Yields each page of a chain of directories, with the offsets of its sub-directories."""
        while offset and offset not in self.seen:
            self.seen.add(offset)
            try:
                tags, offset = self.directory(offset)
            except struct.error:
                return  # cut off within a directory
            if tags:
                page = page_of(tags, self.order == ">", self.photometric_at)
                yield page, integers(tags, SUB_DIRECTORIES)

    def directory(self, at: int) -> tuple[dict[int, tuple[int, ...] | bytes], int]:
        """The values of the tags READ in a directory, and the next directory's offset."""
        count = self.number(at, "Q" if self.big else "H")
        at += 8 if self.big else 2
        entry, place = (20, 12) if self.big else (12, 8)
        self.spend(entry * count)
        tags: dict[int, tuple[int, ...] | bytes] = {}
        self.photometric_at = 0
        for start in range(at, at + entry * count, entry):
            tag, kind = self.number(start, "H"), self.number(start + 2, "H")
            values = self.number(start + 4, "Q" if self.big else "I")
            size = TYPE_BYTES.get(kind, 0) * values
            where = start + place
            if size > entry - place:
                where = self.number(where, "Q" if self.big else "I")
                # Counted for all tags, also those that are not read here: Pillow keeps every value.
                self.spend(min(size, max(0, len(self.data) - where)))
            if tag == PHOTOMETRIC and kind in (3, 4):  # of a LONG, its low half
                self.photometric_at = where + 2 * (kind == 4 and self.order == ">")
            if tag in READ:
                tags[tag] = self.values(kind, values, where)
        at += entry * count
        return tags, self.number(at, "Q" if self.big else "I") if tags else 0

    def spend(self, size: int) -> None:
        """Counts bytes that the file claims."""
        self.left -= size
        if self.left < 0:
            raise BadImage("damaged TIFF: its tags claim more bytes than it has")

    def values(self, kind: int, count: int, at: int) -> tuple[int, ...] | bytes:
        """A tag's first MOST_VALUES values, or the bytes of a text; () if they can't be read."""
        if kind == 2:
            return self.data[at : at + min(count, MOST_VALUES)].rstrip(b"\0 ")
        if kind not in INTEGER_TYPES or not count:
            return ()
        form = f"{self.order}{min(count, MOST_VALUES)}{INTEGER_TYPES[kind]}"
        if at + struct.calcsize(form) > len(self.data):
            return ()
        return struct.unpack_from(form, self.data, at)


def integers(tags: dict[int, tuple[int, ...] | bytes], tag: int) -> tuple[int, ...]:
    """A tag's integers; () if it is missing or holds a text."""
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else ()


def page_of(
    tags: dict[int, tuple[int, ...] | bytes], big_endian: bool, photometric_at: int
) -> Page:
    """The page that a directory's tags describe, with TIFF 6.0's defaults for missing tags."""
    def one(tag: int, default: int = 0) -> int:
        return (integers(tags, tag) or (default,))[0]

    make = tags.get(MAKE, b"")
    return Page(
        width=one(WIDTH),
        height=one(HEIGHT),
        bits=integers(tags, BITS) or (1,),
        samples=one(SAMPLES, 1),
        formats=integers(tags, SAMPLE_FORMAT) or (UNSIGNED,),
        photometric=one(PHOTOMETRIC, -1),
        compression=one(COMPRESSION, 1),
        subfile=one(SUBFILE),
        separate=one(PLANES, 1) == 2,
        fill_order=one(FILL_ORDER, 1),
        photometric_at=photometric_at,
        big_endian=big_endian,
        extra=integers(tags, EXTRA_SAMPLES),
        tile_pixels=one(TILE_WIDTH) * one(TILE_LENGTH),
        has_data=bool({STRIPS, TILES} & tags.keys()),
        make=make.decode("ascii", "replace") if isinstance(make, bytes) else "",
        dng=DNG_VERSION in tags,
    )
