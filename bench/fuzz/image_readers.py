"""Images of every kind that Pillow or our own parser reads."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.fuzz import pictures
from bench.fuzz.reader import Reader
from data_tools.errors import UserError
from data_tools.images.codec import quiet_pillow
from data_tools.images.prepare_image import BadImage, prepare_image
from data_tools.images.sniff import sniff
from data_tools.policy import Policy

# A header may claim any size up to the limit on pixels, and a pixel takes 3 to 8 bytes. With this
# limit, a fault of memory is one that the claimed size does not explain.
POLICIES = (Policy(max_pixels=1 << 23), Policy(max_pixels=1 << 23, check="decode"))


def read_image(folder: Path, name: str) -> Any:
    """Read as prep does, with both checks, and as the readers of records do."""
    data = (folder / name).read_bytes()
    found: list[tuple[Any, ...]] = [sniff(data)]
    with quiet_pillow():
        for policy in POLICIES:
            prepared = prepare_image(data, policy)
            found.append((prepared.height, prepared.width, prepared.reason))
    return found


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Draw waves, which compress like photographs: uint8 [height, width, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0, 5, (channels, 3))]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", height: int = 24, width: int = 37) -> Image.Image:
    rgb = Image.fromarray(smooth(height, width))
    if mode == "I;16":
        return Image.fromarray(smooth(height, width, 1)[..., 0].astype(np.uint16) * 257)
    return rgb.convert(mode)


def jpegs() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x112] = 6
    rgb = picture()
    return {
        "plain": encode(rgb, "JPEG"),
        "exif": encode(rgb, "JPEG", exif=exif.tobytes(), comment=b"words"),
        "progressive": encode(rgb, "JPEG", progressive=True),
        "restarts": encode(rgb, "JPEG", restart_marker_rows=1),
        "grey": encode(picture("L"), "JPEG"),
        "cmyk": encode(picture("CMYK"), "JPEG"),
        "xmp": encode(rgb, "JPEG", xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/" '
                                        b'tiff:Orientation="6"></x:xmpmeta>'),
    }


def pngs() -> dict[str, bytes]:
    modes = ("RGB", "L", "1", "P", "LA", "RGBA", "I;16")
    found = {mode.replace(";", ""): encode(picture(mode), "PNG") for mode in modes}
    found["frames"] = encode(picture(), "PNG", save_all=True, append_images=[picture()])
    return found


def tiffs() -> dict[str, bytes]:
    found = {mode.replace(";", ""): encode(picture(mode), "TIFF")
             for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16")}
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        mode = "1" if packed == "group4" else "RGB"
        found[packed] = encode(picture(mode), "TIFF", compression=packed)
    found["pages"] = encode(picture(), "TIFF", save_all=True, append_images=[picture("L")])
    found["big"] = encode(picture(), "TIFF", big_tiff=True)
    return found


def bmps() -> dict[str, bytes]:
    return {mode: encode(picture(mode), "BMP") for mode in ("RGB", "L", "1", "P", "RGBA")}


def gifs() -> dict[str, bytes]:
    more = [picture("L", 20, 30), picture("P")]
    return {
        "one": encode(picture("P"), "GIF"),
        "frames": encode(picture(), "GIF", save_all=True, append_images=more, loop=0),
        "seen_through": encode(picture("P"), "GIF", transparency=3, interlace=1),
    }


def webps() -> dict[str, bytes]:
    more = [picture("L")]
    return {
        "lossy": encode(picture(), "WEBP"),
        "lossless": encode(picture(), "WEBP", lossless=True),
        "alpha": encode(picture("RGBA"), "WEBP"),
        "frames": encode(picture(), "WEBP", save_all=True, append_images=more),
        "exif": encode(picture(), "WEBP", exif=Image.Exif().tobytes() + b"x"),
    }


def avifs() -> dict[str, bytes]:
    return {
        "plain": encode(picture(), "AVIF", speed=10),
        "alpha": encode(picture("RGBA"), "AVIF", speed=10),
    }


def jpeg2000s() -> dict[str, bytes]:
    return {
        "jp2": encode(picture(), "JPEG2000"),
        "grey": encode(picture("L"), "JPEG2000"),
        "codestream": encode(picture(), "JPEG2000", no_jp2=True),
    }


def netpbms() -> dict[str, bytes]:
    return {
        "ppm": encode(picture(), "PPM"), "pgm": encode(picture("L"), "PPM"),
        "pbm": encode(picture("1"), "PPM"),
        "deep": b"P5\n37 24\n65535\n" + bytes(range(37)) * 48,
        "plain": b"P3\n2 2\n255\n" + b"1 2 3 4 5 6 7 8 9 10 11 12\n",
    }


def builder(make: Callable[[], dict[str, bytes]]) -> Callable[[Path], list[str]]:
    def build(folder: Path) -> list[str]:
        made = make()
        for name, data in made.items():
            (folder / name).write_bytes(data)
        return list(made)

    return build


def image(
    kind: str, make: Callable[[], dict[str, bytes]], *edits: Callable[[random.Random, bytes], bytes]
) -> Reader:
    return Reader(f"image-{kind}", builder(make), read_image, edits,
                  refusals=(UserError, BadImage))


READERS = [
    image("jpeg", jpegs, pictures.edit_jpeg),
    image("png", pngs, pictures.edit_png),
    image("tiff", tiffs, pictures.edit_tiff),
    image("bmp", bmps),
    image("gif", gifs),
    image("webp", webps, pictures.edit_riff),
    image("avif", avifs, pictures.edit_boxes),
    image("jpeg2000", jpeg2000s, pictures.edit_boxes),
    image("netpbm", netpbms, pictures.edit_netpbm),
]
