"""The bytes of one image file -> the bytes to store, by the policy.

JPEG headers are walked by hand (ITU-T T.81 annex B, Exif 2.3 section 4.6): a clean JPEG is copied
without being decoded. Everything else goes through Pillow, becomes upright RGB, and is written as a
JPEG by simplejpeg.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from data_tools.policy import Policy

if TYPE_CHECKING:
    from PIL import Image as PILImage

JPEG_MAX_SIDE = 65500  # libjpeg's own limit
# Below this side, chroma at half resolution would be seen in training; above, crops hide it and
# decoding is faster.
FULL_CHROMA_BELOW = 256
# Formats Pillow reads by itself. Not EPS (runs Ghostscript) and the like.
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG", "PPM", "JPEG2000", "AVIF")
# Start of frame markers: baseline, extended, progressive; then arithmetic coded.
COPIED_FRAMES, ARITHMETIC_FRAMES = (0xC0, 0xC1, 0xC2), (0xC9, 0xCA)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class BadImage(Exception):
    """A file that can't be stored. `str(error)` is the reason; details follow a colon."""

    def __init__(self, reason: str, is_image: bool = True) -> None:
        super().__init__(reason)
        self.is_image = is_image
        """False where the file is no image at all, rather than a broken one."""


class Prepared(NamedTuple):
    """An image ready to be stored: a JPEG of height x width pixels, upright RGB or grey."""

    data: bytes
    height: int
    width: int
    reason: str
    """Why it was re-encoded; empty: `data` is the source's bytes."""


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int
    precision: int
    """Bits a component."""
    frame: int
    """The start-of-frame marker's second byte, 0xC0 to 0xCF."""
    orientation: int
    """Exif's, 1 (upright) to 8."""
    adobe_transform: int
    """-1: no Adobe segment; 0: RGB or CMYK, 1: YCbCr, 2: YCCK."""


def sniff_jpeg(data: bytes) -> JpegHeader:
    """Walks the segments of a JPEG up to its first scan, and looks for its end.

    Raises BadImage for a file that is broken or cut off. Nothing is decoded.
    """
    position, end = 2, len(data)
    frame = height = width = components = precision = 0
    orientation, transform = 1, -1
    while True:
        if position + 4 > end:
            raise BadImage("truncated JPEG")
        if data[position] != 0xFF:
            raise BadImage("damaged JPEG: no marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            raise BadImage("damaged JPEG: it ends before its image")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            position += 2
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if length < 2:
            raise BadImage("damaged JPEG: a segment of impossible length")
        body = position + 4
        position += 2 + length
        if position > end:
            raise BadImage("truncated JPEG")
        if marker in FRAMES:
            if length < 8:
                raise BadImage("damaged JPEG: a frame header that is too short")
            frame, precision, components = marker, data[body], data[body + 5]
            height = data[body + 1] << 8 | data[body + 2]
            width = data[body + 3] << 8 | data[body + 4]
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[body + 6 : position])
        elif marker == 0xEE and length >= 14 and data[body : body + 5] == b"Adobe":
            transform = data[body + 11]
        elif marker == 0xDA:
            break
    if not frame or not height or not width:
        raise BadImage("damaged JPEG: no size in its header")
    # Inside a scan 0xFF is always followed by 0 or a restart marker, so FF D9 is the image's end.
    # Files with something behind it (padding, a second picture) are whole all the same.
    if not data.endswith(b"\xff\xd9") and data.find(b"\xff\xd9", position) < 0:
        raise BadImage("truncated JPEG")
    return JpegHeader(height, width, components, precision, frame, orientation, transform)


def exif_orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, in an Exif block (a TIFF header and its first directory); else 1."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(tiff[:4])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if at + 12 > len(tiff):
            break
        if number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def prepare_image(data: bytes, policy: Policy, max_bytes: int = 1 << 32) -> Prepared:
    """What is stored for an image file's bytes; at most `max_bytes` of it.

    Raises BadImage with the reason for what can't be stored.
    """
    if not data:
        raise BadImage("empty file", is_image=False)
    if data[:3] == b"\xff\xd8\xff":
        header = sniff_jpeg(data)
        check_pixels(header.width, header.height, policy)
        if policy.check == "decode" and header.precision == 8 and header.components != 4:
            decode_strictly(data)
        reason = why_not_copied(header, len(data), policy, max_bytes)
        if not reason:
            return Prepared(data, header.height, header.width, "")
        return reencode(data, policy, max_bytes, reason, header.orientation)
    return reencode(data, policy, max_bytes, "", 0)


def why_not_copied(header: JpegHeader, size: int, policy: Policy, max_bytes: int) -> str:
    """Why a JPEG can't be stored as it is; empty if it can."""
    if header.components == 4:
        return "YCCK JPEG" if header.adobe_transform == 2 else "CMYK JPEG"
    if header.frame in ARITHMETIC_FRAMES:
        return "arithmetic-coded JPEG"
    plain = header.precision == 8 and header.components in (1, 3)
    if not plain or header.frame not in COPIED_FRAMES:
        return "unusual JPEG"
    if header.orientation != 1:
        return "EXIF-rotated JPEG"
    if policy.max_side is not None and max(header.height, header.width) > policy.max_side:
        return "JPEG"  # ", resized" is added where it is done
    if size > max_bytes:
        return "JPEG larger than a page"
    return "JPEG" if policy.reencode == "always" else ""


def check_pixels(width: int, height: int, policy: Policy) -> None:
    if width * height > policy.max_pixels:
        raise BadImage(f"more than {policy.max_pixels} pixels: {width} x {height}")


def decode_strictly(data: bytes) -> None:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        raise BadImage(f"damaged JPEG: {error}") from None


def reencode(
    data: bytes, policy: Policy, max_bytes: int, reason: str, orientation: int
) -> Prepared:
    """Decodes, turns upright, converts to RGB, shrinks and encodes. `orientation` 0: ask Pillow."""
    import numpy as np
    import simplejpeg
    from PIL import Image, UnidentifiedImageError

    try:
        image: PILImage.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise unidentified(data) from None
    except Exception as error:
        raise BadImage(f"damaged image: {error}") from None
    name = image.format or "image"
    width, height = image.size
    check_pixels(width, height, policy)
    if not reason:
        reason = name + (" with alpha" if image.has_transparency_data else "")
        reason += ", 16-bit" if image.mode.startswith("I") else ""
        reason += ", first frame" if getattr(image, "is_animated", False) else ""
    limit = JPEG_MAX_SIDE if policy.max_side is None else policy.max_side
    shrink = max(width, height) > limit
    if shrink:
        reason += ", resized"
    if policy.reencode == "never":
        raise BadImage(f"would need re-encoding: {reason}")
    if shrink and policy.max_side is None:
        raise BadImage(f"more than {JPEG_MAX_SIDE} pixels on a side: {width} x {height}")
    try:
        if shrink:
            scale = limit / max(width, height)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            # libjpeg drops frequencies while it decodes: cheap, and antialiased. Twice the size
            # that is wanted remains for the real filter.
            image.draft(None, (2 * size[0], 2 * size[1]))
        image.load()
        orientation = orientation or image.getexif().get(0x0112, 1)
        image = to_rgb(image, name)
        if shrink:
            image = image.resize(size, Image.Resampling.BICUBIC)
        if orientation in range(2, 9):
            image = image.transpose(Image.Transpose(UPRIGHT[orientation]))
        pixels = np.ascontiguousarray(image)  # uint8 [height, width, 3]
    except BadImage:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        raise BadImage(f"damaged {name}: {error}") from None
    height, width = pixels.shape[:2]
    chroma = "444" if min(height, width) < FULL_CHROMA_BELOW else "420"
    encoded = simplejpeg.encode_jpeg(pixels, policy.quality, "RGB", chroma, False)
    if len(encoded) > max_bytes:
        raise BadImage(f"larger than a page of {max_bytes} bytes: give a smaller --max-side")
    return Prepared(encoded, height, width, reason)


# Exif orientation -> the PIL.Image.Transpose member that undoes it, by its value.
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def to_rgb(image: PILImage.Image, name: str) -> PILImage.Image:
    """Any Pillow mode to RGB: transparency over white, 16 bits scaled to 8 (Pillow would clip)."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and name in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(f"32-bit {name}: its range is not known; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def unidentified(data: bytes) -> BadImage:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return BadImage("HEIC image: not supported, convert it first")
    return BadImage("not an image", is_image=False)
