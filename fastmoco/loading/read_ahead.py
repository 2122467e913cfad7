"""Data larger than memory: an epoch's order in blocks, and a thread that reads them ahead.

Samples anywhere in a large file cost a seek each and are gone from memory before the next epoch.
In blocks the disk reads megabytes at a time; 1 GB of blocks at a time is mixed sample by sample,
and the next one is read while that is used, so decoders find their bytes in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_tools.machine import memory
from data_tools.quantities import human
from data_tools.safe_reading.regular import open_regular
from data_tools.store import Store
from fastmoco import draws

Order = Literal["random", "blocks"]
BLOCK_BYTES = 2 << 20  # near enough to a disk's full speed, and few images of one class in a row
MIXED_BYTES = 1 << 30  # twice this lies in memory: the part in use and the next
SHARE = 0.7  # of the memory, which data may fill before it is read in blocks
GAP = 1 << 20  # bytes between two samples that are rather read than skipped
PIECE = 4 << 20  # bytes of one read


def pick_order(wanted: str, store: Store, available: int | None = None) -> tuple[Order, str | None]:
    """Resolve 'auto', and a line on it where the order is not the usual one."""
    if wanted != "auto":
        return ("blocks" if wanted == "blocks" else "random"), None
    available = memory() if available is None else available
    size = int(store.lengths.sum())
    if size <= SHARE * available:
        return "random", None
    return "blocks", (
        f"the images take {human(size)} and this machine has {human(available)} of "
        f"memory: they are read in blocks of {BLOCK_BYTES >> 20} MB in random order, "
        f"{MIXED_BYTES >> 30} GB at a time mixed (--order random reads them anywhere)"
    )


def block_size(store: Store) -> tuple[int, int]:
    """(samples a block, blocks mixed with each other) of a store, by its mean image."""
    mean = max(1.0, float(store.lengths.sum()) / len(store))
    block = max(1, round(BLOCK_BYTES / mean))
    return block, max(1, round(MIXED_BYTES / (block * mean)))


def block_order(store: Store, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one epoch in blocks: int64 [N]."""
    return draws.block_permutation(seed, epoch, len(store), *block_size(store))


class ReadAhead:
    """A thread that reads what an order needs into the page cache, one mixed part ahead."""

    def __init__(self, store: Store, order: NDArray[np.int64], first: int = 0) -> None:
        block, together = block_size(store)
        self._store, self._order, self._part = store, order, block * together
        self._reached = first
        self._change = threading.Condition()
        self._stop = False
        self.bytes = 0
        self._thread = threading.Thread(target=self._run, name="fastmoco-read", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._change:
            self._stop = True
            self._change.notify()
        self._thread.join()

    def reach(self, position: int) -> None:
        """Tell that the samples before order[position] are handed out."""
        with self._change:
            self._reached = position
            self._change.notify()

    def _run(self) -> None:
        begin = self._reached // self._part
        for part in range(begin, -(-len(self._order) // self._part)):
            with self._change:
                self._change.wait_for(
                    lambda: self._stop or self._reached >= (part - 1) * self._part  # noqa: B023
                )
            wanted = self._order[part * self._part : (part + 1) * self._part]
            for path, start, end in runs(self._store, wanted):
                if not self._read(path, start, end):
                    return

    def _read(self, path: Path, start: int, end: int) -> bool:
        """Read a part of a file and forget it; False where it is time to stop."""
        try:
            handle = open_regular(path)
        except OSError:  # the decoders will say so, with the sample's name
            return not self._stop
        try:
            while start < end and not self._stop:
                read = len(os.pread(handle, min(PIECE, end - start), start))
                if read == 0:
                    break
                start += read
                self.bytes += read
        except OSError:
            pass
        finally:
            os.close(handle)
        return not self._stop


def runs(store: Store, ids: NDArray[np.int64]) -> Iterator[tuple[Path, int, int]]:
    """The parts of the store's files (path, start, end) that hold these samples, in file order."""
    files, starts, lengths = store.places(ids)
    place = (files << 48) + starts  # every file a stretch of its own
    by_place = np.argsort(place)
    place, lengths = place[by_place], lengths[by_place]
    ends = np.maximum.accumulate(place + lengths)
    apart = np.flatnonzero(place[1:] > ends[:-1] + GAP) + 1
    mask = (1 << 48) - 1
    for a, b in zip([0, *apart.tolist()], [*apart.tolist(), len(place)], strict=True):
        yield store.data[int(place[a]) >> 48], int(place[a]) & mask, int(ends[b - 1]) & mask
