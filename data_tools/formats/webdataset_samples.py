"""The samples of a WebDataset shard: which members belong together, which is the image, which the
label. The one rule for prep and for every command that opens a shard.

- A member is named KEY.EXTENSION; members one after another that share the key are a sample. The
  key ends at the first dot behind the last "/", as in the webdataset library. Names that hold dots
  themselves (22.05.png, 22.05.cls) end at the last dot: see `names_hold_dots`.
- An extension that occurs again begins the next sample, of the same key: nothing is lost.
- The image is the member whose whole extension names an image (b.jpg before b.seg.png), a JPEG
  before others; of several alike the first.
- The label is the text of .cls, or if that is missing or empty, of "label", "class", "cls" or
  "target" in .json.
- Hidden files and folders, and "..", are passed over. A link stands for the member it points at.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from data_tools.errors import UserError
from data_tools.formats.tar import LINKS, Member, Pread, Walk
from data_tools.formats.tar_listing import Listing, read_listing
from data_tools.formats.webdataset_labels import clean, json_label
from data_tools.images.file_names import IMAGE_EXTENSIONS, key_of

LABELS = ("cls", "json")
# Older versions passed these over.
LATER = IMAGE_EXTENSIONS - {"jpg", "jpeg", "jpe", "png", "webp", "ppm", "bmp", "gif", "tif", "tiff",
                            "jp2", "avif"}
# Files that mark the image beside them as a sample of a WebDataset.
BESIDE = frozenset((*LABELS, "txt"))
# The names that prep gives to images of its own.
OURS = re.compile(r"\d{9,}\.(jpg|ppm)")
# Bytes; a longer label file holds something else.
LONGEST_LABEL = 1 << 20
# Members of a sample that are looked at to find dots in its name.
LONGEST_SAMPLE = 256
# Parts that decide whether a tar is a WebDataset, and members that are searched for them.
LOOKED_AT, PEEKED = 64, 4096
JPEGS = frozenset(("jpg", "jpeg", "jpe", "jfif"))
# An extension like seg.png or left_mask1.png names a part of a sample, and not its picture.
PARTS = re.compile(
    r"(?:^|[._-])(?:seg|segm|segmentation|mask|label|depth|disparity|normal|alpha|edge|gt|semantic"
    r"|instance|panoptic|annotation)s?\d*\Z")
FIRST = operator.itemgetter(0)
SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.zst", ".tar.xz", ".tar", ".tgz")


class Part(NamedTuple):
    """A member of a sample."""

    key: str
    extension: str
    """Lower case, without the dot in front."""
    member: Member


class Tally:
    """Counts of unusual things in the shards."""

    def __init__(self) -> None:
        self.hidden = self.lost_links = self.links = 0
        self.hidden_images = 0
        """Images in hidden folders."""
        self.dotted = self.twice = self.several = self.without_image = self.stray_labels = 0
        self.dotted_name = ""
        """The first of these names."""

    def notes(self) -> list[str]:
        """Lines for the user."""
        counts = (
            (self.dotted, f"names hold dots ({self.dotted_name}): {{:,}} samples are told apart by "
                          "the last dot"),
            (self.twice, "{:,} samples have the key of the one before: each is kept as a sample of "
                         "its own"),
            (self.several, "{:,} samples with several images: one of each is taken (the plain "
                           "extension, a JPEG first)"),
            (self.without_image, "{:,} samples without an image, passed over"),
            (self.stray_labels, "warning: {:,} .cls files are not beside their images, and are not "
                                "used: put each image and its .cls one after the other"),
            (self.lost_links, "{:,} links to files that the shard doesn't hold, passed over"),
        )
        return [line.format(count) for count, line in counts if count]


class Sample:
    """The members of one sample, its image chosen."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.parts: list[Part] = []
        self.image: Part | None = None
        self.images: list[Part] = []
        self.beside = False
        """Holds a member that marks a WebDataset, beside the image."""
        self.extensions: set[str] = set()
        self._labels: dict[str, Member] = {}
        self._rank = 9

    def add(self, part: Part) -> None:
        self.parts.append(part)
        self.extensions.add(part.extension)
        middle, _, last = part.extension.rpartition(".")
        if last in IMAGE_EXTENSIONS:
            self.images.append(part)
            rank = rank_of(middle, last)
            if rank < self._rank:
                self.image, self._rank = part, rank
        elif last in BESIDE:
            self.beside = True
            if last in LABELS and part.member.size <= LONGEST_LABEL:
                self._labels[part.extension] = part.member

    def label(self, pread: Pread, seen: Callable[[bytes], None] | None = None) -> str:
        """The label's text; "" for none. seen(data): gets the bytes that were read for it.

        Of several labels the image's own goes first: left.cls with left.jpg.
        """
        if not self._labels or self.image is None:
            return ""
        middle = self.image.extension.rpartition(".")[0]
        for last in LABELS:
            for extension in (f"{middle}.{last}", last) if middle else (last,):
                member = self._labels.get(extension)
                if member is None:
                    continue
                data = pread(member.size, member.offset)
                if seen is not None:
                    seen(data)
                text = json_label(data) if last == "json" else clean(
                    data.decode("utf-8-sig", "replace"))
                if text:
                    return text
        return ""


def rank_of(middle: str, last: str) -> int:
    """The order in which images of one sample are taken, the least first."""
    if not middle:
        return 0 if last in JPEGS else 1
    return 3 if PARTS.search(middle) else 2


def samples_of(walk: Walk, tally: Tally) -> Iterator[Sample]:
    """The samples of one shard, in its order; also those without an image. Raises UserError."""
    return grouped(parts_of(walk, tally), tally)


def grouped(parts: Iterable[Part], tally: Tally) -> Iterator[Sample]:
    for key, group in itertools.groupby(parts, FIRST):
        start = list(itertools.islice(group, LONGEST_SAMPLE))
        more = len(start) == LONGEST_SAMPLE
        whole: Iterable[Part] = itertools.chain(start, group) if more else start  # noqa: B031
        if not names_hold_dots(start):
            yield from told_apart(key, whole, tally)
            continue
        longer = map(at_last_dot, whole)
        for inner, members in itertools.groupby(longer, FIRST):
            for sample in told_apart(inner, members, tally):
                tally.dotted += 1
                tally.dotted_name = tally.dotted_name or sample.parts[0].member.name
                yield sample


def told_apart(key: str, parts: Iterable[Part], tally: Tally) -> Iterator[Sample]:
    """The samples of one key: another one begins where an extension occurs again."""
    sample = Sample(key)
    for part in parts:
        if part.extension in sample.extensions:
            yield counted(sample, tally)
            tally.twice += 1
            sample = Sample(key)
        sample.add(part)
    yield counted(sample, tally)


def counted(sample: Sample, tally: Tally) -> Sample:
    tally.several += len(sample.images) > 1
    tally.without_image += sample.image is None
    tally.stray_labels += sample.image is None and any(
        extension.rpartition(".")[2] == "cls" for extension in sample.extensions)
    return sample


def names_hold_dots(parts: Sequence[Part]) -> bool:
    """True if these members, of one key by the first dot, are several samples by the last one.

    So it is if an image has a label file of its own (05.png and 05.cls of 22.05.png and 22.05.cls),
    or if there are several images that nothing ties together: no member is named by the key alone,
    or an image is, and the others count on from it (v1.jpg, v1.2.jpg, v1.3.jpg). Masks and their
    like (b.seg.png beside b.jpg) are parts of a sample all the same.
    """
    for part in parts:
        if "." in part.extension:
            break
    else:
        return False
    split = [part.extension.rpartition(".") for part in parts]
    alone = all(middle for middle, _, _ in split)
    images = {middle for middle, _, last in split if last in IMAGE_EXTENSIONS
              and (alone or not PARTS.search(middle))}
    if any(middle and middle in images for middle, _, last in split if last in BESIDE):
        return True
    images = {middle for middle in images if not PARTS.search(middle)}
    if len(images) < 2:
        return False
    return alone or ("" in images and any(middle[:1].isdigit() for middle in images))


def at_last_dot(part: Part) -> Part:
    middle, dot, last = part.extension.rpartition(".")
    return Part(f"{part.key}{dot}{middle}", last, part.member)


def parts_of(walk: Walk, tally: Tally) -> Iterator[Part]:
    """The files that belong to samples; links with the bytes of the members they point at."""
    listing: Listing | None = None
    for member in walk:
        path, hidden = key_of(member.name)
        key, extension = split_name(path)
        if hidden:
            tally.hidden += 1
            tally.hidden_images += extension.rpartition(".")[2] in IMAGE_EXTENSIONS
            continue
        if not extension:
            continue
        if member.kind in LINKS:
            if listing is None:
                listing = read_listing(walk.again())
            offset, size = listing.find(path)
            if offset < 0:
                tally.lost_links += 1
                continue
            tally.links += 1
            member = member._replace(offset=offset, size=size)
        elif not member.is_file:
            continue
        yield Part(key, extension, member)


def split_name(path: str) -> tuple[str, str]:
    """A path's key and extension (lower case), split at the first dot behind the last "/".

    The extension is empty for files that are passed over: hidden ones, and those without a dot.
    """
    folder, slash, base = path.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower() if stem else ""


def stem_of(name: str) -> str:
    """A shard's name without .tar, .tar.gz and their like."""
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def begins_with_samples(walk: Walk) -> bool:
    """True if among the first members an image and its label lie side by side, or prep made one.

    Other tars of images are folders.
    """
    first = itertools.islice(peek(walk), LOOKED_AT)
    return any(sample.image is not None
               and (sample.beside or OURS.fullmatch(sample.image.member.name) is not None)
               for sample in grouped(first, Tally()))


def peek(walk: Walk) -> Iterator[Part]:
    """The first parts, by their names alone, as far as the tar can be read."""
    with contextlib.suppress(UserError):  # only the beginning may be there
        for member in itertools.islice(walk, PEEKED):
            path, hidden = key_of(member.name)
            key, extension = split_name(path)
            if extension and not hidden and (member.is_file or member.kind in LINKS):
                yield Part(key, extension, member)
