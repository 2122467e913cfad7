"""Notes that prep prints on a dataset's labels: images without one, the label -1, and classes whose
names look the same.

They depend only on the source and on the images that were kept. So they are the same for any order
of work, and after a resume.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from data_tools.label_values import shown as shown_of
from data_tools.manifest import WARNING
from data_tools.sources.source import Source


def label_lines(source: Source, kept: Iterable[np.ndarray]) -> list[str]:
    """The notes as lines of plain text; empty if there is nothing to say.

    kept: the numbers (int64) of the images that were not left out, in pieces.
    """
    images = labelled = written = 0
    # bool [N], True if the label is the number -1; only sources whose labels are numbers have it.
    minus_ones: np.ndarray | None = getattr(source, "minus_ones", None)
    for ids in kept:
        images += len(ids)
        labelled += int((source.labels[ids] >= 0).sum())
        if minus_ones is not None:
            written += int(minus_ones[ids].sum())
    return unlabelled(images, labelled, written, minus_ones is not None) + alike(source.classes)


def unlabelled(images: int, labelled: int, written: int, known: bool) -> list[str]:
    """The note on images without a label; empty for a set without any, whose source has a note.

    written: images whose label is the number -1. known: True if the source distinguishes these from
    images without a label.
    """
    if labelled == images or not (labelled or written):
        return []
    missing = images - labelled
    line = f"{missing:,} of {images:,} images {'has' if missing == 1 else 'have'} no label"
    advice = "-1 counts as unlabelled; write a name or another number if it is a class"
    if written:
        have = "has" if written == 1 else "have"
        return [f"{WARNING}{line}; {written:,} of these {have} the value -1: {advice}"]
    if known:
        return [line]
    return [f"{WARNING}{line}, or a number below 0, which counts as none: write a name or another "
            "number if it is a class"]


def alike(classes: Sequence[str]) -> list[str]:
    """The note on classes whose names differ only in how Unicode composes the same letters."""
    first: dict[str, str] = {}
    pairs = 0
    shown = ""
    for name in classes:
        if name.isascii():
            continue
        other = first.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            pairs += 1
            shown = shown or shown_of(name)
    if not pairs:
        return []
    return [f"{WARNING}{pairs:,} class name{'s look' if pairs > 1 else ' looks'} the same as "
            f"another, like {shown}: they differ in how Unicode composes their letters (NFC and "
            "NFD), and count as classes of their own; write each class in one way"]
