"""A tar of a folder of images, read in place.

One pass over the headers finds the members. Then every image is one positioned read, in any order
and from any thread.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.tar_header import BLOCK, is_header
from data_tools.formats.tar_listing import Listing, read_listing
from data_tools.images.magic import HEAD
from data_tools.sources.archive import Archive, head_of
from data_tools.sources.folder_labels import label_files
from data_tools.sources.keys import Keys

if TYPE_CHECKING:
    from data_tools.sources.location import Location


def recognises(location: Location) -> bool:
    """True for a tar, also a compressed one, by its first header."""
    try:
        return location.is_file() and is_header(head_of(location, BLOCK))
    except (OSError, UserError):
        return False


def open(location: Location, labels: Location | None = None) -> TarSource:
    """Opens a tar. Raises UserError if it is no tar, is damaged, or holds train and val side by
    side."""
    archive = Archive(location)
    try:
        return TarSource(archive, read_listing(archive.walk()), "tar of images", labels)
    except BaseException:
        archive.close()
        raise


class TarSource:
    """The regular files of a tar. A link counts as the member that it points at."""

    def __init__(
        self, archive: Archive, listing: Listing, kind: str, labels: Location | None = None
    ) -> None:
        place = archive.location
        self.name, self.kind = place.name, kind
        self.ignored = len(listing.hidden)
        names = sorted(listing.index)
        if not names:
            raise UserError(f"{place}: holds no files; give a folder or a tar of images")
        rows = np.array([listing.index[name] for name in names], np.int64)
        self.keys = Keys(names)
        self.sizes = np.frombuffer(listing.sizes, np.int64)[rows]
        self._offsets = np.frombuffer(listing.offsets, np.int64)[rows]
        times = np.frombuffer(listing.mtimes, np.int64)[rows]
        self.fingerprint = digest_of(names, self.sizes, times)
        self._archive = archive
        found = label_files(self.keys, self._head, place, labels)
        self.labels, self.classes, notes = found
        self.notes = listing.notes + notes
        if archive.packed:
            self.notes.append(f"unpacked ({archive.packed}) to a temporary file of "
                              f"{archive.size:,} bytes")

    def _head(self, i: int) -> bytes:
        return self._read(i, HEAD)

    def read(self, i: int) -> bytes:
        return self._read(i, int(self.sizes[i]))

    def _read(self, i: int, most: int) -> bytes:
        if self._offsets[i] < 0:
            raise OSError("a link to a file that the tar doesn't hold")
        return self._archive.pread(min(most, int(self.sizes[i])), int(self._offsets[i]))

    def close(self) -> None:
        self._archive.close()


def digest_of(keys: list[str], sizes: np.ndarray, mtimes: np.ndarray) -> str:
    """The fingerprint of files: a hash of their keys, sizes and times."""
    digest = hashlib.sha256()
    for row in zip(keys, sizes.tolist(), mtimes.tolist(), strict=True):
        digest.update(repr(row).encode())
    return digest.hexdigest()
