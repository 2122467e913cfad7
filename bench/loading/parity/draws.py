"""Compares the distributions of fastmoco's draws with those of torchvision's get_params."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import ColorJitter, RandomResizedCrop

from fastmoco import draws
from fastmoco.recipe import MOCO_V2

AUG = MOCO_V2.augmentation
SIDES = ((375, 500), (500, 333), (480, 120))  # the last needs all ten tries and the fallback


class Fit(NamedTuple):
    """One drawn quantity: mean and deviation on both sides, and a test at the 0.1 % level."""

    name: str
    ours: str
    theirs: str
    test: str
    good: bool


def kolmogorov(a: NDArray, b: NDArray) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance of two samples and its critical value at 0.1 %."""
    points = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max()), 1.95 * np.sqrt(1 / len(a) + 1 / len(b))


def compared(name: str, ours: NDArray, theirs: NDArray) -> Fit:
    """Compare two samples of one quantity."""
    distance, critical = kolmogorov(ours, theirs)
    mine, other = (f"{x.mean():.3f} ± {x.std():.3f}" for x in (ours, theirs))
    test = f"KS {distance:.4f} < {critical:.4f}"
    return Fit(name, mine, other, test, bool(distance < critical))


def share(name: str, drawn: NDArray, p: float) -> Fit:
    """Compare how often a coin fell with its probability p."""
    found, allowed = float(drawn.mean()), 3.3 * np.sqrt(p * (1 - p) / drawn.size)
    good = bool(abs(found - p) < allowed)
    return Fit(name, f"{found:.4f}", f"{p:g}", f"off by < {allowed:.4f}", good)


def distributions(count: int) -> list[Fit]:
    """Compare windows on three image shapes, colour factors, orders, blur and coins."""
    torch.manual_seed(0)
    ids, fits = np.arange(count), []
    for height, width in SIDES:
        sizes = np.tile([height, width], (count, 1))
        mine = draws.crop_windows(3, 0, ids, sizes, 1, AUG.scale, AUG.ratio)[:, 0].astype(float)
        image = torch.empty(3, height, width)
        scale, ratio = list(AUG.scale), list(AUG.ratio)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)], float
        )
        for title, of in (
            ("area", lambda w: w[:, 2] * w[:, 3] / (height * width)),  # noqa: B023
            ("ratio", lambda w: w[:, 3] / w[:, 2]),
            ("centre down", lambda w: (w[:, 0] + w[:, 2] / 2) / height),  # noqa: B023
            ("centre across", lambda w: (w[:, 1] + w[:, 3] / 2) / width),  # noqa: B023
        ):
            fits.append(compared(f"window of {width} x {height}, {title}", of(mine), of(theirs)))
    c = draws.colour(3, 0, ids, 1, AUG)
    jitter = ColorJitter(*AUG.jitter)
    params = [
        ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(count)
    ]
    for k, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = np.array([p[k + 1] for p in params], float)
        fits.append(compared(name, getattr(c, name)[:, 0].astype(float), theirs))
    codes = c.order[:, 0] @ np.array([64, 16, 4, 1])
    counts = np.unique(codes, return_counts=True)[1]
    chi = float(((counts - count / 24) ** 2 / (count / 24)).sum()) if len(counts) == 24 else np.inf
    fits.append(Fit("the 24 orders", f"{len(counts)} orders", "24", f"chi2 {chi:.1f} < 49.7",
                    chi < 49.7))  # 23 degrees of freedom, 0.1 %
    drawn = c.sigma[c.sigma > 0].astype(float)
    uniform = np.random.default_rng(0).uniform(*AUG.blur_sigma, len(drawn))
    fits.append(compared("blur's sigma", drawn, uniform))
    fits += [share("colours", c.jitter, AUG.jitter_p), share("grey", c.gray, AUG.gray_p),
             share("blur", c.sigma > 0, AUG.blur_p), share("flip", c.flip, AUG.flip_p)]
    return fits
