"""The reason that Pillow could not open or decode a file: damaged, not supported, or no image.

Pillow's own errors do not separate these three, so this module reads the headers: JPEG 2000 by ISO
15444-1 annex A.5.1, BMP with bmp_header, TIFF with tiff_kinds.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import NamedTuple

from data_tools.images import tiff_kinds
from data_tools.images.bad_image import BadImage
from data_tools.images.bmp_header import bmp_not_supported
from data_tools.images.file_kinds import CONVERT, kind_of
from data_tools.images.magic import CODESTREAM, JPEG_START, STARTS
from data_tools.images.tiff_header import Page, is_tiff, read_tiff
from data_tools.images.tiff_kinds import compression_name

JPEG2000_PART_2 = 0x8000  # bit of Rsiz
# Compressions of TIFF that a build of Pillow may lack, by Pillow's names.
OPTIONAL = {50001: "webp", 50000: "zstd", 34925: "lzma"}
ALWAYS = frozenset((1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946))


def format_of(data: bytes) -> str:
    """Pillow's name of the format that a file's first bytes claim; "" if prep does not read it."""
    if data[:3] == JPEG_START:
        return "JPEG"
    if is_tiff(data):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and is_avif(data):
        return "AVIF"
    return next((name for start, name in STARTS.items() if data.startswith(start)), "")


def is_avif(data: bytes) -> bool:
    """True if the major brand of a file of boxes says AVIF, or a compatible brand does and the
    major one names no codec."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    compatible = [data[at : at + 4] for at in range(16, length - 3, 4)]
    avif = (b"avif", b"avis")
    return data[8:12] in avif or (
        data[8:12] in (b"mif1", b"msf1") and any(brand in avif for brand in compatible)
    )


def not_opened(data: bytes) -> BadImage:
    """The reason for a file whose header Pillow could not read."""
    name = format_of(data)
    if name == "TIFF":
        if data[:2] == b"MM" and data[3:4] == b"+":
            return BadImage(f"big-endian BigTIFF: {CONVERT}")
        page = read_tiff(data).pages[0]
        if page.has_data and not has_decoder(page):
            return BadImage(f"TIFF with {compression_name(page)} compression: {CONVERT}")
        return tiff_kinds.unreadable(page, len(data))
    reason = not_supported(data, name)
    if reason:
        return BadImage(reason)
    if name:
        return BadImage(f"damaged {name}: its header can't be read")
    kind = kind_of(data)
    if kind is None:
        return BadImage("not an image", is_image=False)
    if kind.name == "git-lfs pointer":
        return BadImage("git-lfs pointer, not an image: run `git lfs pull`", is_image=False)
    if kind.is_image:
        return BadImage(f"{kind.name}: {CONVERT}")
    return BadImage(f"{kind.name}, not an image", is_image=False)


def not_decoded(data: bytes, name: str, error: object) -> BadImage:
    """The reason for a file whose header Pillow read, and whose pixels it could not."""
    if name == "TIFF":
        page = read_tiff(data).pages[0]
        if not has_decoder(page):
            return BadImage(f"TIFF with {compression_name(page)} compression: {CONVERT}")
    return BadImage(not_supported(data, name) or f"damaged {name}: {error}")


def not_supported(data: bytes, name: str) -> str:
    """The reason that a valid file of a format can't be read; "" if there is none."""
    if name == "BMP":
        return bmp_not_supported(data)
    if name == "JPEG2000":
        found = read_codestream(data)
        if found is not None:
            if found.extended:
                return f"JPEG 2000 part 2: {CONVERT}"
            if not 1 <= found.components <= 4:
                return f"JPEG 2000 of {found.components} bands: {CONVERT}"
            if found.bits > 16 and data.rstrip(b"\0").endswith(b"\xff\xd9"):
                return f"JPEG 2000 of {found.bits} bits: {CONVERT}"
    if name == "PNG" and data[12:16] == b"CgBI":
        return f"PNG in Apple's own variant (CgBI): {CONVERT}"
    return ""


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP by its first chunk (RFC 9649); None for a cut or another file."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", data, 26))
    return width, height


class Codestream(NamedTuple):
    """Properties of a JPEG 2000 from its SIZ segment."""

    components: int
    bits: int
    """Largest number of bits of any component."""
    extended: bool
    """True if it needs ISO 15444-2."""


def read_codestream(data: bytes) -> Codestream | None:
    """The SIZ segment of a JPEG 2000; None if it is missing or cut off."""
    at = data.find(CODESTREAM)
    if at < 0 or at + 42 > len(data):
        return None
    rsiz = struct.unpack_from(">H", data, at + 6)[0]
    components = struct.unpack_from(">H", data, at + 40)[0]
    depths = data[at + 42 : at + 42 + 3 * components : 3]
    bits = max(((depth & 0x7F) + 1 for depth in depths), default=0)
    return Codestream(components, bits, bool(rsiz & JPEG2000_PART_2))


def has_decoder(page: Page) -> bool:
    """True if this build of Pillow decodes a TIFF's compression."""
    if page.compression in OPTIONAL:
        return can_compress(OPTIONAL[page.compression])
    return page.compression in ALWAYS


@lru_cache
def can_compress(name: str) -> bool:
    """True if this build of Pillow has the library of a compression: it can then encode with it."""
    from PIL import Image

    try:
        Image.new("RGB", (8, 8)).save(io.BytesIO(), "TIFF", compression=name)
    except Exception:
        return False
    return True
