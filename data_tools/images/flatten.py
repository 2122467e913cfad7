"""Images as Pillow opens them, of any mode -> 8-bit RGB or grey.

Transparency is laid over white. 16-bit grey is scaled to 8 bits and rounded. Of 16-bit colours
Pillow gives the high bytes, which lie within 1 of 255 of that. Large images are worked on in strips
of rows, so that hardly more than the source and the result is in memory.
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

PNG_DEPTH = 24  # where a PNG's IHDR, always its first chunk, has the bits per sample
PPM_COMMENT = re.compile(rb"#[^\r\n]*")
PPM_HEADER = 1 << 10  # bytes in which a PPM's header ends
# Formats whose mode "I" holds 0 to 65535.
SCALED_I = ("PNG", "PPM")
STRIP_PIXELS = 1 << 18
# Keys of Image.info: a TIFF's header as it is read here, and the file's bytes.
HEADER, BYTES = "data_tools header", "data_tools bytes"


def is_wide(image: Image.Image, data: bytes) -> bool:
    """Whether the file has more than 8 bits per sample, so that some are lost."""
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
    """The directory of the page that is read."""
    return image.info[HEADER].pages[0]  # type: ignore[no-any-return]


def flatten(image: Image.Image, data: bytes) -> tuple[Image.Image, int]:
    """A loaded image of any mode -> RGB or L, and its greatest value (convert.Decoded.highest).

    data: the file's bytes. Raises BadImage for numbers whose range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SCALED_I):
        return scaled(image)
    return to_rgb_or_grey(image), highest_of(image, data)


def highest_of(image: Image.Image, data: bytes) -> int:
    """The greatest value of 16-bit colours, or of grey with alpha; -1: not 16 bits."""
    if image.mode.startswith("I") or image.mode == "F" or not is_wide(image, data):
        return -1
    extrema = image.getextrema()
    bands = len(image.getbands())
    colours = {"LA": 1, "La": 1, "RGBA": 3, "RGBa": 3}.get(image.mode, bands)
    each = extrema[:colours] if bands > 1 else (extrema,)
    return max(int(high) for _, high in each) << 8 | 255  # type: ignore


def to_rgb_or_grey(image: Image.Image) -> Image.Image:
    """Any Pillow mode of 8 bits to RGB or L, transparency over white."""
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
    """Grey of 16 bits to 8, rounded (Pillow would clip), and its greatest value.

    Zero is white if the file says so, and so is a transparent value.
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
    # 12 bits are scaled by the range that the header gives, so none of it is lost.
    return Image.fromarray(out), highest if most == 65535 else -1


@lru_cache(4)
def scale_table(most: int, white_is_zero: bool) -> np.ndarray:
    """uint8 [65536]: the value of each 16-bit value of an image whose greatest is `most`."""
    values = np.minimum(np.arange(65536), most)
    values = most - values if white_is_zero else values
    return ((values * 255 + most // 2) // most).astype(np.uint8)


def over_white(image: Image.Image, mode: str) -> Image.Image:
    """An image with transparency, laid over white, in the mode RGB or L."""
    out = Image.new(mode, image.size)
    for top, part in strips(image):
        part = part.convert("LA") if part.mode == "La" else part
        part = part.convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        out.paste(Image.alpha_composite(white, part).convert(mode), (0, top))
    return out


def array_of(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB or grey image. np.asarray would hold two copies of all for a moment."""
    out = np.empty((image.height, image.width, *[3] * (image.mode == "RGB")), np.uint8)
    for top, part in strips(image):
        out[top : top + part.height] = np.asarray(part)
    return out


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, these rows) of an image: what is done to a strip takes little memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height or image.mode == "I;16B":  # Pillow can't crop those
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
