"""Converts Pillow's images of any mode to 8-bit RGB or grey.

Transparent images are drawn over white. 16-bit grey is scaled to 8 bits and rounded. For 16-bit
colours, Pillow gives the high bytes, which differ from that by at most 1 of 255. Large images are
converted in strips of rows, so that memory holds little more than the source and the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from data_tools.images import tiff_kinds
from data_tools.images.bad_image import BadImage
from data_tools.images.tiff_header import Page
from data_tools.images.unreadable import read_codestream

PNG_DEPTH = 24  # offset of the bits per sample in a PNG, whose first chunk is always IHDR
PPM_COMMENT = re.compile(rb"#[^\r\n]*")
PPM_HEADER = 1 << 10  # bytes of the longest header of a PPM
# Formats whose mode "I" holds 0 to 65535.
SCALED_I = ("PNG", "PPM")
STRIP_PIXELS = 1 << 18
# Our keys in Image.info: a TIFF's directories (tiff_header.Tiff), and the file's bytes.
HEADER, BYTES = "data_tools header", "data_tools bytes"


def is_wide(image: Image.Image, data: bytes) -> bool:
    """True if the file has more than 8 bits per sample, so that some are lost."""
    if image.mode.startswith("I"):
        return True
    if image.format == "PNG":
        return data[PNG_DEPTH] > 8
    if image.format == "TIFF":
        return tiff_of(image).bits[0] > 8
    if image.format == "JPEG2000":
        codestream = read_codestream(data)
        return codestream is not None and codestream.bits > 8
    if image.format == "PPM" and data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        fields = PPM_COMMENT.sub(b" ", data[:PPM_HEADER]).split(None, 4)
        return len(fields) > 3 and fields[3].isdigit() and int(fields[3]) > 255
    return False


def tiff_of(image: Image.Image) -> Page:
    """The first page of a TIFF, which is the one that is read."""
    return image.info[HEADER].pages[0]  # type: ignore[no-any-return]


def flatten(image: Image.Image, data: bytes) -> tuple[Image.Image, int]:
    """Returns a loaded image in mode RGB or L, and its greatest value (see codec.Decoded.highest).

    data: the file's bytes. Raises BadImage for numbers of unknown range, such as floats.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SCALED_I):
        return scaled(image)
    return to_rgb_or_grey(image), highest_of(image, data)


def highest_of(image: Image.Image, data: bytes) -> int:
    """The greatest value of 16-bit colours, or of 16-bit grey with alpha; -1 for other images."""
    if image.mode.startswith("I") or image.mode == "F" or not is_wide(image, data):
        return -1
    extrema = image.getextrema()
    bands = len(image.getbands())
    colours = {"LA": 1, "La": 1, "RGBA": 3, "RGBa": 3}.get(image.mode, bands)
    each = extrema[:colours] if bands > 1 else (extrema,)
    return max(int(high) for _, high in each) << 8 | 255  # type: ignore


def to_rgb_or_grey(image: Image.Image) -> Image.Image:
    """An image of 8 bits in any of Pillow's modes as RGB or L, with transparency over white."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("I", "F"):
        numbers = "float" if image.mode == "F" else "signed or 32-bit"
        raise BadImage(f"{image.format} of {numbers} numbers: not supported, as their range is not "
                       "known; convert it to 8 or 16 bits")  # fmt: skip
    if image.has_transparency_data:
        return over_white(image, "L" if grey else "RGB")
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def scaled(image: Image.Image) -> tuple[Image.Image, int]:
    """Scales grey of 16 bits to 8 with rounding (Pillow would clip); also returns its maximum.

    Zero becomes white if the file says so. A transparent value becomes white.
    """
    most, white_is_zero = 65535, False
    if image.format == "TIFF":
        page = tiff_of(image)
        most = 4095 if page.bits[0] == 12 else 65535
        white_is_zero = page.photometric == tiff_kinds.WHITE_IS_ZERO
    table = scale_table(most, white_is_zero)
    key = image.info.get("transparency")
    out = np.empty((image.height, image.width), np.uint8)
    highest = 0
    for top, part in strips(image):
        wide = np.asarray(part)
        highest = max(highest, int(wide.max()))
        values = table[np.clip(wide, 0, 65535) if image.mode == "I" else wide]
        if isinstance(key, int):
            values[wide == key] = 255
        out[top : top + part.height] = values
    # The header gives the range of 12 bits, so there is no doubt about the scale to report.
    return Image.fromarray(out), highest if most == 65535 else -1


@lru_cache(4)
def scale_table(most: int, white_is_zero: bool) -> np.ndarray:
    """The 8-bit value for each 16-bit value, uint8 [65536]. most: the value that becomes 255."""
    values = np.minimum(np.arange(65536), most)
    values = most - values if white_is_zero else values
    return ((values * 255 + most // 2) // most).astype(np.uint8)


def over_white(image: Image.Image, mode: str) -> Image.Image:
    """A transparent image laid over white, in mode RGB or L."""
    out = Image.new(mode, image.size)
    for top, part in strips(image):
        part = part.convert("LA") if part.mode == "La" else part
        part = part.convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        out.paste(Image.alpha_composite(white, part).convert(mode), (0, top))
    return out


def array_of(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB or grey image. np.asarray would need memory for two copies of them."""
    out = np.empty((image.height, image.width, *[3] * (image.mode == "RGB")), np.uint8)
    for top, part in strips(image):
        out[top : top + part.height] = np.asarray(part)
    return out


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yields (first row, strip of rows) of an image, since work on a strip takes little memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height or image.mode == "I;16B":  # Pillow can't crop those
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
