"""Images through prepare_image: the stored pixels, or the reason that an image is left out."""

import numpy as np
import pytest

from data_tools.images.codec import quiet_pillow
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.policy import Policy

HEIGHT, WIDTH = 30, 50


def lossless(data: bytes) -> tuple[np.ndarray, str]:
    """The pixels that are stored, uint8 [H, W, 3], and the reason."""
    with quiet_pillow():
        prepared = prepare_image(data, Policy(), raw=True)
    assert prepared.raw and prepared.reason.endswith(", stored raw")
    shape = prepared.height, prepared.width, 3
    reason = prepared.reason.removesuffix(", stored raw")
    return np.frombuffer(prepared.data, np.uint8).reshape(shape), reason


def rejection(data: bytes) -> tuple[str, bool]:
    """The reason that a file is left out, and whether it is an image."""
    with pytest.raises(BadImage) as caught, quiet_pillow():
        prepare_image(data, Policy())
    return str(caught.value), caught.value.is_image


def image_rejection(data: bytes, policy: Policy | None = None) -> str:
    """The reason that an image is left out of raw storage."""
    with pytest.raises(BadImage) as caught, quiet_pillow():
        prepare_image(data, policy or Policy(), raw=True)
    assert caught.value.is_image
    return str(caught.value)


def wide_grey() -> np.ndarray:
    """Every step of 16 bits that matters, and the ends: uint16 [HEIGHT, WIDTH]."""
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    values[0, :6] = 0, 127, 128, 129, 65406, 65535
    return values
