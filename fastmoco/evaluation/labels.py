"""Which labels an evaluation reads: classes by name, few labels of many, and a held-out part."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco import draws

# Epochs of draws.permutation that no training run reaches: orders of their own.
_FEW, _HELD_OUT = 2**32 - 1, 2**32 - 2


def shared_labels(train: Store, val: Store) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Labels of both stores by class name, int64, and the number of classes.

    Raises UserError where either is unlabelled or val has a class that train lacks.
    """
    for store in (train, val):
        if len(store) == 0 or int(store.labels.min()) < 0:
            raise UserError(
                f"{store.path}: has images without a label; prepare it from class folders, or "
                f"with --labels"
            )
    if train.classes and val.classes:
        strange = [name for name in val.classes if name not in set(train.classes)]
        if strange:
            raise UserError(f"{val.path}: class {strange[0]!r} is not in {train.path}")
        place = np.array([train.classes.index(name) for name in val.classes])
        val_labels = place[val.labels]
    else:
        val_labels = val.labels
    count = int(max(train.labels.max(), val_labels.max())) + 1
    return torch.from_numpy(train.labels.copy()), torch.from_numpy(val_labels.copy()), count


def class_names(train: Store, val: Store) -> list[str]:
    """The name of every class that the labels of shared_labels count, its number where it has none.

    Raises UserError, as shared_labels does, and for a class of which train has no image: nothing
    can be learnt of it.
    """
    labels, _, count = shared_labels(train, val)
    count = max(count, len(train.classes))
    names = train.classes or [str(i) for i in range(count)]
    empty = np.flatnonzero(np.bincount(labels.numpy(), minlength=count) == 0)
    if len(empty):
        raise UserError(
            f"{train.path}: class {names[empty[0]]!r} has no image; add some, or leave the class "
            f"out, and prepare it again"
        )
    return names


def few_labels(labels: NDArray[np.int64], wanted: str, seed: int) -> NDArray[np.int64]:
    """The samples that keep their label, class by class the same share: ids, int64, ascending.

    wanted: 1%, 10%, 5/class or all. A share is rounded in each class and leaves at least one
    image. A larger subset of the same seed holds the smaller. Raises UserError for other words,
    and for a class with fewer images than asked for.
    """
    counts = np.bincount(labels)
    if wanted == "all":
        return np.arange(len(labels))
    number, percent, rest = wanted.partition("%")
    each, slash, unit = wanted.partition("/")
    try:
        if percent and not rest and 0 < float(number) <= 100:
            most = np.maximum(np.rint(counts * float(number) / 100), 1).astype(np.int64)
        elif slash and unit == "class" and int(each) > 0:
            most = np.full(len(counts), int(each))
            if int(each) > counts[counts > 0].min():
                least = int(counts[counts > 0].min())
                raise UserError(
                    f"--labels {wanted}: a class has {least} image{'s' * (least != 1)}; use "
                    f"--labels {least}/class or fewer"
                )
        else:
            raise ValueError
    except ValueError:
        raise UserError(f"--labels {wanted}: give 1%, 10%, 5/class or all") from None
    return _first_of_each(labels, most, seed, _FEW)


def held_out(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples to learn from and samples to choose by, class by class the same share: (ids, ids).

    A class of two images or more gives at least one; of a single image, none.
    """
    counts = np.bincount(labels)
    most = np.maximum(np.rint(counts * share), 1).astype(np.int64)
    held = _first_of_each(labels, np.minimum(most, np.maximum(counts - 1, 0)), seed, _HELD_OUT)
    return np.setdiff1d(np.arange(len(labels)), held), held


def _first_of_each(
    labels: NDArray[np.int64], most: NDArray[np.int64], seed: int, use: int
) -> NDArray[np.int64]:
    """The first most[c] samples of every class c, in an order drawn for this use."""
    order = draws.permutation(seed, use, len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, drawn order in each
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < most[labels[order]]])
