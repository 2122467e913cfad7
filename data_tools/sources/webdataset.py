"""WebDataset: tars whose members, one after another and named KEY.EXTENSION, make samples."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.webdataset import LONGEST_LABEL, OURS, is_image, json_label, split_name
from data_tools.sources import is_ignored
from data_tools.sources.archive import Archive, compression, head_of
from data_tools.sources.keys import Keys
from data_tools.sources.rows import name_labels, number_labels
from data_tools.sources.tar import REMOTE_WINDOW, WINDOW, Member, members

if TYPE_CHECKING:
    from data_tools.location import Location

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
LABELS = ("cls", "json")
BESIDE = (*LABELS, "txt")
LOOKED_AT, PEEKED = 64, 4 << 20
# Unpacked shards that are kept; runs read them in order, and parts overlap at a shard's end.
KEPT = 2
NUMBER = re.compile(r"-?\d{1,18}")
SYNSET = re.compile(r"n\d{8}")


def recognises(location: Location) -> bool:
    """True for a tar that begins with samples, and for a folder that holds nothing but tars."""
    try:
        if location.is_dir():
            return bool(shards_of(location))
        if not location.is_file():
            return False
        packed = compression(location)
        head = head_of(location, PEEKED) if packed else b""
        end = len(head) if packed else location.size()
        pread = (lambda size, at: head[at : at + size]) if packed else location.pread
        return begins_with_samples(members(pread, 0, end, location))
    except (OSError, UserError):
        return False


def shards_of(folder: Location) -> list[Location]:
    names = [name for name in folder.names() if not is_ignored(name)]
    if not names or not all(name.lower().endswith(SUFFIXES) for name in names):
        return []
    return [folder.child(name) for name in names]


def begins_with_samples(walk: Iterator[Member]) -> bool:
    """True where an image and its label lie side by side, or an image is named as ours are."""
    key = ""
    extensions: set[str] = set()
    with contextlib.suppress(UserError):  # a peek ends within a member
        for member in itertools.islice(walk, LOOKED_AT):
            if not member.is_file:
                continue
            if OURS.fullmatch(member.name):
                return True
            this, extension = split_name(member.name)
            extensions = extensions | {extension} if this == key else {extension}
            key = this
            if any(map(is_image, extensions)) and not extensions.isdisjoint(BESIDE):
                return True
    return False


def open(location: Location | Sequence[Location]) -> WebDatasetSource:
    """Raises UserError for a shard that is no tar, or damaged, and where no sample has an image."""
    from data_tools.location import Location

    if not isinstance(location, Location):
        return WebDatasetSource(location, location[0].parent)
    shards = shards_of(location) if location.is_dir() else [location]
    if not shards:
        raise UserError(f"{location}: holds no tars, or other files too")
    return WebDatasetSource(shards, location)


class Index:
    """The samples found so far, in columns."""

    def __init__(self) -> None:
        self.shards, self.offsets, self.sizes = array("q"), array("q"), array("q")
        # Labels as numbers of their texts, until all are known; -1: none.
        self.labels = array("q")
        self.texts: dict[str, int] = {}
        self.without_image = self.second_images = self.hidden = 0


class WebDatasetSource:
    """The images of the samples, shard by shard, in the order they lie in."""

    def __init__(self, shards: Sequence[Location], place: Location) -> None:
        self._shards = list(shards)
        self._unpacked: OrderedDict[int, Archive] = OrderedDict()
        self._lock = threading.Lock()
        index, digest = Index(), hashlib.sha256()
        self._packed: list[bool] = []
        self.keys = Keys(itertools.chain.from_iterable(
            self._read_shard(i, index, digest) for i in range(len(self._shards))))
        self.name, self.ignored = place.name, index.hidden
        if not len(self.keys):
            raise UserError(f"{place}: no sample of it has an image; give tars of images")
        count = len(self._shards)
        self.kind = f"WebDataset, {count:,} shard{'s' if count > 1 else ''}"
        self._shard, self._offset, self.sizes = (
            np.frombuffer(column, np.int64)
            for column in (index.shards, index.offsets, index.sizes))
        self.fingerprint = digest.hexdigest()
        self.notes: list[str] = []
        self.labels, self.classes = self._label(index)
        if index.without_image:
            self.notes.append(f"{index.without_image:,} samples without an image, passed over")
        if index.second_images:
            self.notes.append(f"{index.second_images:,} samples with several images: the first "
                              "of each is taken")
        if any(self._packed):
            self.notes.append(f"{sum(self._packed):,} compressed shards are unpacked to "
                              f"temporary files, {KEPT} at a time")

    def _read_shard(self, i: int, index: Index, digest: hashlib._Hash) -> Iterator[str]:
        """The keys of one shard's samples; appends them to the index."""
        place = self._shards[i]
        archive = Archive(place)
        try:
            self._packed.append(bool(archive.packed))
            digest.update(repr((place.name, archive.size)).encode())
            quick = archive.packed or place.local is not None
            walk = members(archive.pread, 0, archive.size, place,
                           WINDOW if quick else REMOTE_WINDOW)
            stem, seen = self._stem(i), set()
            for key, sample in itertools.groupby(visible(walk, index),
                                                 lambda member: split_name(member.name)[0]):
                name, copy = f"{stem}/{key}", 1
                if not self._add(archive, i, list(sample), index, digest):
                    continue
                while name in seen:
                    copy += 1
                    name = f"{stem}/{key}~{copy}"
                seen.add(name)
                yield name
        finally:
            archive.close()

    def _stem(self, i: int) -> str:
        name = self._shards[i].name
        stem = next((name[: -len(end)] for end in sorted(SUFFIXES, key=len, reverse=True)
                     if name.lower().endswith(end)), name)
        # Shards of several folders may share their names.
        same = sum(shard.name == name for shard in self._shards[:i])
        return f"{stem}~{same + 1}" if same else stem

    def _add(
        self, archive: Archive, i: int, sample: list[Member], index: Index, digest: hashlib._Hash
    ) -> bool:
        image: Member | None = None
        found: dict[str, Member] = {}
        for member in sample:
            digest.update(repr((member.name, member.size, member.mtime)).encode())
            extension = split_name(member.name)[1]
            if is_image(extension):
                index.second_images += image is not None
                image = image or member
            elif extension in LABELS and member.size <= LONGEST_LABEL:
                found.setdefault(extension, member)
        if image is None:
            index.without_image += 1
            return False
        text = ""
        for extension in LABELS:
            if not text and extension in found:
                data = archive.pread(found[extension].size, found[extension].offset)
                text = (data.decode("utf-8", "replace").strip() if extension == "cls"
                        else json_label(data))
                digest.update(data)
        index.shards.append(i)
        index.offsets.append(image.offset)
        index.sizes.append(image.size)
        index.labels.append(index.texts.setdefault(text, len(index.texts)) if text else -1)
        return True

    def _label(self, index: Index) -> tuple[np.ndarray, list[str]]:
        codes, texts = np.frombuffer(index.labels, np.int64), list(index.texts)
        if not texts:
            stems = [self._stem(i) for i in range(len(self._shards))]
            if all(map(SYNSET.fullmatch, stems)):
                # ImageNet's training set, unpacked to the tars of its classes.
                labels, classes = name_labels(stems)
                return labels[self._shard], classes
            self.notes.append("no labels: the samples have no .cls and no label in a .json")
            return codes, []
        if all(map(NUMBER.fullmatch, texts)):
            values, classes, note = number_labels(np.array(texts, np.int64))
            self.notes += [note] if note else []
        else:
            values, classes = name_labels(texts)
        return np.append(values, -1)[codes], classes

    def read(self, i: int) -> bytes:
        shard, size, offset = int(self._shard[i]), int(self.sizes[i]), int(self._offset[i])
        place = self._shards[shard]
        if self._packed[shard]:
            return self._archive(shard).pread(size, offset)
        if place.local is None:
            return place.pread(size, offset)
        # Opened anew each time: there may be more shards than files may be open.
        with place.open() as file:
            file.seek(offset)
            return file.read(size)

    def _archive(self, shard: int) -> Archive:
        with self._lock:
            if shard not in self._unpacked:
                try:
                    self._unpacked[shard] = Archive(self._shards[shard])
                except UserError as error:
                    raise OSError(5, str(error)) from None
                if len(self._unpacked) > KEPT:
                    # Its file is gone when the last thread that reads there has let go of it.
                    self._unpacked.popitem(last=False)
            self._unpacked.move_to_end(shard)
            return self._unpacked[shard]

    def close(self) -> None:
        with self._lock:
            self._unpacked.clear()


def visible(walk: Iterator[Member], index: Index) -> Iterator[Member]:
    """The regular files that belong to samples."""
    for member in walk:
        if any(is_ignored(part) for part in member.name.split("/") if part not in ("", ".")):
            index.hidden += 1
        elif member.is_file and not member.sparse and split_name(member.name)[1]:
            yield member
