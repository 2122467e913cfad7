"""Draws a labelled folder of photo-like images from a seed, without a download or a licence.

    python -m bench.demo.images OUT [--seed 0] [--train 3000] [--val 804]

Writes OUT/train/KIND/NUMBER.jpg and OUT/val/KIND/NUMBER.jpg. Kinds differ only in structure
(bench/demo/textures.py). Palette, light, contrast, scale, blur, noise and obstacles vary freely
inside each kind, so neither the mean colour nor the raw pixels reveal it. As in a real folder, some
files are PNG, WebP, grey, CMYK or EXIF-rotated, one is oversize, and a few are broken on purpose.
"""

from __future__ import annotations

import colorsys
import io
import math
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from bench.demo.textures import KINDS, Plane, Rng, fractal, smooth, step
from bench.shared.command import Flags, finish
from data_tools.machine import cores

DRAWN = 240  # longer side of a drawn scene; enlarging it makes it as soft as a photograph
# Some images of a kind are of an unusual sort: numbers first, first + every, first + 2 * every...
UNUSUAL = {
    "PNG": (3, 20), "WebP": (7, 25), "grey JPEG": (11, 30), "CMYK JPEG": (13, 60),
    "EXIF-rotated JPEG": (5, 24),
}
OVERSIZE = (3200, 2400)


@dataclass(frozen=True)
class Made:
    """The counts and names of the files that generate() wrote."""

    images: dict[str, int]
    """Number of whole images, by split."""
    unusual: dict[str, int]
    """Number of images of each unusual sort, both splits together."""
    broken: dict[str, list[str]]
    """Broken files as KIND/NAME, by split."""


def generate(
    out: Path, seed: int = 0, train: int = 3000, val: int = 804, workers: int = 0
) -> Made:
    """Write both splits into a new folder; the same seed gives the same bytes.

    train and val: number of whole images in each split, dealt to the kinds in equal parts.
    workers: number of processes; 0: one per core.
    """
    tasks = []
    for split, count in (("train", train), ("val", val)):
        for kind in KINDS:
            (out / split / kind).mkdir(parents=True, exist_ok=False)
        tasks += [(out, seed, split, number) for number in range(count)]
    if workers == 1:
        sorts = Counter(map(write_image, tasks))
    else:  # spawned, not forked: the caller may have threads
        with ProcessPoolExecutor(workers or cores(), get_context("spawn")) as pool:
            sorts = Counter(pool.map(write_image, tasks, chunksize=16))
    sorts.pop("JPEG", None)
    broken = {split: write_broken(out / split, seed) for split in ("train", "val")}
    return Made({"train": train, "val": val}, dict(sorted(sorts.items())), broken)


def write_image(task: tuple[Path, int, str, int]) -> str:
    """Draw and write one image; return its sort."""
    out, seed, split, number = task
    kind = list(KINDS)[number % len(KINDS)]
    place = number // len(KINDS)  # its number among the split's images of its kind
    rng = generator(seed, split, kind, place)
    sort = next((s for s, (first, every) in UNUSUAL.items() if place % every == first), "JPEG")
    size = photo_size(rng)
    if (split, number) == ("train", 0):
        sort, size = "oversize JPEG", OVERSIZE
    data = encode(photograph(rng, kind, size), sort, rng)
    suffix = {"PNG": ".png", "WebP": ".webp"}.get(sort, ".jpg")
    (out / split / kind / f"{place:04}{suffix}").write_bytes(data)
    return sort


def generator(seed: int, split: str, kind: str, place: int) -> Rng:
    """Return one image's own random generator, independent of the order of drawing."""
    name = zlib.crc32(f"{split}/{kind}".encode())
    return np.random.Generator(np.random.Philox(key=seed << 64 | name << 32 | place))


def photo_size(rng: Rng) -> tuple[int, int]:
    """Draw a photograph's width and height: sides of 200 to 576, landscape or portrait."""
    long = int(256 * (576 / 256) ** rng.random())
    short = max(200, round(long / rng.choice([1.0, 1.25, 4 / 3, 4 / 3, 1.5, 16 / 9])))
    return (long, short) if rng.random() < 0.65 else (short, long)


def photograph(rng: Rng, kind: str, size: tuple[int, int]) -> Image.Image:
    """Draw one scene of a kind, as a mediocre camera would take it."""
    width, height = size
    shrink = min(1.0, DRAWN / max(size))
    w, h = max(16, round(width * shrink)), max(16, round(height * shrink))
    u, v = coordinates(rng, w, h)
    field = KINDS[kind](rng, u, v)
    picture = lit(rng, coloured(rng, normal(rng, field)), field)
    if rng.random() < 0.2:
        picture = obstructed(rng, picture)
    image = Image.fromarray(np.clip(picture * 255, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.0)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(1, 7)
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def coordinates(rng: Rng, w: int, h: int) -> tuple[Plane, Plane]:
    """Return u and v [h, w] of a scene: some distance, turn and tilt, on uneven ground."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = (x - w / 2) / min(w, h), (y - h / 2) / min(w, h)
    angle = rng.uniform(-0.3, 0.3)
    tilt = rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35)
    away = 1 + tilt[0] * x + tilt[1] * y
    x, y = x / away, y / away
    across = 2.6 * 1.9 ** rng.random()  # units along the shorter side
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    u = (x * math.cos(angle) + y * math.sin(angle)) * across * stretch
    v = (y * math.cos(angle) - x * math.sin(angle)) * across / stretch
    uneven = rng.uniform(0, 0.3)
    u = u + uneven * (smooth(rng, h, w, 2.5) - 0.5) + rng.uniform(0, 50)
    v = v + uneven * (smooth(rng, h, w, 2.5) - 0.5) + rng.uniform(0, 50)
    return u.astype(np.float32), v.astype(np.float32)


def normal(rng: Rng, field: Plane) -> Plane:
    """Return tones in 0..1, with a random sign and mean, so that neither reveals the kind."""
    low, high = np.percentile(field[::3, ::3], (1, 99))
    tone = np.clip((field - low) / max(high - low, 1e-6), 0, 1)
    if rng.random() < 0.5:
        tone = 1 - tone
    mean = float(np.clip(tone.mean(), 0.05, 0.95))
    return tone ** np.clip(np.log(rng.uniform(0.3, 0.7)) / np.log(mean), 0.4, 2.5)


def palette(rng: Rng) -> np.ndarray:
    """Draw 256 colours [256, 3] from dark to light, of neighbouring hues."""
    hue, spread, rich = rng.random(), rng.normal(0, 0.06), rng.uniform(0.05, 0.6)
    light = np.array([rng.uniform(0.03, 0.25), rng.uniform(0.35, 0.6), rng.uniform(0.7, 0.97)])
    stops = [
        colorsys.hls_to_rgb((hue + spread * n) % 1, light[n], rich)
        for n in range(3)
    ]
    at = np.linspace(0, 1, 256)
    return np.stack(
        [np.interp(at, (0, 0.5, 1), [s[c] for s in stops]) for c in range(3)], axis=1
    ).astype(np.float32)


def coloured(rng: Rng, tone: Plane) -> np.ndarray:
    """Map tones through one palette, or two in parts of the picture; float32 [h, w, 3]."""
    index = (tone * 255).astype(np.uint8)
    picture = palette(rng)[index]
    if rng.random() < 0.15:
        h, w = tone.shape
        share = step(fractal(rng, h, w, 1.5, 3), 0.35, 0.65)[..., None]
        picture = picture * (1 - share) + palette(rng)[index] * share
    return picture


def lit(rng: Rng, picture: np.ndarray, field: Plane) -> np.ndarray:
    """Light the field's relief from one side, with falloff and perhaps a shadow."""
    h, w = field.shape
    angle = rng.uniform(0, 2 * math.pi)
    down, right = np.gradient(field)
    slope = math.cos(angle) * right + math.sin(angle) * down
    relief = 1 + rng.uniform(0, 0.6) * np.tanh(slope / (2 * float(slope.std()) + 1e-6))
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    side = rng.uniform(-0.5, 0.5) * x + rng.uniform(-0.5, 0.5) * y
    light = relief * np.exp(side - rng.uniform(0, 0.3) * (x * x + y * y))
    if rng.random() < 0.2:  # the shadow of something outside the picture
        shade = fractal(rng, h, w, rng.uniform(1, 3), 3)
        light = light * (1 - rng.uniform(0.3, 0.6) * step(shade, 0.5, 0.6))
    cast = rng.uniform(0.85, 1.15, 3)
    return picture * light[..., None] * cast.astype(np.float32)


def obstructed(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Cover up to a third of the scene with something out of focus."""
    h, w, _ = picture.shape
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    reach = x * math.cos(angle) + y * math.sin(angle) + 0.6 * (smooth(rng, h, w, 2) - 0.5)
    soft = rng.uniform(0.03, 0.25)
    mask = step(reach, (edge := rng.uniform(0.5, 0.9)), edge + soft)[..., None]
    blurred = palette(rng)[(255 * np.clip(fractal(rng, h, w, 2, 2), 0, 1)).astype(np.uint8)]
    return picture * (1 - mask) + blurred * mask


def encode(image: Image.Image, sort: str, rng: Rng) -> bytes:
    """Encode the picture as a file of a sort; every sort shows the same picture."""
    options: dict = {"format": "JPEG", "quality": int(rng.integers(80, 96))}
    if sort == "PNG":
        options = {"format": "PNG", "compress_level": 1}
    elif sort == "WebP":
        options = {"format": "WEBP", "quality": 85, "method": 0}
    elif sort == "grey JPEG":
        image = image.convert("L")
    elif sort == "CMYK JPEG":
        image = image.convert("CMYK")
    elif sort == "EXIF-rotated JPEG":  # stored on its side; 6 means: turn right to display
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def write_broken(folder: Path, seed: int) -> list[str]:
    """Write broken files, as every real folder has some; return KIND/NAME of each."""
    kinds = list(KINDS)
    whole = encode(photograph(generator(seed, folder.name, "broken", 0), kinds[0], (320, 240)),
                   "JPEG", generator(seed, folder.name, "broken", 1))
    page = "<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n"
    files = {
        f"{kinds[1]}/half.jpg": whole[: len(whole) // 2],
        f"{kinds[4]}/cut.jpg": whole[:-200],
        f"{kinds[6]}/empty.jpg": b"",
        f"{kinds[8]}/notes.jpg": b"to do: ask for the originals\n",
        f"{kinds[10]}/missing.png": page.encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return sorted(files)


def main() -> None:
    """Generate the images; print the counts."""
    parser = Flags(__name__, __doc__)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="[default: 0]")
    parser.add_argument("--train", type=int, default=3000, help="images in train/ [default: 3000]")
    parser.add_argument("--val", type=int, default=804, help="images in val/ [default: 804]")
    args = parser.parse_args()
    made = generate(args.out, args.seed, args.train, args.val)
    odd = ", ".join(f"{count} {sort}" for sort, count in made.unusual.items())
    print(f"{args.out}: {made.images['train']:,} train and {made.images['val']:,} val images of "
          f"{len(KINDS)} kinds; among them {odd}")
    print(f"broken on purpose: {', '.join(made.broken['train'])} in train/, as many in val/")


if __name__ == "__main__":
    finish(main)
