"""What sources share whose images are rows: keys made of numbers, labels that come as values."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from typing import overload

import numpy as np

LABEL_NAMES = (
    "label", "labels", "fine_label", "class", "category", "target", "class_id", "label_id",
    "category_id", "y",
)
# Whole numbers up to here are taken for class numbers, and left alone.
MOST_CLASSES = 1 << 16


class RowKeys(Sequence[str]):
    """Keys "file/row", made when they are asked for: a million of them take no memory."""

    def __init__(self, files: Sequence[str], rows: Sequence[int]) -> None:
        self._files = list(files)
        self._ends = list(itertools.accumulate(rows))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        file, row = self.locate(range(len(self))[i])
        return f"{self._files[file]}/{row}"

    def locate(self, i: int) -> tuple[int, int]:
        """The file that sample i lies in, and its row there."""
        file = bisect.bisect_right(self._ends, i)
        return file, i - (self._ends[file - 1] if file else 0)


def split_fragment(path: str | os.PathLike[str]) -> tuple[str, str]:
    """("data.tar.gz", "test") for "data.tar.gz#test"; a path without one stays, with ""."""
    text = os.fspath(path)
    head, mark, split = text.rpartition("#")
    if mark and split in ("train", "test"):
        return head, split
    return text, ""


def number_labels(values: np.ndarray) -> tuple[np.ndarray, list[str], str]:
    """Whole-number labels [N] -> int64 labels, classes, and a note where they had to change.

    Numbers from 0 stay as they are, even where some class has no image: two lists of one dataset
    must agree. -1 is unlabelled.
    """
    values = values.astype(np.int64)
    known = np.unique(values[values != -1])
    if not len(known):
        return values, [], ""
    if known[0] >= 0 and known[-1] < MOST_CLASSES:
        return values, [str(i) for i in range(int(known[-1]) + 1)], ""
    labels = np.where(values == -1, -1, np.searchsorted(known, values))
    note = (f"labels are numbers from {known[0]} to {known[-1]}: numbered anew, "
            f"0 to {len(known) - 1}, in their order")
    return labels, [str(value) for value in known.tolist()], note


def name_labels(values: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    """Labels that are names -> int64 [N] and the sorted classes; None or "": -1."""
    classes = sorted({value for value in values if value})
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(value, -1) for value in values], np.int64), classes
