"""Small generated images, and their encoded bytes."""

import io

import numpy as np
import simplejpeg
from PIL import Image


def smooth(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """uint8 [height, width, channels], smooth enough that JPEG changes it little."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0, 5, (channels, 3))]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


def jpeg(height: int = 24, width: int = 32, seed: int = 0) -> bytes:
    return simplejpeg.encode_jpeg(smooth(height, width, seed), 95, "RGB", "444", False)


def encode(image: object, form: str, **options: object) -> bytes:
    """A Pillow image in Pillow's format `form`."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[attr-defined]
    return buffer.getvalue()


def smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blobs of colour with a little texture: compresses and resizes as a photograph does."""
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    base = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(base) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
