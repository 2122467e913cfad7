"""Finds BMP files that Pillow does not read, and damage that it does not notice, by their headers.

The headers are Microsoft's BITMAPCOREHEADER to BITMAPV5HEADER, and those of OS/2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from data_tools.images.bad_image import BadImage
from data_tools.images.file_kinds import CONVERT

HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
OS2_HEADERS = (16, 64)
PIXEL_BITS = (0, 1, 2, 4, 8, 16, 24, 32, 64)
COMPRESSIONS = {
    0: "uncompressed", 1: "RLE8", 2: "RLE4", 3: "bit fields", 4: "a JPEG inside", 5: "a PNG inside",
    6: "bit fields with alpha", 11: "CMYK", 12: "CMYK, RLE8", 13: "CMYK, RLE4",
}  # fmt: skip
OS2_COMPRESSIONS = COMPRESSIONS | {3: "Huffman coding", 4: "RLE24"}
FLAT = (0, 3, 6, 11)  # compressions that store all bits of each pixel


class Bmp(NamedTuple):
    header: int
    """Bytes of the header, by which its version is known."""
    width: int
    height: int
    """Below 0: the rows are stored from the top."""
    planes: int
    bits: int
    """Bits per pixel."""
    compression: int
    colours: int
    """Colours in the palette; 0: as many as the bits allow."""
    pixels: int
    """The offset of the pixels, in bytes."""


def read_bmp(data: bytes) -> Bmp | None:
    """The header's fields; None if it is cut off or has an unknown size."""
    if len(data) < 26:
        return None
    pixels, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        fields = struct.unpack_from("<HHHH", data, 18)
        return Bmp._make((size, *fields, 0, 0, pixels))
    if size not in HEADERS or len(data) < 14 + size:
        return None
    fields = struct.unpack_from("<iiHH", data, 18)
    if size == 16:
        return Bmp._make((size, *fields, 0, 0, pixels))
    compression, colours = (struct.unpack_from("<I", data, at)[0] for at in (30, 46))
    return Bmp._make((size, *fields, compression, colours, pixels))


def bmp_not_supported(data: bytes) -> str:
    """The reason that Pillow can't read a valid BMP; "" if there is none, or it is damaged."""
    bmp = read_bmp(data)
    if bmp is None or bmp.planes != 1 or bmp.width < 1 or not bmp.height:
        return ""
    os2 = bmp.header in OS2_HEADERS
    names = OS2_COMPRESSIONS if os2 else COMPRESSIONS
    embedded = bmp.compression in (4, 5) and not os2
    if bmp.compression not in names or bmp.bits not in PIXEL_BITS or bmp.pixels >= len(data):
        return ""
    if (bmp.bits == 0) != embedded:
        return ""
    row = (bmp.width * bmp.bits + 31) // 32 * 4
    if bmp.compression in FLAT and not os2 and len(data) < bmp.pixels + row * abs(bmp.height):
        return ""  # cut off
    if bmp.compression not in (0, 1, 2) or bmp.bits in (2, 64):
        return f"BMP of {bmp.bits} bits, {names[bmp.compression]}: {CONVERT}"
    if bmp.header == 16:
        return f"BMP with OS/2's header of 16 bytes: {CONVERT}"
    if 1 << bmp.bits < bmp.colours <= (bmp.pixels - 14 - bmp.header) // 4:
        return f"BMP with a palette of {bmp.colours} colours: {CONVERT}"
    return ""


def check_bmp(data: bytes) -> None:
    """Raises BadImage for a negative width, and for run-length codes that lead out of the image.

    Pillow reads a negative width as one of four billion pixels, and silently drops pixels outside
    the image.
    """
    bmp = read_bmp(data)
    if bmp is None:
        return
    if bmp.width < 1:
        raise BadImage("damaged BMP: no size in its header")
    if bmp.compression not in (1, 2) or bmp.header in OS2_HEADERS:
        return
    row, at, end = 0, bmp.pixels, len(data) - 1
    while at < end:
        count, value = data[at], data[at + 1]
        at += 2
        if count or value > 2:  # a run of one value, or `value` literal ones
            if row >= abs(bmp.height):
                raise BadImage("damaged BMP: its run-length codes lead out of the image")
            if not count:
                size = value if bmp.compression == 1 else (value + 1) // 2
                at += size + (size & 1)
        elif value == 0:  # the row's end
            row += 1
        elif value == 1:  # the image's end
            return
        elif at < end:  # skip to the right and down
            row, at = row + data[at + 1], at + 2
