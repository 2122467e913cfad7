"""Groups the members of a WebDataset shard into samples, and finds each one's image and label.

prep and every command that opens a shard use this one rule:

- A member is named KEY.EXTENSION. Consecutive members with the same key are a sample. The key ends
  at the first dot after the last "/", as in the webdataset library. If the names themselves contain
  dots (22.05.png, 22.05.cls), the key ends at the last dot: see `names_hold_dots`.
- An extension that occurs again starts another sample of the same key, so that nothing is lost.
- The image is the member whose whole extension names an image (b.jpg before b.seg.png), and a JPEG
  before other kinds. The first one is taken if several are alike.
- The label is the text of .cls. If that is missing or empty, it is the value of "label", "class",
  "cls" or "target" in .json.
- Hidden files and folders, and paths with "..", are ignored. A link counts as a copy of its target.
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
# Older versions of this program ignored these.
LATER = IMAGE_EXTENSIONS - {"jpg", "jpeg", "jpe", "png", "webp", "ppm", "bmp", "gif", "tif", "tiff",
                            "jp2", "avif"}
# Extensions that, next to an image of the same key, show that a tar is a WebDataset.
BESIDE = frozenset((*LABELS, "txt"))
# Names that prep gives to images.
OURS = re.compile(r"\d{9,}\.(jpg|ppm)")
# Bytes of the largest label file. A larger one has another purpose.
LONGEST_LABEL = 1 << 20
# Members of a sample that are searched for dots in its name.
LONGEST_SAMPLE = 256
# Files of samples that decide whether a tar is a WebDataset, and members searched for them.
LOOKED_AT, PEEKED = 64, 4096
JPEGS = frozenset(("jpg", "jpeg", "jpe", "jfif"))
# An extension such as seg.png or left_mask1.png is an annotation of a sample, not its picture.
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
    """Counts anything unusual in the shards."""

    def __init__(self) -> None:
        self.hidden = self.lost_links = self.links = 0
        self.hidden_images = 0
        """Number of images in hidden folders."""
        self.dotted = self.twice = self.several = self.without_image = self.stray_labels = 0
        self.dotted_name = ""
        """First name that contains dots."""

    def notes(self) -> list[str]:
        """Lines for the user."""
        counts = (
            (self.dotted, f"names hold dots ({self.dotted_name}): {{:,}} samples are separated "
                          "by the last dot"),
            (self.twice, "{:,} samples have the same key as the one before: each is kept as a "
                         "sample of its own"),
            (self.several, "{:,} samples with several images: one of each is taken (the plain "
                           "extension, a JPEG first)"),
            (self.without_image, "{:,} samples without an image, ignored"),
            (self.stray_labels, "warning: {:,} .cls files are not beside their images, and are not "
                                "used: put each image and its .cls one after the other"),
            (self.lost_links, "{:,} links to files that the shard doesn't contain, ignored"),
        )
        return [line.format(count) for count, line in counts if count]


class Sample:
    """The members of one sample, and the one that is its image."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.parts: list[Part] = []
        self.image: Part | None = None
        self.images: list[Part] = []
        self.beside = False
        """True if a member has an extension of BESIDE."""
        self.extensions: set[str] = set()
        self._labels: dict[str, Member] = {}
        self._rank = 9

    def add(self, part: Part) -> None:
        """Adds a member, which becomes the image if it ranks above the one so far."""
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
        """The label's text; "" if there is none. seen(data): called with the bytes that were read.

        A label of the image's own goes first, for example left.cls of left.jpg.
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
    """The rank of an image among those of its sample; the lowest is taken."""
    if not middle:
        return 0 if last in JPEGS else 1
    return 3 if PARTS.search(middle) else 2


def samples_of(walk: Walk, tally: Tally) -> Iterator[Sample]:
    """Yields the samples of a shard in its order, also those without an image. Raises UserError."""
    return grouped(parts_of(walk, tally), tally)


def grouped(parts: Iterable[Part], tally: Tally) -> Iterator[Sample]:
    """Yields the samples that consecutive members make."""
    for key, group in itertools.groupby(parts, FIRST):
        # The first members decide. A hostile shard may have millions of one key.
        start = list(itertools.islice(group, LONGEST_SAMPLE))
        more = len(start) == LONGEST_SAMPLE
        whole: Iterable[Part] = itertools.chain(start, group) if more else start  # noqa: B031
        if not names_hold_dots(start):
            yield from separated(key, whole, tally)
            continue
        longer = map(at_last_dot, whole)
        for inner, members in itertools.groupby(longer, FIRST):
            for sample in separated(inner, members, tally):
                tally.dotted += 1
                tally.dotted_name = tally.dotted_name or sample.parts[0].member.name
                yield sample


def separated(key: str, parts: Iterable[Part], tally: Tally) -> Iterator[Sample]:
    """Yields the samples of one key. An extension that occurs again starts another sample."""
    sample = Sample(key)
    for part in parts:
        if part.extension in sample.extensions:
            yield counted(sample, tally)
            tally.twice += 1
            sample = Sample(key)
        sample.add(part)
    yield counted(sample, tally)


def counted(sample: Sample, tally: Tally) -> Sample:
    """The sample, after its oddities were counted."""
    tally.several += len(sample.images) > 1
    tally.without_image += sample.image is None
    tally.stray_labels += sample.image is None and any(
        extension.rpartition(".")[2] == "cls" for extension in sample.extensions)
    return sample


def names_hold_dots(parts: Sequence[Part]) -> bool:
    """True if members with the same key up to the first dot are several samples, by the last dot.

    That is so in two cases. An image has a label file of its own: 22.05.png and 22.05.cls. Or there
    are several images that nothing ties together: no member has the plain key as its name, or an
    image has and the others are numbered on from it (v1.jpg, v1.2.jpg, v1.3.jpg). Masks and other
    annotations (b.seg.png next to b.jpg) are parts of one sample in any case.
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
    """The same member, with its key ending at the last dot."""
    middle, dot, last = part.extension.rpartition(".")
    return Part(f"{part.key}{dot}{middle}", last, part.member)


def parts_of(walk: Walk, tally: Tally) -> Iterator[Part]:
    """Yields the files that belong to samples. A link has the bytes of its target."""
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
    """A path's key and extension (lower case), split at the first dot after the last "/".

    The extension is "" for files that are ignored: hidden ones, and those without a dot.
    """
    folder, slash, base = path.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower() if stem else ""


def stem_of(name: str) -> str:
    """A shard's name without .tar, .tar.gz and similar suffixes."""
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), name)


def begins_with_samples(walk: Walk) -> bool:
    """True if the first members contain an image next to its label, or an image of prep's.

    Any other tar of images counts as a packed folder.
    """
    first = itertools.islice(peek(walk), LOOKED_AT)
    return any(sample.image is not None
               and (sample.beside or OURS.fullmatch(sample.image.member.name) is not None)
               for sample in grouped(first, Tally()))


def peek(walk: Walk) -> Iterator[Part]:
    """Yields the first files of samples, by their names alone, as far as the tar can be read."""
    with contextlib.suppress(UserError):  # the caller may have only the beginning of a tar
        for member in itertools.islice(walk, PEEKED):
            path, hidden = key_of(member.name)
            key, extension = split_name(path)
            if extension and not hidden and (member.is_file or member.kind in LINKS):
                yield Part(key, extension, member)
