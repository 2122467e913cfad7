"""Decodes image files to upright uint8 pixels, [H, W, 3] (RGB) or [H, W] (grey), and encodes them.

simplejpeg decodes JPEGs, exactly and without the interpreter lock. Pillow decodes all other files;
flatten.py turns its images into RGB or grey.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from data_tools.errors import NotEnoughMemory
from data_tools.images import tiff_header, tiff_kinds
from data_tools.images.bad_image import BadImage
from data_tools.images.bmp_header import check_bmp
from data_tools.images.flatten import BYTES, HEADER, PNG_DEPTH, array_of, flatten, is_wide
from data_tools.images.jpeg_header import JpegHeader
from data_tools.images.magic import PNG_START
from data_tools.images.tiff_header import Tiff, is_tiff
from data_tools.images.unreadable import not_decoded, not_opened, webp_size
from data_tools.policy import Policy

# A third cheaper than bicubic; as cheap as bilinear, but sharper.
FILTER = Image.Resampling.HAMMING
JPEG_MAX_SIDE = 65500  # libjpeg's own limit
# Pixels. In images with a shorter side, chroma at half resolution would be visible in training. In
# larger ones, crops hide it, and decoding is faster.
FULL_CHROMA_BELOW = 256
# Formats that Pillow reads without another program. EPS, for one, would run Ghostscript.
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG", "PPM", "JPEG2000", "AVIF")
# A tile of a TIFF is decoded whole, whatever the image's own size.
TIFF_TILE_PIXELS = 1 << 26
# In Apple's variant, another chunk is the first, and red and blue are swapped.
PNG_FIRST = b"IHDR"
# If the compressed text of a PNG is too large, Pillow refuses it and names this limit.
PNG_TEXT_LIMIT, PNG_TEXT = "MAX_TEXT", (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# Peak memory of decoding any of these formats.
MOST_BYTES_PER_PIXEL = 32


def check_jpeg(data: bytes, colorspace: str = "RGB") -> None:
    """Raises BadImage if a JPEG's data is damaged anywhere.

    Decodes to an eighth of the size, which takes two thirds of the time of full size. It skips most
    of the arithmetic, but reads all entropy-coded data, where libjpeg finds damage.
    """
    try:
        simplejpeg.decode_jpeg(
            data, colorspace, fastdct=True, fastupsample=True,
            min_height=1, min_width=1, min_factor=8, strict=True,
        )  # fmt: skip
    except ValueError as error:
        raise jpeg_error(error) from None


def jpeg_error(error: ValueError) -> Exception:
    """The error to raise for simplejpeg's: a MemoryError if libjpeg had too little memory, which is
    no fault of the file, else BadImage."""
    if "nsufficient memory" in str(error):
        return MemoryError(str(error))
    return BadImage(f"damaged JPEG: {error}")


def decode_jpeg(
    data: bytes, size: tuple[int, int], header: JpegHeader, strict: bool
) -> np.ndarray:
    """Decodes an RGB, YCbCr or grey JPEG: uint8 [H, W, 3] or [H, W, 1], upright.

    size: (width, height) before rotation, to which it is shrunk. strict: raise BadImage if the data
    is damaged; otherwise libjpeg fills the damaged parts.
    """
    shrunk = size != (header.width, header.height)
    # libjpeg can shrink while it decodes, by dropping frequencies, which is cheap and antialiased.
    # It keeps at least twice the final size, for the real filter.
    least = (2 * size[0], 2 * size[1], 2) if shrunk else (0, 0, 1)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if header.components == 1 else "RGB",
            min_width=least[0], min_height=least[1], min_factor=least[2], strict=strict,
        )  # fmt: skip
    except ValueError as error:
        raise jpeg_error(error) from None
    if shrunk:
        pixels = shrink(pixels, size)
    return turn(pixels, header.orientation)


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels shrunk to size (width, height), antialiased."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    return np.asarray(image.resize(size, FILTER))


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an Exif orientation: 2 to 4 mirror or turn by 180 degrees, 5 to 8 swap the axes."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right]


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of uint8 pixels [H, W, 3], or grey: [H, W] or [H, W, 1]."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = pixels.reshape(*pixels.shape[:2], 1)
        return simplejpeg.encode_jpeg(grey, quality, "GRAY", "Gray", False)
    chroma = "444" if min(pixels.shape[:2]) < FULL_CHROMA_BELOW else "420"
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", chroma, False)


def rgb_bytes(pixels: np.ndarray) -> bytes:
    """Pixels as height x width x 3 bytes, also of a grey image."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, 2)
    return pixels.tobytes()


def open_image(data: bytes, max_pixels: int = Policy.max_pixels) -> Image.Image:
    """Opens a file with Pillow, which reads the header.

    Raises BadImage if it is damaged or can't be read, and for a WebP of more than max_pixels, whose
    decoder takes memory for the whole image at once.
    """
    canvas = webp_size(data)
    if canvas is not None and canvas[0] * canvas[1] > max_pixels:
        raise BadImage(f"more than {max_pixels} pixels: {canvas[0]} x {canvas[1]}")
    tiff = checked_tiff(data) if is_tiff(data) else None
    read = data if tiff is None else tiff_kinds.black_is_zero(data, tiff.pages[0])
    try:
        image = Image.open(io.BytesIO(read), formats=FORMATS)
    except MemoryError as error:
        raise BadImage("damaged image: it asks for more memory than an image may") from error
    except Exception as error:
        less = without_text(data) if has_large_text(data, error) else data
        if len(less) < len(data):
            return open_image(less, max_pixels)
        if canvas is not None:
            try:
                require_memory(*canvas)
            except MemoryError:
                raise not_enough_memory(*canvas) from None
        raise not_opened(data) from None
    if image.format == "BMP":
        check_bmp(data)
    if min(image.size) < 1:
        raise BadImage(f"damaged {image.format}: no size in its header")
    if image.format == "PNG":
        if data[12:16] != PNG_FIRST:
            raise not_opened(data)
        scale_transparency(image, data[PNG_DEPTH])
    if tiff is not None:
        image.info[HEADER] = tiff
    image.info[BYTES] = data
    return image


def not_enough_memory(width: int, height: int) -> NotEnoughMemory:
    """The error for a valid image of this size."""
    return NotEnoughMemory(f"not enough memory for {width} x {height} pixels")


def checked_tiff(data: bytes) -> Tiff:
    """A TIFF's directories. Raises BadImage if they show that it can't be stored."""
    tiff = tiff_header.read_tiff(data)
    tiff_kinds.refuse_raw(tiff)
    tiff_kinds.refuse_samples(tiff.pages[0])
    tile = tiff.pages[0].tile_pixels
    if tile > TIFF_TILE_PIXELS:
        raise BadImage(f"more than {TIFF_TILE_PIXELS} pixels in a tile: {tile}")
    return tiff


def has_large_text(data: bytes, error: Exception) -> bool:
    """True if Pillow refused a PNG for the size of its text."""
    return PNG_TEXT_LIMIT in str(error) and data.startswith(PNG_START)


def without_text(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, on which no pixel depends."""
    kept, at = [PNG_START], len(PNG_START)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in PNG_TEXT:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def describe(image: Image.Image, data: bytes) -> str:
    """The format and the losses of its conversion, as the reason for re-encoding."""
    try:
        kind = image.format or "image"
        kind += " with alpha" if image.has_transparency_data else ""
        kind += ", 16-bit" if is_wide(image, data) else ""
        tiff = image.info.get(HEADER)
        if tiff is not None:
            kind += tiff_kinds.dropped_bands(tiff.pages[0])
            return kind + (", first frame" if len(tiff.pages) > 1 else "")
        return kind + (", first frame" if getattr(image, "is_animated", False) else "")
    except Exception as error:
        raise BadImage(f"damaged {image.format}: {error}") from None


def pages_of(image: Image.Image) -> int:
    """Number of pages of the first one's size in a TIFF; 1 for other files."""
    tiff = image.info.get(HEADER)
    return 1 if tiff is None else max(1, tiff.stack())


def scale_transparency(image: Image.Image, depth: int) -> None:
    """Scales the transparent colour of a PNG to 8 bits. Pillow scales the pixels alone."""
    key = image.info.get("transparency")
    if image.mode == "L" and depth < 8 and isinstance(key, int):
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)
    if image.mode == "RGB" and depth == 16 and key is not None:
        raise BadImage("16-bit PNG with a transparent colour: not supported, convert it first")


class Decoded(NamedTuple):
    """The pixels of an image."""

    pixels: np.ndarray
    """uint8 [H, W, 3] or [H, W], upright."""
    highest: int = -1
    """Greatest value of an image of 16 bits per sample, before it was scaled to 8 bits; -1 for
    other images. For colours, Pillow gives the high bytes alone; the low byte then counts as
    255."""


def decode(image: Image.Image, size: tuple[int, int], orientation: int = 0) -> Decoded:
    """Decodes an image that open_image opened, and closes it.

    size: (width, height) before rotation, to which it is shrunk. orientation: 1 to 8; 0: by the
    image's metadata. Raises BadImage if it is damaged or has no exact conversion, and MemoryError
    if a valid image of this size does not fit into memory.
    """
    data, (width, height) = image.info[BYTES], image.size
    try:
        if size != image.size:
            image.draft(None, (2 * size[0], 2 * size[1]))  # JPEG alone
        image.load()
        orientation = orientation or image.getexif().get(0x0112, 1)
        flat, highest = flatten(image, data)
        if flat is not image:
            image.close()  # now, since it is large, and not at the end of the caller's `with`
        if flat.size != size:
            flat = flat.resize(size, FILTER)
        return Decoded(turn(array_of(flat), orientation), highest)
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        less = without_text(data) if has_large_text(data, error) else data
        if len(less) < len(data):  # the text was behind the pixels
            return decode(open_image(less), size, orientation)
        require_memory(width, height)
        if isinstance(error, MemoryError):
            error = Exception("it asks for more memory than it may")
        raise not_decoded(data, image.format or "image", error) from None


def require_memory(width: int, height: int) -> None:
    """Raises MemoryError if decoding this size might need more memory than this process gets.

    It tries to allocate that much, since decoders report a lack of memory like damage.
    """
    np.empty((height, width, MOST_BYTES_PER_PIXEL), np.uint8)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Turns off Pillow's warnings, log and limit on pixels, which the policy replaces."""
    from PIL import Image

    log = logging.getLogger("PIL")
    level = log.level
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        log.setLevel(level)
