"""Image files of any kind -> upright uint8 pixels [H, W, 3] (RGB) or [H, W] (grey) -> bytes.

JPEGs are decoded by simplejpeg (exact, and without the interpreter lock), all else by Pillow.
Transparency is laid over white. 16-bit grey is scaled to 8 bits and rounded. Of 16-bit colours
Pillow gives the high bytes, which lie within 1 of 255 of that.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from data_tools.jpeg_header import BadImage, JpegHeader

# A third cheaper than bicubic, as cheap as bilinear, and sharper than that.
FILTER = Image.Resampling.HAMMING
JPEG_MAX_SIDE = 65500  # libjpeg's own limit
# Below this side, chroma at half resolution would be seen in training; above, crops hide it and
# decoding is faster.
FULL_CHROMA_BELOW = 256
# Formats Pillow reads by itself. Not EPS (runs Ghostscript) and the like.
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG", "PPM", "JPEG2000", "AVIF")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# A tile of a TIFF is decoded whole, whatever the image's own size.
TIFF_TILE_PIXELS = 1 << 26
PNG_DEPTH = 24  # where a PNG's IHDR, always its first chunk, tells the bits a sample
# TIFF tags (TIFF 6.0): bits a sample, width and length of a tile.
BITS, TILE_WIDTH, TILE_LENGTH = 258, 322, 323


def check_jpeg(data: bytes, colorspace: str = "RGB") -> None:
    """Raises BadImage for a JPEG whose data is damaged anywhere.

    Decodes to an eighth of the size: that skips most of the arithmetic, but none of the entropy
    coded data, which is where libjpeg finds damage. Two thirds of a full decode's time.
    """
    try:
        simplejpeg.decode_jpeg(
            data, colorspace, fastdct=True, fastupsample=True,
            min_height=1, min_width=1, min_factor=8, strict=True,
        )  # fmt: skip
    except ValueError as error:
        raise BadImage(f"damaged JPEG: {error}") from None


def decode_jpeg(
    data: bytes, size: tuple[int, int], header: JpegHeader, strict: bool
) -> np.ndarray:
    """An RGB, YCbCr or grey JPEG, shrunk to size (width, height, before it is turned), upright.

    strict: raise BadImage where the data is damaged, instead of guessing what was there.
    """
    shrunk = size != (header.width, header.height)
    # While it decodes, libjpeg can drop frequencies: cheap, and antialiased. At least twice the
    # size that is wanted remains for the real filter.
    least = (2 * size[0], 2 * size[1], 2) if shrunk else (0, 0, 1)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if header.components == 1 else "RGB",
            min_width=least[0], min_height=least[1], min_factor=least[2], strict=strict,
        )  # fmt: skip
    except ValueError as error:
        raise BadImage(f"damaged JPEG: {error}") from None
    if shrunk:
        pixels = shrink(pixels, size)
    return turn(pixels, header.orientation)


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To size (width, height), antialiased."""
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
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = pixels.reshape(*pixels.shape[:2], 1)
        return simplejpeg.encode_jpeg(grey, quality, "GRAY", "Gray", False)
    chroma = "444" if min(pixels.shape[:2]) < FULL_CHROMA_BELOW else "420"
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", chroma, False)


def rgb_bytes(pixels: np.ndarray) -> bytes:
    """height x width x 3 bytes."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, 2)
    return pixels.tobytes()


def open_image(data: bytes) -> Image.Image:
    """Reads a header. Raises BadImage for what is broken, or no image that can be read."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise unidentified(data) from None
    except MemoryError:
        raise BadImage("damaged image: it asks for more memory than an image may") from None
    except Exception as error:
        raise BadImage(f"damaged image: {error}") from None
    if min(image.size) < 1:
        raise BadImage(f"damaged {image.format}: no size in its header")
    if image.format == "PNG":
        scale_transparency(image, data[PNG_DEPTH])
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = number(tags.get(TILE_WIDTH)) * number(tags.get(TILE_LENGTH))
        if tile > TIFF_TILE_PIXELS:
            raise BadImage(f"more than {TIFF_TILE_PIXELS} pixels in a tile: {tile}")
    return image


def number(value: object) -> int:
    """A TIFF tag that should be a number, or a number for each sample; 0 where it isn't."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else 0


def unidentified(data: bytes) -> BadImage:
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return BadImage("HEIC image: not supported, convert it first")
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return BadImage("damaged AVIF: its header can't be read")
    names = {
        b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
        b"RIFF": "WEBP", b"BM": "BMP",
    }  # fmt: skip
    for start, name in names.items():
        if data.startswith(start) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return BadImage(f"damaged {name}: its header can't be read")
    return BadImage("not an image", is_image=False)


def describe(image: Image.Image, data: bytes) -> str:
    """Format, and what conversion loses of it: the reason under which it is counted."""
    try:
        kind = image.format or "image"
        kind += " with alpha" if image.has_transparency_data else ""
        wide = data[PNG_DEPTH] > 8 if image.format == "PNG" else tiff_bits(image) > 8
        kind += ", 16-bit" if wide or image.mode.startswith("I") else ""
        return kind + (", first frame" if getattr(image, "is_animated", False) else "")
    except Exception as error:
        raise BadImage(f"damaged {image.format}: {error}") from None


def tiff_bits(image: Image.Image) -> int:
    """Bits a sample of a TIFF; 0 for other formats."""
    return number(image.tag_v2.get(BITS)) if image.format == "TIFF" else 0  # type: ignore


def scale_transparency(image: Image.Image, depth: int) -> None:
    """The transparent colour of a PNG as the pixels are that Pillow gives: it scales only those."""
    key = image.info.get("transparency")
    if image.mode == "L" and depth < 8 and isinstance(key, int):
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)
    if image.mode == "RGB" and depth == 16 and key is not None:
        raise BadImage("16-bit PNG with a transparent colour: not supported, convert it first")


def decode(image: Image.Image, size: tuple[int, int], orientation: int = 0) -> np.ndarray:
    """Pixels, shrunk to size (width, height, before it is turned), upright.

    orientation 0: ask Pillow. Raises BadImage for what is damaged or has no right conversion.
    """
    name, (width, height) = image.format, image.size
    try:
        if size != image.size:
            image.draft(None, (2 * size[0], 2 * size[1]))  # JPEG alone
        image.load()
        orientation = orientation or image.getexif().get(0x0112, 1)
        image = to_rgb_or_grey(image)
        if image.size != size:
            image = image.resize(size, FILTER)
        return turn(np.asarray(image), orientation)
    except BadImage:
        raise
    except MemoryError:
        # Its own fault, or the machine's? It would take no more than this.
        np.empty((height, width, 16), np.uint8)
        raise BadImage(f"damaged {name}: it asks for more memory than it may") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise BadImage(f"damaged {name}: {error}") from None


def to_rgb_or_grey(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB or L: transparency over white, 16 bits scaled (Pillow would clip)."""
    name = image.format
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
    if image.mode.startswith("I;16") or (image.mode == "I" and name in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        most = 4095 if tiff_bits(image) == 12 else 65535
        scaled = ((wide * 255 + most // 2) // most).astype(np.uint8)
        if "transparency" in image.info:
            scaled[wide == image.info["transparency"]] = 255
        return Image.fromarray(scaled)
    if image.mode in ("I", "F"):
        raise BadImage(f"{name} of {'float' if image.mode == 'F' else 'signed or 32-bit'} numbers: "
                       "their range is not known; convert it to 8 or 16 bits")  # fmt: skip
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if grey else "RGB")
