"""Accuracy: top-1 with its 95 % interval, per-class recall and precision, confusions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # confidence level of the interval
RESAMPLES = 10_000


@dataclass(frozen=True)
class ClassScore:
    """Score of one class."""

    name: str
    images: int
    """Number of images of this class in the evaluated set."""
    right: float | None
    """Recall, 0..1: share of these images that was predicted as this class; None if there are
    none."""
    precise: float | None
    """Precision, 0..1: share of the images predicted as this class that belong to it; None if no
    image was."""


@dataclass(frozen=True)
class Score:
    """Score of predictions on a labelled set."""

    images: int
    top1: float
    """Share of correct predictions, 0..1."""
    low: float
    """Lower end of the 95 % interval of top1; `high` is the upper end. See interval()."""
    high: float
    top5: float | None
    """Share of images whose class is among the five likeliest, 0..1; None if it was not
    computed."""
    classes: list[ClassScore]
    confusion: list[tuple[int, int, int]]
    """(class, predicted class, number of images) for all pairs that occur, correct ones
    included."""


def score(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], names: list[str],
    top5: float | None = None,
) -> Score:
    """Score predictions [N] against labels [N]; both are indices into names."""
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

    A resample draws N images with replacement from N, of which `right` are correct. Only the number
    of correct ones in it matters. That number is binomial, so it is drawn directly.
    """
    rng = np.random.default_rng(seed)
    shares = rng.binomial(images, right / images, RESAMPLES) / images
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
