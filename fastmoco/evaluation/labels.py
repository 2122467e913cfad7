"""Selects the labels of an evaluation: classes by name, a few labels of many, a held-out part."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco import draws

# Numbers of epochs that no training run reaches: draws.permutation gives other orders for them.
_FEW, _HELD_OUT = 2**32 - 1, 2**32 - 2


def shared_labels(train: Store, val: Store) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return labels of both stores, int64 tensors that count classes as train does, and the number
    of classes.

    Classes are matched by name if both stores have names. Raises UserError if either store has
    unlabelled images, or val has a class that train lacks.
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
    """Names of the classes that shared_labels counts; a number if a class has no name.

    Raises UserError as shared_labels does, and for a class that has no image in train, since no
    classifier can learn it.
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
    """Choose the samples whose labels are used, the same share of every class: ids int64,
    ascending.

    wanted: 1%, 10%, 5/class or all. A share is rounded in each class, to at least one image. With
    the same seed, a larger subset contains the smaller. Raises UserError for another form, and if a
    class has fewer images than requested.
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
                word = "image" if least == 1 else "images"
                raise UserError(
                    f"--labels {wanted}: a class has {least} {word}; use "
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
    """Split samples into those to learn from and those held out, the same share of every class:
    (ids, ids), int64.

    A class of two images or more holds out at least one; a class of one image, none.
    """
    counts = np.bincount(labels)
    most = np.maximum(np.rint(counts * share), 1).astype(np.int64)
    held = _first_of_each(labels, np.minimum(most, np.maximum(counts - 1, 0)), seed, _HELD_OUT)
    return np.setdiff1d(np.arange(len(labels)), held), held


def _first_of_each(
    labels: NDArray[np.int64], most: NDArray[np.int64], seed: int, use: int
) -> NDArray[np.int64]:
    """Ids of the first most[c] samples of every class c, in an order drawn for this use;
    ascending."""
    order = draws.permutation(seed, use, len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, drawn order in each
    counts = np.bincount(labels)
    # the rank of each sample within its class
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < most[labels[order]]])
