"""Predicts the peak memory of decoding an image from its header, for memory_budget.

Each figure is the growth of a process's peak memory per pixel, measured on images of 33 megapixels
of every format and rounded up. tests/data_tools/images/test_memory_budget.py measures it again.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from data_tools.images.jpeg_header import JpegHeader
from data_tools.images.jpeg_segments import ARITHMETIC_PROGRESSIVE, PROGRESSIVE

# Bytes per pixel, by mode, of Pillow's image, the converted image and the array together.
GREY_MODES = {"1": 4, "L": 3, "I;16": 5, "I;16B": 12, "LA": 7, "La": 7}
COLOUR = 10
# Bytes per pixel and band of decoders that hold a whole image in addition to Pillow's, by format.
EXTRA = {"WEBP": 3, "AVIF": 3, "JPEG2000": 5}
ENCODED = 2  # bytes per pixel of the upright copy and of the encoded file
# Bytes per pixel of simplejpeg's array, the upright copy and the image that is resized.
JPEG_BYTES = 8
COEFFICIENT_BYTES = 2  # per sample: a progressive JPEG is decoded after its last scan


def image_bytes(image: Image.Image, size: tuple[int, int]) -> int:
    """Bytes for an image that Pillow opened and that is stored at `size` (width, height)."""
    pixels = image.width * image.height
    per_pixel = GREY_MODES.get(image.mode, COLOUR)
    per_pixel += EXTRA.get(image.format or "", 0) * max(1, len(image.getbands()))
    frames = 2 if getattr(image, "is_animated", False) else 1  # the previous frame is kept
    return frames * per_pixel * pixels + ENCODED * size[0] * size[1]


def jpeg_bytes(header: JpegHeader, size: tuple[int, int]) -> int:
    """Bytes for a JPEG that is stored at `size` (width, height, before rotation)."""
    pixels = header.width * header.height
    # libjpeg scales in steps of an eighth while it decodes, to at least twice the stored size.
    decoded = min(pixels, 9 * size[0] * size[1])
    gathered = header.frame in (PROGRESSIVE, ARITHMETIC_PROGRESSIVE)
    return JPEG_BYTES * decoded + gathered * COEFFICIENT_BYTES * header.components * pixels


def array_bytes(pixels: np.ndarray) -> int:
    """Bytes for an image that came as an array: a copy to resize, and the encoded file."""
    return 2 * pixels.nbytes
