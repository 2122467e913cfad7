"""The labels of files in folders, found before any image is read.

The first folder below the directories that all images share is the class. Only images count: files
with an image's suffix are images, and other files are identified by their first bytes.
"""

from __future__ import annotations

import posixpath
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_tools.images.file_names import IMAGE_SUFFIXES
from data_tools.images.magic import is_picture
from data_tools.sources.keys import Picked
from data_tools.sources.source import common_prefix, refuse_splits

if TYPE_CHECKING:
    from data_tools.sources.location import Location

# Number of files per folder and unknown suffix whose bytes are read. They decide for the others.
LOOKS = 8
Head = Callable[[int], bytes]


class Labelled(NamedTuple):
    """Labels of all files of a source."""

    labels: np.ndarray
    """int64 [N]; -1 for images without a label, and for files that are no images."""
    classes: list[str]
    notes: list[str]


def label_files(
    keys: Sequence[str], head: Head, place: Location, given: Location | None = None
) -> Labelled:
    """Labels all `keys` (sorted), by their folders or by a list of labels.

    head(i): the first sniff.HEAD bytes of file i, or fewer; may raise OSError. place: the source; a
    list beside it is found. given: the list that the user named.
    Raises UserError for train and val side by side, and for a list that doesn't fit.
    """
    from data_tools.sources.label_lists import apply_list, find_list

    # Positions of the images, in 8 bytes each: there may be millions.
    images = array("q", image_positions(keys, head))
    names = Picked(keys, images)
    if not images:
        return Labelled(np.full(len(keys), -1, np.int64), [], [])
    refuse_splits(names, str(place))
    labels, classes, stray = labels_of(names, lambda i: is_image(head, images[i]))
    notes = []
    if stray:
        notes.append(f"no labels, because {stray} is beside the folders of the others")
    if given is not None:
        labels, classes, notes = apply_list(given, names, place)
    elif not classes and not stray and (found := find_list(place, names)):
        labels, classes, notes = apply_list(found, names, place)
    strays = sum(key.lower().endswith(".cls") for key in keys) if not classes else 0
    if strays:
        notes.append(f"warning: {strays:,} .cls files are not used: they count as labels only in a "
                     "tar, and only beside their images; put each image and its .cls one after the "
                     "other")
    whole = np.full(len(keys), -1, np.int64)
    whole[np.frombuffer(images, np.int64)] = labels
    return Labelled(whole, classes, notes)


def image_positions(keys: Sequence[str], head: Head) -> list[int]:
    """Positions of the files that are images, by their suffix or by the bytes of some files like
    them."""
    found: list[int] = []
    others: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(keys):
        if key.lower().endswith(IMAGE_SUFFIXES):
            found.append(i)
        else:
            folder, name = posixpath.split(key)
            others.setdefault((folder, posixpath.splitext(name)[1].lower()), []).append(i)
    for group in others.values():
        if any(is_image(head, i) for i in group[:LOOKS]):
            found += group
    return sorted(found) if others else found


def is_image(head: Head, i: int) -> bool:
    try:
        return is_picture(head(i))
    except OSError:
        return False


def labels_of(
    keys: Sequence[str], looks_real: Callable[[int], bool] = lambda i: True
) -> tuple[np.ndarray, list[str], str]:
    """Return labels (int64 [N]), classes, and the image that makes the set flat, from sorted keys.

    The first folder below the directories that all keys share is the class; classes are numbered by
    name. If an image is at the top, beside the class folders, the set is flat: labels are -1 and
    there are no classes. If other images are in folders nevertheless, the third value names the
    first image at the top; else it is empty. At the top only images that `looks_real` count, so
    that one file with an image's suffix does not cost all labels.
    """
    start = len(common_prefix(keys))
    number: dict[str, int] = {}
    labels = array("q")
    top: list[int] = []
    for i, key in enumerate(keys):
        folder, slash, _ = key[start:].partition("/")
        if slash:
            labels.append(number.setdefault(folder, len(number)))
        else:
            top.append(i)
            labels.append(-1)
    flat = next((i for i in top if looks_real(i)), -1) if number else 0
    if top and flat >= 0:
        return np.full(len(keys), -1, np.int64), [], keys[flat] if number else ""
    classes = sorted(number)
    order = np.full(len(classes) + 1, -1, np.int64)  # label -1 indexes the end, which stays -1
    order[[number[name] for name in classes]] = np.arange(len(classes))
    return order[np.frombuffer(labels, np.int64)], classes, ""
