"""One image as the record files hold it: what it is, told by its first bytes.

A raw image is stored as a binary PPM (netpbm's ppm(5), "P6"), which any decoder reads; behind the
header lie plain pixels, and that is where our index points.
"""

from __future__ import annotations

import io
import re
import warnings

from data_tools.images.prepare_image import FORMATS, BadImage, sniff_jpeg
from data_tools.images.tiff_header import is_tiff, read_tiff
from data_tools.store import JPEG, OTHER, RAW

PPM = re.compile(rb"P6\s(\d{1,9})\s(\d{1,9})\s255\s")
# The first bytes of the formats that are images by anybody's reckoning, also of those that prep
# can't decode but names. A bitmap's are those of its header's length: "BM" alone begins texts too.
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*"
    rb"|BM(.{4}\0\0\0\0|.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0)"
    rb"|P[1-7][\s#]+[\dW#]|\0\0\0\x0c(jP  |JXL )|\xff\x4f\xff\x51|\xff\x0a"
    rb"|....ftyp(avif|avis|heic|heix|hevc|mif1|msf1)",
    re.DOTALL,
)
# Bytes that the table looks at.
HEAD = 32


def ppm_header(height: int, width: int) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height)


def is_picture(head: bytes) -> bool:
    """True if bytes begin as an image does. head: the first HEAD bytes, or all of a shorter one."""
    return MAGIC.match(head) is not None


def sniff(data: bytes) -> tuple[int, int, int, int]:
    """An encoded image -> (kind, height, width, bytes of a PPM header before the pixels, else 0).

    Nothing is decoded, and nothing is raised: what is broken or unknown is OTHER, of 0 x 0 pixels.
    """
    if data[:3] == b"\xff\xd8\xff":
        try:
            header = sniff_jpeg(data)
        except BadImage:
            return OTHER, 0, 0, 0
        return JPEG, header.height, header.width, 0
    ppm = PPM.match(data)
    if ppm:
        height, width = int(ppm[2]), int(ppm[1])
        if height and width and len(data) == ppm.end() + 3 * height * width:
            return RAW, height, width, ppm.end()
    from PIL import Image

    try:
        if is_tiff(data):
            read_tiff(data)  # raises for tags that claim more than the file: Pillow reads them all
        # Only the header is read. What Pillow warns of (many pixels) is for who decodes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Exception:  # Pillow's readers raise nearly everything on damaged files
        return OTHER, 0, 0, 0
    if not (0 < height < 1 << 31 and 0 < width < 1 << 31):
        return OTHER, 0, 0, 0
    return OTHER, height, width, 0
