"""Data larger than memory: orders an epoch in blocks, and reads them ahead in a thread.

In a random order each sample of a large file costs a disk seek, and the page cache drops it before
the next epoch. In blocks the disk reads megabytes at a time. Blocks are shuffled; groups of them,
1 GB together, are mixed sample by sample. The thread reads one group ahead into the page cache, so
the decoders find their bytes in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import pairwise
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
BLOCK_BYTES = 2 << 20  # large enough for nearly a disk's full speed, small enough to mix classes
MIXED_BYTES = 1 << 30  # the page cache holds twice this: the group in use and the next one
SHARE = 0.7  # of the machine's memory: larger data is read in blocks
GAP = 1 << 20  # bytes: smaller gaps between samples are read too, which is faster than a seek
PIECE = 4 << 20  # bytes per read


def pick_order(wanted: str, store: Store, available: int | None = None) -> tuple[Order, str | None]:
    """Resolve 'auto' to 'random' or 'blocks'. Also return a line that explains 'blocks', or None.

    available: bytes of memory [default: the machine's].
    """
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
    """Return (samples per block, blocks per mixed group) of a store, from its mean image size."""
    mean = max(1.0, float(store.lengths.sum()) / len(store))
    block = max(1, round(BLOCK_BYTES / mean))
    return block, max(1, round(MIXED_BYTES / (block * mean)))


def block_order(store: Store, seed: int, epoch: int) -> NDArray[np.int64]:
    """Sample ids in the order of one epoch in blocks: int64 [N]."""
    return draws.block_permutation(seed, epoch, len(store), *block_size(store))


class ReadAhead:
    """A thread that reads an epoch's samples into the page cache, one mixed group ahead."""

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
        """Report that the samples before order[position] are in use."""
        with self._change:
            self._reached = position
            self._change.notify()

    def _run(self) -> None:
        begin = self._reached // self._part
        for part in range(begin, -(-len(self._order) // self._part)):
            with self._change:  # sleep until the group before this one is in use
                self._change.wait_for(
                    lambda: self._stop or self._reached >= (part - 1) * self._part  # noqa: B023
                )
            wanted = self._order[part * self._part : (part + 1) * self._part]
            for path, start, end in runs(self._store, wanted):
                if not self._read(path, start, end):
                    return

    def _read(self, path: Path, start: int, end: int) -> bool:
        """Read a part of a file and drop the bytes: the page cache keeps them. False if the thread
        should stop."""
        try:
            handle = open_regular(path)
        except OSError:  # the decoders report it, with the sample's key
            return not self._stop
        try:
            while start < end and not self._stop:
                read = len(os.pread(handle, min(PIECE, end - start), start))
                if read == 0:  # the file is shorter than the index says
                    break
                start += read
                self.bytes += read
        except OSError:  # reading ahead is only an optimisation: the decoders report it
            pass
        finally:
            os.close(handle)
        return not self._stop


def runs(store: Store, ids: NDArray[np.int64]) -> Iterator[tuple[Path, int, int]]:
    """Parts (path, start, end) of the store's files that hold these samples, in file order; start
    and end in bytes."""
    files, starts, lengths = store.places(ids)
    in_order = np.lexsort((starts, files))  # by file, then by offset
    files, starts, ends = files[in_order], starts[in_order], (starts + lengths)[in_order]
    borders = np.flatnonzero(np.diff(files)) + 1  # where the next file starts
    for first, last in pairwise([0, *borders.tolist(), len(files)]):
        for start, end in joined(starts[first:last], ends[first:last]):
            yield store.data[int(files[first])], start, end


def joined(
    starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Join ranges of bytes, sorted by start, that overlap or are at most GAP apart."""
    ends = np.maximum.accumulate(ends)
    breaks = np.flatnonzero(starts[1:] > ends[:-1] + GAP) + 1
    for first, last in pairwise([0, *breaks.tolist(), len(starts)]):
        yield int(starts[first]), int(ends[last - 1])
