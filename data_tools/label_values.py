"""Shared by sources whose images are rows: keys made of numbers, and the rule for labels.

The rule is one for CSV, TSV, JSON lines, Parquet and Arrow. A typed value must be a whole number
of 64 bits; null and NaN mean unlabelled. A text is a class name, unless all texts of the column
are whole numbers ("1" or pandas' "1.0"); an empty text means unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

LABEL_NAMES = (
    "label", "labels", "fine_label", "class", "category", "target", "class_id", "label_id",
    "category_id", "y",
)
# Whole numbers up to here are taken for class numbers, and left alone.
MOST_CLASSES = 1 << 16
# Not 007, which is a name. The digits are bounded: Python refuses to convert thousands of them.
WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0*)?")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf(inity)?",
                    re.IGNORECASE)
# 007 is a name, though it reads as a number.
PADDED = re.compile(r"-?0[0-9]+")
# Texts by which other programs write a missing value.
MISSING = frozenset({"nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat"})
# Texts by which other programs write a number that is none.
INFINITE = frozenset({"inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"})
SHOWN = 40


class BadLabel(ValueError):
    """A label that can be no class. `str(error)` is the reason, without the file and the row."""


def whole_number(value: bool | int | float | Decimal | None) -> int:
    """A typed label as an integer; -1 for null and NaN. Raises BadLabel for any other value."""
    if value is None or value != value:
        return -1
    shown = str(value)[:SHOWN]
    infinite = value in (float("inf"), float("-inf"))
    # The order matters: int() of a decimal like 1E+999999 takes minutes.
    if not infinite and not -(1 << 64) < value < 1 << 64:
        raise BadLabel(f"the label {shown} doesn't fit into 64 bits; give smaller numbers or names")
    if infinite or value != int(value):
        raise BadLabel(f"the label {shown} is no whole number; give whole numbers or names")
    if not fits(int(value)):
        raise BadLabel(f"the label {shown} doesn't fit into 64 bits; give smaller numbers or names")
    return int(value)


def fits(number: int) -> bool:
    """True for an integer of 64 bits."""
    return -(1 << 63) <= number < 1 << 63


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Labels of floating point [N] -> int64 [N] by the rule of `whole_number`."""
    values = values.astype(np.float64)
    known = ~np.isnan(values)
    # -2^63 is the least of int64; 2^63 is the first float beyond its greatest.
    good = (values >= -(2.0**63)) & (values < 2.0**63) & (np.trunc(values) == values)
    for bad in values[known & ~good][:1].tolist():
        whole_number(bad)  # raises, with the reason
    return np.where(known & good, values, -1).astype(np.int64)


def text_labels(
    texts: Sequence[str], counts: Sequence[int]
) -> tuple[np.ndarray, list[str], list[str]]:
    """The labels of a column's distinct, non-empty texts: int64 [N], the classes, and notes.

    counts: the number of rows with each text. Raises BadLabel for text that can't be a name.
    """
    for text in texts:
        if not is_storable(text):
            raise BadLabel(f"the label {text[:SHOWN]!r} holds a NUL or a lone surrogate; "
                           "correct it")
    numbers = [number_in(text) for text in texts]
    if None not in numbers:
        labels, classes, note = number_labels(np.array(numbers, np.int64))
        return labels, classes, [note] if note else []
    labels, classes = name_labels(texts)
    return labels, classes, doubts(texts, counts)


def number_in(text: str) -> int | None:
    """The whole number of 64 bits that a text spells, also as "1.0"; None for other texts."""
    match = WHOLE.fullmatch(text)
    number = int(match[1]) if match else None
    return number if number is not None and fits(number) else None


def doubts(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Notes for class names that the user may not have meant as such."""
    notes, others = not_utf8(texts, counts), []
    # Among numbers, infinity is named by the second note.
    numeric = all(NUMBER.fullmatch(text) for text in texts if text.strip().lower() not in MISSING)
    doubtful = MISSING if numeric else MISSING | INFINITE
    for text, count in zip(texts, counts, strict=True):
        if text.strip().lower() in doubtful:
            notes.append(f"{count:,} image{'s' * (count != 1)} with the label \"{text}\": taken as "
                         "a class name; leave the label empty for images without one")
        else:
            others.append(text)
    odd = next((text for text in others if number_in(text) is None), "")
    padded = any(map(PADDED.fullmatch, others))
    if odd and not padded and all(map(NUMBER.fullmatch, others)):
        notes.append(f"the labels are numbers, but {odd[:SHOWN]} is no whole number of 64 bits: "
                     "all are taken as class names")
    return notes


def not_utf8(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """The note on class names of a list that came as bytes of another encoding."""
    bad = [i for i, text in enumerate(texts) if holds_bytes(text)]
    if not bad:
        return []
    images = sum(counts[i] for i in bad)
    return [f"warning: {len(bad):,} class name{'s are' if len(bad) > 1 else ' is'} not UTF-8, like "
            f"{shown(texts[bad[0]])} ({images:,} image{'s' * (images != 1)}): save the list as "
            "UTF-8"]


def holds_bytes(text: str) -> bool:
    """True for text with surrogate escapes: bytes that are not UTF-8 (PEP 383)."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def shown(text: str) -> str:
    """The beginning of a text that may hold surrogate escapes, in characters that print."""
    return text[:SHOWN].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_storable(text: str) -> bool:
    """False for text that no file name and no list of names can hold: NUL, lone surrogates.

    Bytes that are not UTF-8 come as surrogate escapes (PEP 383), and are fine.
    """
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


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
