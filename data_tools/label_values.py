"""Turns the values of a column of labels into labels and classes, by one rule for all sources.

A typed value must be a whole number of 64 bits; null and NaN mean unlabelled. A text is a class
name, unless all texts of the column are whole numbers ("1", or "1.0" as pandas writes it). An empty
text means unlabelled. CSV, TSV, JSON lines, Parquet, Arrow and WebDataset use this rule.
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
# Whole numbers below this count as class numbers, and are not changed.
MOST_CLASSES = 1 << 16
# 007 does not match: it is a name. The number of digits is limited, since Python refuses to convert
# thousands of them.
WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0*)?")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf(inity)?",
                    re.IGNORECASE)
# Names that look like numbers, such as 007.
PADDED = re.compile(r"-?0[0-9]+")
# Texts that other programs write for a missing value.
MISSING = frozenset({"nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "nat"})
# Texts that other programs write for infinity.
INFINITE = frozenset({"inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"})
SHOWN = 40  # characters of a label in a message


class BadLabel(ValueError):
    """A value that can't be a label. `str(error)` is the reason, without the file and the row."""


def whole_number(value: bool | int | float | Decimal | None) -> int:
    """A typed label as an integer; -1 for null and NaN. Raises BadLabel for any other value."""
    if value is None or value != value:
        return -1
    shown = str(value)[:SHOWN]
    infinite = value in (float("inf"), float("-inf"))
    # Compared before int(), which takes minutes for a decimal like 1E+999999.
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
    """Floating-point labels [N] as int64 [N], by the rule of `whole_number`."""
    values = values.astype(np.float64)
    known = ~np.isnan(values)
    # int64 ends at 2^63 - 1, which is no float: the next float is 2^63.
    good = (values >= -(2.0**63)) & (values < 2.0**63) & (np.trunc(values) == values)
    for bad in values[known & ~good][:1].tolist():
        whole_number(bad)  # raises, with the reason
    return np.where(known & good, values, -1).astype(np.int64)


def text_labels(
    texts: Sequence[str], counts: Sequence[int]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Labels of a column's distinct, non-empty texts: (int64 [N], classes, notes for the user).

    counts: the number of rows with each text. Raises BadLabel for a text that can't be a name.
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
    """The whole number of 64 bits in a text such as "1" or "1.0"; None for any other text."""
    match = WHOLE.fullmatch(text)
    number = int(match[1]) if match else None
    return number if number is not None and fits(number) else None


def doubts(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Notes on class names that may be mistakes, such as "nan"."""
    notes, others = not_utf8(texts, counts), []
    # If all others are numbers, the second note is about infinity.
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
    """The note on class names that are not UTF-8, as a list of at most one line."""
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
    """The start of a text for a message, with surrogate escapes as \\xNN."""
    return text[:SHOWN].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_storable(text: str) -> bool:
    """False for text that no file name and no list of names can hold: NUL, lone surrogates.

    Surrogate escapes, which stand for bytes that are not UTF-8 (PEP 383), can be stored.
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
    """Whole-number labels [N] as (int64 labels [N], classes, note if they had to change).

    Numbers from 0 stay as they are, even if some class has no image, so that two lists of the same
    dataset agree. -1 means unlabelled.
    """
    values = values.astype(np.int64)
    known = np.unique(values[values != -1])
    if not len(known):
        return values, [], ""
    if known[0] >= 0 and known[-1] < MOST_CLASSES:
        return values, [str(i) for i in range(int(known[-1]) + 1)], ""
    labels = np.where(values == -1, -1, np.searchsorted(known, values))
    note = (f"labels are numbers from {known[0]} to {known[-1]}: renumbered "
            f"0 to {len(known) - 1}, in their order")
    return labels, [str(value) for value in known.tolist()], note


def name_labels(values: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    """Labels that are names as (int64 [N], sorted classes); None and "" become -1."""
    classes = sorted({value for value in values if value})
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(value, -1) for value in values], np.int64), classes
