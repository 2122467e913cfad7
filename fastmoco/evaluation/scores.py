"""How right predictions are: top-1 with its interval, each class, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of the interval
RESAMPLES = 10_000


@dataclass(frozen=True)
class ClassScore:
    """One class."""

    name: str
    images: int
    """Of this class among those predicted."""
    right: float | None
    """Share of them that was predicted as it (recall); None where there are none."""
    precise: float | None
    """Share of what was predicted as it that is it (precision); None where nothing was."""


@dataclass(frozen=True)
class Score:
    """Of predictions on a labelled set."""

    images: int
    top1: float
    """Share that is right, 0..1."""
    low: float
    """Of the 95 % interval of top1: see interval()."""
    high: float
    top5: float | None
    """Share whose class is among the five likeliest; None where that was not asked for."""
    classes: list[ClassScore]
    confusion: list[tuple[int, int, int]]
    """(class, predicted class, images), of all that occur: what is right too."""


def score(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], names: list[str],
    top5: float | None = None,
) -> Score:
    """The score of predictions [N] against labels [N], both places in names."""
    count = len(names)
    table = np.bincount(truth * count + predicted, minlength=count * count).reshape(count, count)
    hits, of_class, of_prediction = np.diag(table), table.sum(axis=1), table.sum(axis=0)

    def share(part: np.integer, whole: np.integer) -> float | None:
        return float(part / whole) if whole else None

    classes = [
        ClassScore(name, int(of_class[c]), share(hits[c], of_class[c]),
                   share(hits[c], of_prediction[c]))
        for c, name in enumerate(names)
    ]
    low, high = interval(int(hits.sum()), len(truth))
    rows, columns = np.nonzero(table)
    confusion = [(int(r), int(c), int(table[r, c])) for r, c in zip(rows, columns, strict=True)]
    return Score(
        len(truth), float(hits.sum() / len(truth)), low, high, top5, classes, confusion
    )


def interval(right: int, images: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a share, over the images (Efron 1979).

    Of a resample, N images drawn with replacement from N of which `right` are right, only the
    number that is right matters, and that is binomial: it is drawn as such.
    """
    rng = np.random.default_rng(seed)
    shares = rng.binomial(images, right / images, RESAMPLES) / images
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
