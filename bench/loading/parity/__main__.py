"""Measures how far each op is from its reference: ours, Kornia's, DALI's, and FFCV's shortcuts.

    python -m bench.loading.parity [FOLDER] [--images 48] [--draws 20000] [--out RESULT.json]

The reference is Pillow's decode, crop and blur, and torchvision's colours on float tensors. (The
official MoCo ran the colours on 8-bit images: column Pillow.) All sides get the same factors, image
by image. The tables give the mean and the largest absolute difference in grey levels of 255, on
photographs and on noise. Then the random draws are compared with torchvision's as distributions.
FOLDER holds photographs; without it ../shared/data/photos-300.tar is used, or the demo's images are
drawn. --out also writes the tables as markdown. Exits with 1 if fastmoco leaves its tolerance.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, nargs="?", help="a folder or tar of photographs")
    flags.add_argument("--images", type=int, default=48,
                       help="number of photographs, and of noise images [default: 48]")
    flags.add_argument("--draws", type=int, default=20_000,
                       help="number of draws to compare [default: 20000]")
    flags.add_out("write the result as JSON to this file, and as markdown beside it")

import contextlib
import io
import tempfile

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from bench.demo.photographs import POLICY, photographs
from bench.loading.parity.draws import Fit, distributions
from bench.loading.parity.ops import FORMS, OPS, Form, by_reference, colour_of, does
from bench.loading.parity.others import dali_decode, other_cuts
from bench.shared.results import write_json
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.store import Store
from fastmoco import draws
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.engines.resident_gpu import cut
from fastmoco.loading.engines.threads import cut_windows, cut_windows_plain
from fastmoco.recipe import MOCO_V2
from fastmoco.system.versions import versions
from fastmoco.terminal.console import say, table

AUG, SIZE = MOCO_V2.augmentation, 224
# Tolerances of fastmoco's forms in grey levels: (mean, largest), on photographs and on noise.
TOLERANCE = {
    "decode": (0.5, 10.0), "crop": (0.5, 3.0), "decode and crop": (0.5, 3.0),
    "brightness": (0.01, 0.01),
    "contrast": (0.05, 0.1), "saturation": (0.05, 0.1), "hue": (0.05, 1.0), "grey": (0.05, 0.1),
    "blur": (0.6, 30.0), "blur, 7 pixels in": (0.6, 4.0), "flip": (0.01, 0.01),
    "whole v2": (0.7, 30.0),
}
OURS = ("fastmoco", "resident", "plain", "CPU", "GPU form")
Cell = tuple[float, float]
Table = dict[str, dict[str, Cell]]


def apart(a: NDArray, b: NDArray) -> Cell:
    """Return the mean and the largest absolute difference."""
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(difference.mean()), float(difference.max())


def pooled(cells: list[Cell]) -> Cell:
    """Return the mean of the means and the largest of the largest."""
    return float(np.mean([c[0] for c in cells])), max(c[1] for c in cells)


def decode_rows(store: Store, count: int) -> dict[str, Cell]:
    """Compare the exact decode, and the fast one that FFCV uses, with Pillow's."""
    exact, fast, jpegs, pixels = [], [], [], []
    for i in range(min(count, len(store))):
        encoded = store.encoded(i).tobytes()
        reference = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        exact.append(apart(simplejpeg.decode_jpeg(encoded), reference))
        shortcut = simplejpeg.decode_jpeg(encoded, fastdct=True, fastupsample=True)
        fast.append(apart(shortcut, reference))
        jpegs.append(np.frombuffer(encoded, np.uint8))
        pixels.append(reference)
    found = {"fastmoco": pooled(exact), "FFCV's": pooled(fast)}
    with contextlib.suppress(ImportError):  # DALI is optional: engine_rows() says so
        theirs = zip(dali_decode(jpegs), pixels, strict=True)
        found["DALI"] = pooled([apart(a, b) for a, b in theirs])
    return found


def crop_rows(images: list[NDArray[np.uint8]]) -> dict[str, Cell]:
    """Compare each way to crop and resize with Pillow's, from the same pixels."""
    import torch

    sizes = np.array([image.shape[:2] for image in images])
    windows = draws.crop_windows(0, 0, np.arange(len(images)), sizes, 1, AUG.scale, AUG.ratio)
    ways: dict[str, list[Cell]] = {}
    others = other_cuts()
    for image, window in zip(images, windows, strict=True):
        top, left, height, width = window[0].tolist()
        box = Image.fromarray(image).crop((left, top, left + width, top + height))
        expected = np.asarray(box.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        out = np.empty((1, SIZE, SIZE, 3), np.uint8)
        cut_windows(image, window, out)
        ways.setdefault("fastmoco", []).append(apart(out[0], expected))
        cut_windows_plain(image, window, out)
        ways.setdefault("torch uint8", []).append(apart(out[0], expected))
        columns = torch.from_numpy(image).transpose(0, 1)[None].contiguous()
        on_device = cut(columns, torch.from_numpy(window)[None], SIZE)[0, 0].numpy()
        ways.setdefault("resident", []).append(apart(on_device, expected))
        inside = image[top : top + height, left : left + width]
        for name, resize in others.items():
            ways.setdefault(name, []).append(apart(resize(inside, SIZE), expected))
    return {name: pooled(cells) for name, cells in ways.items()}


def engine_rows(store: Store, count: int) -> dict[str, Cell]:
    """Compare each engine's decode and crop with Pillow's, from the same JPEGs and windows."""
    ids = np.arange(min(count, len(store)))
    windows = draws.crop_windows(0, 0, ids, store.sizes[ids], 1, AUG.scale, AUG.ratio)
    expected = np.empty((len(ids), SIZE, SIZE, 3), np.uint8)
    for i in ids.tolist():
        top, left, height, width = windows[i, 0].tolist()
        image = Image.open(io.BytesIO(store.encoded(i).tobytes())).convert("RGB")
        box = image.crop((left, top, left + width, top + height))
        expected[i] = np.asarray(box.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    found = {}
    for title, name in (("fastmoco", "threads"), ("DALI", "dali"), ("FFCV's", "ffcv")):
        try:
            engine = open_engine(name, store).engine
        except Exception as error:  # any library may be missing or broken
            say(f"left out: {title} ({error})")
            continue
        out = np.empty((len(ids), 1, SIZE, SIZE, 3), np.uint8)
        engine.submit(ids, windows, out).result()
        engine.close()
        found[title] = apart(out[:, 0], expected)
    return found


def op_rows(views: NDArray[np.uint8], forms: dict[str, Form]) -> Table:
    """Compare each op alone, and all of v2, on uint8 views [N, S, S, 3] with the same factors."""
    found: Table = {}
    for op in OPS:
        c = colour_of(op, len(views))
        expected = by_reference(views, c)
        results = {}
        for name, form in forms.items():
            if does(name, op):
                with contextlib.suppress(ImportError):  # DALI is optional: engine_rows() says so
                    results[name] = form(views, c) * 255
        found[op] = {name: apart(x, expected * 255) for name, x in results.items()}
        if op == "blur":  # Pillow extends the edges in each of its three passes, ours once
            inside = np.s_[:, 7:-7, 7:-7]
            found["blur, 7 pixels in"] = {
                name: apart(x[inside], expected[inside] * 255) for name, x in results.items()
            }
    return found


def tables(
    store: Store, photographs: list[NDArray[np.uint8]], noise: list[NDArray[np.uint8]],
    forms: dict[str, Form] = FORMS,
) -> dict[str, Table]:
    """Return the differences by kind of image, op and system."""
    found: dict[str, Table] = {
        "decoding and cutting photographs": {
            "decode": decode_rows(store, len(photographs)),
            "crop": crop_rows(photographs),
            "decode and crop": engine_rows(store, len(photographs)),
        },
        "cutting noise": {"crop": crop_rows(noise)},
    }
    for kind, images in (("photographs", photographs), ("noise", noise)):
        views = np.stack([
            np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.BILINEAR))
            for image in images
        ])
        found[f"colours and blur of {kind}"] = op_rows(views, forms)
    return found


def beyond(found: dict[str, Table]) -> list[str]:
    """Return a line for each of fastmoco's ops that is outside its tolerance."""
    lines = []
    for kind, rows in found.items():
        for op, cells in rows.items():
            for name, (mean, most) in cells.items():
                if name in OURS and op in TOLERANCE:
                    allowed = TOLERANCE[op]
                    if mean > allowed[0] or most > allowed[1]:
                        lines.append(f"{name}, {op}, {kind}: {mean:.3f} on average, {most:.2f} "
                                     f"at most; allowed {allowed[0]:g} and {allowed[1]:g}")
    return lines


def grid(rows: Table) -> tuple[list[str], list[list[str]]]:
    """Return heads and lines: a line per op, a column per system, cells "mean / largest"."""
    systems = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    lines = [
        [op, *(f"{cells[s][0]:.2f} / {cells[s][1]:.1f}" if s in cells else "-" for s in systems)]
        for op, cells in rows.items()
    ]
    return ["op", *systems], lines


def fit_lines(fits: list[Fit]) -> list[list[str]]:
    return [[f.name, f.ours, f.theirs, f.test, "yes" if f.good else "NO"] for f in fits]


FIT_HEADS = ["draw", "ours", "torchvision's", "test", "agree"]


def markdown(found: dict[str, Table], fits: list[Fit]) -> str:
    """Return the tables as markdown."""
    def lines(heads: list[str], rows: list[list[str]]) -> list[str]:
        return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
                *("| " + " | ".join(row) + " |" for row in rows), ""]

    text = []
    for kind, rows in found.items():
        text += [f"{kind.capitalize()} (mean / largest difference from the reference, of 255):", ""]
        text += lines(*grid(rows))
    return "\n".join([*text, "Draws:", "", *lines(FIT_HEADS, fit_lines(fits))])


def main() -> int:
    """Measure, print; return 1 if a tolerance or a distribution is missed."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = photographs(args.folder, work, train=240)
        prepare(source, work / "data", POLICY)
        store = open_store(work / "data")
        chosen = np.linspace(0, len(store) - 1, min(args.images, len(store))).astype(int)
        images = [simplejpeg.decode_jpeg(store.encoded(int(i))) for i in chosen]
        random = np.random.default_rng(0)
        noise = [random.integers(0, 256, (300, 400, 3), np.uint8) for _ in chosen]
        found = tables(store, images, noise)
    fits = distributions(args.draws)
    for kind, rows in found.items():
        say(f"{kind}: mean / largest difference from the reference, of 255")
        heads, lines = grid(rows)
        table(heads, [tuple(line) for line in lines])
    table(FIT_HEADS, [tuple(line) for line in fit_lines(fits)])
    missed = beyond(found) + [f"{f.name}: not torchvision's distribution" for f in fits
                              if not f.good]
    for line in missed:
        say(f"missed: {line}")
    if args.out:
        write_json(args.out, {
            "differences": found, "draws": [f._asdict() for f in fits], "missed": missed,
            "tolerance": TOLERANCE, **versions(),
        })
        args.out.with_suffix(".md").write_text(markdown(found, fits))
    return 1 if missed else 0


if __name__ == "__main__":
    finish(main)
