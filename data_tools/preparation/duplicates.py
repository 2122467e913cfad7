"""Finds images that are byte for byte the same, by their digests, in 24 bytes of memory per image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_tools.manifest import damaged, read_manifest
from data_tools.open import open_store
from data_tools.safe_reading.checksum import read_checked
from data_tools.store import DIGEST_BYTES, DIGESTS, RAW, Store, digest_of, npy_header

# Number of new digests that are kept as Python objects before they go into the sorted arrays: a
# dictionary of all would take several times the memory.
RECENT = 1 << 14


class Seen:
    """Digests seen so far (16 bytes each), each with the number of the first image that had it."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        # Sorted by `_heads`, the first half of the digests.
        self._heads = np.empty(0, np.uint64)
        self._tails = np.empty(0, np.uint64)
        self._numbers = np.empty(0, np.int64)

    def first(self, digest: bytes, number: int) -> int:
        """The number of the first image with this digest: `number` if there was none before."""
        found = self.find(digest)
        if found >= 0:
            return found
        self._recent[digest] = number
        if len(self._recent) == RECENT:
            self._settle()
        return number

    def find(self, digest: bytes) -> int:
        """The number of the first image with this digest, or -1."""
        found = self._recent.get(digest, -1)
        if found < 0 and len(self._heads):
            head, tail = np.frombuffer(digest, "<u8")
            at = int(np.searchsorted(self._heads, head))
            if at < len(self._heads) and self._heads[at] == head and self._tails[at] == tail:
                found = int(self._numbers[at])
        return found

    def _settle(self) -> None:
        halves = np.frombuffer(b"".join(self._recent), "<u8").reshape(-1, 2)
        order = np.argsort(halves[:, 0])
        numbers = np.fromiter(self._recent.values(), np.int64, len(self._recent))[order]
        at = np.searchsorted(self._heads, halves[order, 0])
        self._heads = np.insert(self._heads, at, halves[order, 0])
        self._tails = np.insert(self._tails, at, halves[order, 1])
        self._numbers = np.insert(self._numbers, at, numbers)
        self._recent.clear()


def digests(store: Store) -> Iterator[bytes]:
    """Digest of each image: of the source bytes if the dataset recorded it, else of the stored
    bytes. Raises UserError if the recorded digests are damaged."""
    path = store.path / DIGESTS
    if path.is_file():
        sealed = read_manifest(store.path).files.get(DIGESTS)
        if sealed is None:
            raise damaged(path, "the manifest does not name it")
        content = read_checked(path, sealed.sha256)
        header = npy_header(np.dtype("u1"), len(store), DIGEST_BYTES)
        size = len(header) + len(store) * DIGEST_BYTES
        if not content.startswith(header) or len(content) != size:
            raise damaged(path, "not the digests of its images")
        for at in range(len(header), len(content), DIGEST_BYTES):
            yield content[at : at + DIGEST_BYTES]
        return
    for i in range(len(store)):
        encoded = store.encoded(i)
        if store.kinds[i] == RAW:
            encoded = encoded.reshape(*store.sizes[i], 3)
            yield digest_of(encoded)
        else:
            yield digest_of(encoded.tobytes())


class Other:
    """Another dataset, to find out which of its images are in this one too."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._store = open_store(path)
        self.name = Path(path).resolve().name
        self._seen = Seen()
        for number, digest in enumerate(digests(self._store)):
            self._seen.first(digest, number)

    def key_of(self, digest: bytes) -> str | None:
        """The key of the first image with this digest; None if there is none."""
        number = self._seen.find(digest)
        return None if number < 0 else self._store.key(number)
