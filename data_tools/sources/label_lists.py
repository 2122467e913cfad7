"""Lists that label a flat set of images: ImageNet's validation set and others like it.

Either each line names an image and its label, or line i is the label of image i. ImageNet has two:
Kaggle's LOC_val_solution.csv names synsets. The development kit's
ILSVRC2012_validation_ground_truth.txt holds ILSVRC ids, whose synsets only map_clsloc.txt gives.
"""

from __future__ import annotations

import csv
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import BadLabel, name_labels, number_labels, text_labels
from data_tools.sources.source import common_prefix

if TYPE_CHECKING:
    from data_tools.sources.location import Location

ILSVRC = re.compile(r"ILSVRC2012_val_(\d{8})\.")
VAL_IMAGES = 50_000
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
ID_LISTS = ("map_clsloc.txt", "ILSVRC2012_map_clsloc.txt")
# Best first: the lists that name synsets.
OF_ILSVRC = (
    "LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", GROUND_TRUTH,
)
OF_ANY = ("val_annotations.txt", "val.txt")
DEVKIT = "ILSVRC2012_devkit_t12/data"
# Kaggle's list is four folders above the images.
LEVELS = 5
LARGEST = 1 << 28
NUMBER = re.compile(r"-?\d{1,18}")
Labels = tuple[np.ndarray, list[str], list[str]]


def find_list(place: Location, images: Sequence[str]) -> Location | None:
    """The list that labels a flat set, in its folder or above; None if there is none that fits."""
    is_ilsvrc = ILSVRC.match(posixpath.basename(images[0])) is not None
    folders = [place] if place.is_dir() else []
    above = place.parent
    for _ in range(LEVELS - 1 if is_ilsvrc else 1):
        folders.append(above)
        if str(above.parent) == str(above):
            break
        above = above.parent
    for name in (*OF_ILSVRC, *OF_ANY) if is_ilsvrc else OF_ANY:
        for folder in folders:
            for found in (folder.child(name), folder.child(f"{DEVKIT}/{name}")):
                if not found.is_file():
                    continue
                if name in OF_ILSVRC or matches(read_rows(found)[:VAL_IMAGES], images):
                    return found
    return None


def apply_list(found: Location, images: Sequence[str], place: Location) -> Labels:
    """Return the labels int64 [N] of the images (sorted keys), the classes, and notes.

    Classes (synsets) are numbered in alphabetical order, as folders are. All classes in the list
    count, so that a part of a set gets the same numbers as the whole. Raises UserError for a list
    that doesn't fit.
    """
    rows = read_rows(found)
    if not rows:
        raise UserError(f"{found}: holds no labels")
    if matches(rows[:100] + rows[-100:], images) or matches(rows, images):
        values, of_image = by_name(found, rows, images)
    else:
        values, of_image = by_position(found, rows, images)
    notes = [f"labels from {found}"]
    if not all(NUMBER.fullmatch(value) for value in values if value):
        labels, classes, more = by_text(found, values)
        notes += more
    elif found.name == GROUND_TRUTH and "" not in values:
        labels, classes, note = ilsvrc_labels(found, values)
        notes += [note] if note else []
    else:
        numbers = np.array([value or -1 for value in values], np.int64)
        labels, classes, note = number_labels(numbers)
        notes += [note] if note else []
    return labels[np.frombuffer(of_image, np.int64)], classes, notes


def by_text(found: Location, values: list[str]) -> Labels:
    """Labels that are not all plain numbers, numbered by the rule for text (label_values)."""
    counts = Counter(value for value in values if value)
    try:
        table, classes, notes = text_labels(list(counts), list(counts.values()))
    except BadLabel as error:
        raise UserError(f"{found}: {error}") from None
    place = dict(zip(counts, table.tolist(), strict=True))
    return np.array([place.get(value, -1) for value in values], np.int64), classes, notes


def read_rows(found: Location) -> list[list[str]]:
    """The lines, cut at their first tab, comma or blanks: [name, label] or [label]."""
    try:
        if found.size() > LARGEST:
            raise UserError(f"{found}: too large for a list of labels")
        text = found.pread(LARGEST, 0).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{found}: can't be read: {error.strerror or error}") from None
    if "\0" in text[:4096]:
        raise UserError(f"{found}: no text; give a list of labels, one a line")
    lines = [line for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if "\t" in first:
        cells = [line.split("\t")[:2] for line in lines]
    elif "," in first:
        try:
            cells = [row[:2] for row in csv.reader(lines)]
        except csv.Error as error:
            raise UserError(f"{found}: {error}; correct it") from None
    else:
        cells = [line.split(maxsplit=1) for line in lines]
    rows = [[cell.strip() for cell in row] for row in cells]
    if rows and [cell.lower() for cell in rows[0]] == ["imageid", "predictionstring"]:
        # "n03995372 85 1 499 272": the synset, and a box after it
        return [[row[0], row[-1].split(" ", 1)[0]] for row in rows[1:]]
    return rows


def spellings(key: str, start: int) -> tuple[str, ...]:
    """The names by which a list may mean an image: its key, path, file name, and name alone."""
    base = posixpath.basename(key)
    return key, key[start:], base, posixpath.splitext(base)[0]


def matches(rows: list[list[str]], images: Sequence[str]) -> bool:
    """True if lines have two cells and the first cell of one names an image."""
    names = {row[0] for row in rows if len(row) == 2}
    start = len(common_prefix(images))
    return bool(names) and any(
        not names.isdisjoint(spellings(key, start)) for key in images
    )


def by_name(
    found: Location, rows: list[list[str]], images: Sequence[str]
) -> tuple[list[str], array[int]]:
    """Return the labels in the list, and the line of each image."""
    start = len(common_prefix(images))
    line = {row[0]: i for i, row in enumerate(rows) if len(row) == 2}
    of_image = array("q")
    for key in images:
        at = next((line[name] for name in spellings(key, start) if name in line), -1)
        if at < 0:
            raise UserError(f"{found}: doesn't name {key}; give the list of these images")
        of_image.append(at)
    labels = [row[-1] for row in rows]
    if line.get(rows[0][0]) == 0 and 0 not in of_image and not NUMBER.fullmatch(labels[0]):
        # Nobody uses the first line, so it may be the names of the columns, which are no class.
        labels[0] = labels[of_image[0]]
    return labels, of_image


def by_position(
    found: Location, rows: list[list[str]], images: Sequence[str]
) -> tuple[list[str], array[int]]:
    """Return the labels in a list without names, and the line of each image.

    Images of ImageNet's validation set have their line in their name, so a part of it can be
    labelled too.
    """
    numbers = [ILSVRC.match(posixpath.basename(key)) for key in images]
    of_image = array("q", range(len(images)))
    if all(numbers) and len(rows) == VAL_IMAGES:
        of_image = array("q", (int(match[1]) - 1 for match in numbers if match))
        if not 0 <= min(of_image) <= max(of_image) < VAL_IMAGES:
            raise UserError(f"{found}: has {VAL_IMAGES:,} lines, and none is of {images[-1]}")
    elif len(rows) != len(images):
        raise UserError(f"{found}: has {len(rows):,} lines for {len(images):,} images; give one "
                        "label a line, or a name and its label")
    return [" ".join(row) for row in rows], of_image


def ilsvrc_labels(found: Location, values: list[str]) -> tuple[np.ndarray, list[str], str]:
    """Labels, classes and a note, from ILSVRC ids (1 to 1000).

    If map_clsloc.txt is beside the list, classes are synsets, numbered as folders would be.
    """
    ids = np.array(values, np.int64)
    if ids.min() < 1 or ids.max() > 1000:
        raise UserError(f"{found}: holds ids outside 1 to 1000; give ILSVRC 2012's own file")
    for name in ID_LISTS:
        listing = found.parent.child(name)
        if listing.is_file():
            # "n02119789 1 kit_fox"
            cells = [" ".join(row).split()[:2] for row in read_rows(listing)]
            synset = {row[1]: row[0] for row in cells if len(row) == 2}
            if not synset.keys() >= set(values):
                raise UserError(f"{listing}: lacks the synset of some ids; copy it again")
            labels, classes = name_labels([synset[value] for value in values])
            return labels, classes, ""
    return ids - 1, [str(i) for i in range(1, 1001)], (
        "its classes are ILSVRC ids, not sorted synsets: they differ from those of a training "
        "set in folders; put LOC_val_solution.csv beside it to get synsets"
    )
