"""How many bytes decoding an image holds at once, predicted from its header, for memory_budget.

Each figure is the growth of a process's peak memory per pixel, measured on 33 megapixels of every
format and rounded up; tests/data_tools/images/test_memory_budget.py measures again.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from data_tools.images.jpeg_header import JpegHeader
from data_tools.images.jpeg_segments import ARITHMETIC_PROGRESSIVE, PROGRESSIVE

# Pillow's image, the image it is converted to, and the array: in bytes per pixel, by mode.
GREY_MODES = {"1": 4, "L": 3, "I;16": 5, "I;16B": 12, "LA": 7, "La": 7}
COLOUR = 10
# Decoders that hold the whole image beside Pillow's own, by format, per pixel and per band.
EXTRA = {"WEBP": 3, "AVIF": 3, "JPEG2000": 5}
ENCODED = 2  # what is turned, and the bytes to store
# simplejpeg's array, the one that is turned upright, and the image to resize.
JPEG_BYTES = 8
COEFFICIENT_BYTES = 2  # of each sample, while the scans of a progressive JPEG are gathered


def image_bytes(image: Image.Image, size: tuple[int, int]) -> int:
    """Bytes for an image that Pillow opened and that is stored at `size` (width, height)."""
    pixels = image.width * image.height
    per_pixel = GREY_MODES.get(image.mode, COLOUR)
    per_pixel += EXTRA.get(image.format or "", 0) * max(1, len(image.getbands()))
    frames = 2 if getattr(image, "is_animated", False) else 1  # the frame before is kept
    return frames * per_pixel * pixels + ENCODED * size[0] * size[1]


def jpeg_bytes(header: JpegHeader, size: tuple[int, int]) -> int:
    """Bytes for a JPEG that is stored at `size` (width, height, before it is turned)."""
    pixels = header.width * header.height
    # libjpeg scales while it decodes, to at least twice the size that is stored, in eighths.
    decoded = min(pixels, 9 * size[0] * size[1])
    gathered = header.frame in (PROGRESSIVE, ARITHMETIC_PROGRESSIVE)
    return JPEG_BYTES * decoded + gathered * COEFFICIENT_BYTES * header.components * pixels


def array_bytes(pixels: np.ndarray) -> int:
    """Bytes for an image that came as an array: an image to resize, and the bytes to store."""
    return 2 * pixels.nbytes
