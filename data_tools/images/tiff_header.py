"""TIFF files by their directories (TIFF 6.0, BigTIFF): which pages they hold, of which kind.

Nothing here follows a loop, and a file whose tags claim more bytes than it has is refused.
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
MOST_VALUES = 64  # per tag, of those read: bits of each sample, sub-directories
REDUCED = 1  # bit of SUBFILE: a smaller version of another image of the file
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


class Page(NamedTuple):
    """One image of a TIFF: a directory."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Per sample; one value may stand for all."""
    samples: int
    formats: tuple[int, ...]
    """UNSIGNED, SIGNED, FLOAT or others, per sample."""
    photometric: int
    """-1: not given."""
    compression: int
    subfile: int
    separate: bool
    """Whether each band is stored by itself."""
    fill_order: int
    """2: the lowest bit of a byte is its first pixel."""
    photometric_at: int
    """The offset of the value of `photometric`; 0: it has none."""
    big_endian: bool
    extra: tuple[int, ...]
    """The meaning of the samples behind the colours: 0 unspecified, 1 and 2 alpha."""
    tile_pixels: int
    """Pixels of a tile; 0: strips."""
    has_data: bool
    make: str
    """The camera's."""
    dng: bool


class Tiff(NamedTuple):
    pages: list[Page]
    """The chain of directories, in order."""
    others: list[Page]
    """Those that the pages' SubIFDs tags name."""

    def stack(self) -> int:
        """How many pages have the first one's size, and are no thumbnail of another page."""
        size = self.pages[0].width, self.pages[0].height
        return sum(
            (p.width, p.height) == size and p.has_data and not p.subfile & REDUCED
            for p in self.pages
        )


def is_tiff(data: bytes | memoryview) -> bool:
    # Pillow takes those of a mixed byte order, too.
    return data[:2] in (b"II", b"MM") and data[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+")


def read_tiff(data: bytes) -> Tiff:
    """Raises BadImage if the first directory is broken, or the tags hold more than the file."""
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
        if at >= len(self.data):  # BigTIFF: struct itself takes no offset of 64 bits
            raise struct.error("beyond the end of the file")
        return int(struct.unpack_from(self.order + kind, self.data, at)[0])

    def chain(self, offset: int) -> Iterator[tuple[Page, tuple[int, ...]]]:
        """The directories from one on, each with the offsets of those below it."""
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
                # Pillow keeps every tag's value.
                self.spend(min(size, max(0, len(self.data) - where)))
            if tag == PHOTOMETRIC and kind in (3, 4):  # the low half of a LONG
                self.photometric_at = where + 2 * (kind == 4 and self.order == ">")
            if tag in READ:
                tags[tag] = self.values(kind, values, where)
        at += entry * count
        return tags, self.number(at, "Q" if self.big else "I") if tags else 0

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise BadImage("damaged TIFF: its tags claim more bytes than it has")

    def values(self, kind: int, count: int, at: int) -> tuple[int, ...] | bytes:
        if kind == 2:
            return self.data[at : at + min(count, MOST_VALUES)].rstrip(b"\0 ")
        if kind not in INTEGER_TYPES or not count:
            return ()
        form = f"{self.order}{min(count, MOST_VALUES)}{INTEGER_TYPES[kind]}"
        if at + struct.calcsize(form) > len(self.data):
            return ()
        return struct.unpack_from(form, self.data, at)


def integers(tags: dict[int, tuple[int, ...] | bytes], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else ()


def page_of(
    tags: dict[int, tuple[int, ...] | bytes], big_endian: bool, photometric_at: int
) -> Page:
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
