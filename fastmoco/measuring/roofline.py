"""The bounds of a pipeline, its distance from each, and the change that gains most.

There are two models of a step. On the CPU all stages share the cores, so their times add up. On a
GPU, loading (cores, disk, bus) and computing run side by side, and the slower one sets the pace.
The gain of a change is predicted from the same times, with one of them made smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_tools.store import JPEG, Store
from fastmoco.recipe import Recipe

WHOLE = "two views + augmentation + step"  # the pipeline itself, as stages.py calls it
WORTH = 1.05  # below this factor a change is noise
# Share of a crop's time that goes with the pixels of the source image; the rest goes with those of
# the view, which stay as many.
CROP_SHARE = 0.6


@dataclass(frozen=True)
class Bound:
    """A resource: the images/s that it allows, and the share of it that the pipeline uses."""

    name: str
    images_per_s: float
    share: float


@dataclass(frozen=True)
class Change:
    """A possible change, and the images/s that it should give."""

    what: str
    predicted: float


def without_decoding(rate: dict[str, float]) -> dict[str, float]:
    """Return the rates of a pipeline whose images are decoded in memory before the first step."""
    return rate | dict.fromkeys(("read, from disk", "decode"), math.inf)


def bounds(rate: dict[str, float], overlap: bool) -> list[Bound]:
    """Return each resource with the share of it that the pipeline uses, the most used first."""
    whole = rate[WHOLE]
    names = {
        "disk (read)": rate["read, from disk"],
        "cores (libjpeg's decode)": rate["decode"],
        "cores (decode and crops)" if rate["decode"] < math.inf else "cores (crops)":
            rate["two views"],
        "bus (copy)": rate.get("copy", 0.0),
        "augmentation": rate["augmentation alone"],
        "step": rate["step alone"],
    }
    if overlap:
        names["GPU (augmentation and step)"] = computing(rate)
    found = [Bound(n, r, whole / r) for n, r in names.items() if 0 < r < math.inf]
    return sorted(found, key=lambda b: -b.share)


def computing(rate: dict[str, float]) -> float:
    """Return the images/s of augmentation and step together."""
    return 1 / (1 / rate["augmentation alone"] + 1 / rate["step alone"])


def model(seconds: dict[str, float], overlap: bool) -> float:
    """Return the images/s of a pipeline whose stages take these seconds per image."""
    loading = max(seconds["decode"] + seconds["crop"], seconds["read"], seconds["copy"])
    device = seconds["augmentation"] + seconds["step"]
    if overlap:
        return 1 / max(loading, device)
    return 1 / (max(seconds["decode"] + seconds["crop"], seconds["read"]) + device)


def changes(
    rate: dict[str, float], store: Store, recipe: Recipe, overlap: bool, cores: int,
    can_bfloat16: bool = False,
) -> list[Change]:
    """Return the possible changes that gain enough, the largest gain first.

    The model's gain multiplies the measured rate, so that its constant errors cancel.
    """
    decode = 1 / rate["decode"]
    seconds = {
        "read": 1 / rate["read, from disk"],
        "decode": decode,
        "crop": max(0.0, 1 / rate["two views"] - decode),
        "copy": 1 / rate["copy"] if "copy" in rate else 0.0,
        "augmentation": 1 / rate["augmentation alone"],
        "step": 1 / rate["step alone"],
    }
    before = model(seconds, overlap)
    found = []

    def consider(what: str, **factors: float) -> None:
        after = {name: s * factors.get(name, 1.0) for name, s in seconds.items()}
        gain = model(after, overlap) / before
        if gain > WORTH:
            found.append(Change(what, rate[WHOLE] * gain))

    short = max(recipe.size * 8 // 7, 32)
    sides = store.sizes.min(axis=1).astype(float)
    pixels = (sides.clip(max=short) / sides) ** 2
    area = store.sizes.astype(float).prod(axis=1)
    smaller = float((area * pixels).sum() / area.sum())
    consider(
        f"prep --short-side {short} ({smaller:.0%} of the pixels; small crops become softer)",
        read=smaller, decode=smaller, crop=CROP_SHARE * smaller + (1 - CROP_SHARE),
    )
    if bool((store.kinds == JPEG).all()):
        plain = float(area.mean() * 3 / max(1.0, store.lengths.mean()))
        consider(
            f"prep --raw-fraction 1: no decode, {plain:.0f} times the bytes", read=plain, decode=0.0
        )
    if overlap:
        consider(f"twice the cores ({2 * cores})", decode=0.5, crop=0.5)
    if recipe.precision == "float32" and can_bfloat16:
        consider("--precision bfloat16 (a step in half the time is typical)", step=0.5)
    return sorted(found, key=lambda change: -change.predicted)


def binds(rate: dict[str, float], overlap: bool) -> str:
    """Return the stage that takes most of the time, in words."""
    cost = {
        "decode": 1 / rate["decode"],
        "crops": max(0.0, 1 / rate["two views"] - 1 / rate["decode"]),
        "augmentation": 1 / rate["augmentation alone"],
        "step": 1 / rate["step alone"],
    }
    names: tuple[str, ...] = tuple(cost)
    where = "all stages share the cores"
    if overlap:
        loading, device = cost["decode"] + cost["crops"], cost["augmentation"] + cost["step"]
        names = ("decode", "crops") if loading > device else ("augmentation", "step")
        where = f"the {'loader' if loading > device else 'GPU'} is the slower side"
    slowest = max(names, key=lambda n: cost[n])
    return f"{slowest} ({cost[slowest] / sum(cost[n] for n in names):.0%} of the time; {where})"


def advice(found: list[Change], rate: dict[str, float]) -> str:
    """Return one line: the change with the largest gain, and its predicted rate."""
    if not found:
        return (
            "nothing about the data: the encoder is what the time goes into, as it should be; "
            "--compile, a smaller --arch or --size make it cheaper"
        )
    best = found[0]
    gain = best.predicted / rate[WHOLE]
    return f"{best.what}; predicted {best.predicted:,.0f} images/s, {gain:.2f} times"
