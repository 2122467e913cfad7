"""WebDataset: tars in which consecutive members named KEY.EXTENSION make one sample."""

from __future__ import annotations

import hashlib
import itertools
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.tar import Walk
from data_tools.formats.webdataset_labels import label_samples
from data_tools.formats.webdataset_samples import (
    LATER,
    SUFFIXES,
    Sample,
    Tally,
    begins_with_samples,
    samples_of,
    stem_of,
)
from data_tools.images.file_names import is_ignored
from data_tools.sources.archive import Archive, compression, head_of, opened
from data_tools.sources.keys import Keys

if TYPE_CHECKING:
    from data_tools.sources.location import Location

PEEKED = 4 << 20
# Number of unpacked shards that are kept: runs read shards in order, but a part may use the end of
# one and the start of the next.
KEPT = 2
# The version of the rule that makes samples. It enters the fingerprint of sets that the first
# version grouped in another way.
RULE = b"2"


def recognises(location: Location) -> bool:
    """True for a tar that starts with samples, and for a folder that holds nothing but tars."""
    try:
        if location.is_dir():
            return bool(shards_of(location))
        if not location.is_file():
            return False
        packed = compression(location)
        head = head_of(location, PEEKED) if packed else b""
        end = len(head) if packed else location.size()
        pread = (lambda size, at: head[at : at + size]) if packed else location.pread
        return begins_with_samples(Walk(pread, 0, end, location))
    except (OSError, UserError):
        return False


def shards_of(folder: Location) -> list[Location]:
    """The tars in a folder, sorted; empty if it holds other files too."""
    names = [name for name in folder.names() if not is_ignored(name)]
    if not names or not all(name.lower().endswith(SUFFIXES) for name in names):
        return []
    return [folder.child(name) for name in names]


def open(location: Location | Sequence[Location]) -> WebDatasetSource:
    """Opens shards. Raises UserError if one is no tar or damaged, and if no sample has an image."""
    from data_tools.sources.location import Location

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
        # Positions in `texts`, since labels are numbered only after all are known; -1: no label.
        self.labels = array("q")
        self.texts: dict[str, int] = {}
        self.tally = Tally()
        self.notes: list[str] = []
        self.regrouped = False
        """True if an older version of the rule took other members for the images."""


class WebDatasetSource:
    """The images of the samples, shard by shard, in the order of the tars."""

    def __init__(self, shards: Sequence[Location], place: Location) -> None:
        self._shards = list(shards)
        self._unpacked: OrderedDict[int, Archive] = OrderedDict()
        self._lock = threading.Lock()
        self._stems = stems_of([shard.name for shard in self._shards])
        index, digest = Index(), hashlib.sha256()
        self._packed: list[bool] = []
        self.keys = Keys(itertools.chain.from_iterable(
            self._read_shard(i, index, digest) for i in range(len(self._shards))))
        self.name, self.ignored = place.name, index.tally.hidden
        if not len(self.keys):
            raise UserError(f"{place}: no sample of it has an image; give tars of images")
        count = len(self._shards)
        self.kind = f"WebDataset, {count:,} shard{'s' if count > 1 else ''}"
        self._shard, self._offset, self.sizes = (
            np.frombuffer(column, np.int64)
            for column in (index.shards, index.offsets, index.sizes))
        texts, tally = list(index.texts), index.tally
        self.labels, self.classes, notes = label_samples(
            np.frombuffer(index.labels, np.int64), texts, self._shard, self._stems)
        self.minus_ones = (self.labels < 0) & (np.frombuffer(index.labels, np.int64) >= 0)
        if index.regrouped or tally.dotted or tally.twice or tally.links or (
            any("." in text for text in texts)):
            # A run that an older version started must not go on with other samples.
            digest.update(RULE)
        self.fingerprint = digest.hexdigest()
        self.notes = notes + tally.notes() + index.notes
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
            walk = archive.walk()
            stem, seen = self._stems[i], set()
            for sample in samples_of(walk, index.tally):
                if not self._add(archive, i, sample, index, digest):
                    continue
                name, copy = f"{stem}/{sample.key}", 1
                while name in seen:
                    copy += 1
                    name = f"{stem}/{sample.key}~{copy}"
                seen.add(name)
                yield name
            index.notes += walk.notes()
        except OSError as error:
            raise UserError(f"{place}: can't be read: {error.strerror or error}") from None
        finally:
            archive.close()

    def _add(
        self, archive: Archive, i: int, sample: Sample, index: Index, digest: hashlib._Hash
    ) -> bool:
        """Appends a sample to the index. False if it has no image."""
        for part in sample.parts:
            member = part.member
            digest.update(repr((member.name, member.size, member.mtime)).encode())
        if sample.image is None:
            return False
        text = sample.label(archive.pread, digest.update)
        member = sample.image.member
        index.shards.append(i)
        index.offsets.append(member.offset)
        index.sizes.append(member.size)
        index.labels.append(index.texts.setdefault(text, len(index.texts)) if text else -1)
        index.regrouped |= (sample.image is not sample.images[0]
                            or sample.image.extension.rpartition(".")[2] in LATER)
        return True

    def read(self, i: int) -> bytes:
        shard, size, offset = int(self._shard[i]), int(self.sizes[i]), int(self._offset[i])
        place = self._shards[shard]
        if self._packed[shard]:
            return self._archive(shard).pread(size, offset)
        if place.local is None:
            return place.pread(size, offset)
        # Opened for each read: there may be more shards than a process may have files open.
        with opened(place) as file:
            file.seek(offset)
            return file.read(size)

    def _archive(self, shard: int) -> Archive:
        """A compressed shard, unpacked; the last KEPT ones stay. Raises OSError."""
        with self._lock:
            if shard not in self._unpacked:
                try:
                    self._unpacked[shard] = Archive(self._shards[shard])
                except UserError as error:
                    raise OSError(5, str(error)) from None
                if len(self._unpacked) > KEPT:
                    # Its file goes when the last thread that reads it drops the archive.
                    self._unpacked.popitem(last=False)
            self._unpacked.move_to_end(shard)
            return self._unpacked[shard]

    def close(self) -> None:
        with self._lock:
            self._unpacked.clear()


def stems_of(names: Sequence[str]) -> list[str]:
    """The shards' names without .tar. If shards of several folders have one name: x, x~2."""
    seen: Counter[str] = Counter()
    stems = []
    for name in names:
        seen[name] += 1
        stems.append(stem_of(name) + (f"~{seen[name]}" if seen[name] > 1 else ""))
    return stems
