"""Reads the label of a WebDataset sample, and turns labels into numbers.

prep and every command that opens a shard use this one rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from data_tools.label_values import doubts, name_labels, number_labels

NUMBER = re.compile(r"-?[0-9]{1,19}(\.0*)?")
SYNSET = re.compile(r"n\d{8}")
# Characters of the longest class name.
LONGEST_NAME = 1024


def json_label(data: bytes) -> str:
    """The label in a sample's .json, as text; "" if there is none."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if isinstance(entries, dict):
        for name in ("label", "class", "cls", "target"):
            value = entries.get(name)
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # pandas writes 3.0 if values of the column are missing
            if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                return clean(str(value))
    return ""


def clean(text: str) -> str:
    """A label without blanks and NULs at its ends and without lone surrogates, which no file can
    store. "" if it is too long for a class name.
    """
    text = text if len(text) <= LONGEST_NAME else ""
    return text.strip("\0 \t\r\n\v\f\ufeff").encode("utf-8", "replace").decode()


def label_samples(
    codes: np.ndarray, texts: Sequence[str], shards: np.ndarray, stems: Sequence[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns (labels int64 [N], classes, notes for the user), by the rule for all lists of labels.

    codes: int64 [N], the number of each sample's text in `texts`; -1: no label. shards: int64 [N],
    the shard of each sample. stems: the shards' names. If no sample has a label and all shards are
    named like synsets (n01440764.tar), the shards are the classes, as in ImageNet's training set.
    """
    if not texts:
        if stems and all(map(SYNSET.fullmatch, stems)):
            labels, classes = name_labels(stems)
            return labels[shards], classes, []
        return codes, [], ["no labels: the samples have no .cls and no label in a .json"]
    numbers = [whole(text) for text in texts]
    if None not in numbers:
        values, classes, note = number_labels(np.array(numbers, np.int64))
        return np.append(values, -1)[codes], classes, [note] if note else []
    values, classes = name_labels(texts)
    counts = np.bincount(codes + 1, minlength=len(texts) + 1)[1:].tolist()
    return np.append(values, -1)[codes], classes, doubts(texts, counts)


def labels_as_written(codes: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """The labels of a shard that prep wrote, int64 [N]: its numbers, of any range."""
    numbers = [whole(text) for text in texts]
    values = [-1 if number is None else max(number, -1) for number in numbers]
    return np.array([*values, -1], np.int64)[codes]


def whole(text: str) -> int | None:
    """A label that is a whole number of 64 bits; None for a name."""
    if NUMBER.fullmatch(text) is None:
        return None
    value = int(text.partition(".")[0])
    return value if -(1 << 63) <= value < 1 << 63 else None
