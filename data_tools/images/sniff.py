"""The kind and size of an encoded image in a record file, by its header.

A raw image is stored as a binary PPM (netpbm's ppm(5), "P6"), so that any decoder reads it. The
plain pixels follow its header, and our index points at them.
"""

from __future__ import annotations

import io
import re
import warnings

from data_tools.images.magic import JPEG_START
from data_tools.images.prepare_image import FORMATS, BadImage, sniff_jpeg
from data_tools.images.tiff_header import is_tiff, read_tiff
from data_tools.store import JPEG, OTHER, RAW

PPM = re.compile(rb"P6\s(\d{1,9})\s(\d{1,9})\s255\s")


def ppm_header(height: int, width: int) -> bytes:
    """The header of a binary PPM of 8 bits."""
    return b"P6\n%d %d\n255\n" % (width, height)


def sniff(data: bytes) -> tuple[int, int, int, int]:
    """Returns (kind, height, width, header) of an encoded image, without decoding it.

    header: bytes of the PPM header before the pixels of a raw image, else 0. Never raises: a
    damaged or unknown image is OTHER, of 0 x 0 pixels.
    """
    if data[:3] == JPEG_START:
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
        # Only the header is read. Pillow's warning of many pixels is for code that decodes them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Exception:  # Pillow's readers raise nearly everything on damaged files
        return OTHER, 0, 0, 0
    if not (0 < height < 1 << 31 and 0 < width < 1 << 31):
        return OTHER, 0, 0, 0
    return OTHER, height, width, 0
