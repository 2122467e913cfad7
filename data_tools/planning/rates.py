"""Measures this machine: images/s that it decodes, and bytes/s that a disk writes and reads.

`prep --plan`, `fastmoco bench` and `fastmoco doctor` all measure here, so their figures compare.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg

from data_tools.store import JPEG, Store

SECONDS = 0.6
BLOCK, WRITTEN = 8 << 20, 256 << 20


def in_threads(work: Callable[[int], object], threads: int, seconds: float) -> float:
    """Return the calls per second of work(0), work(1), ... in threads, over about `seconds`."""
    numbers = itertools.count()  # next() is atomic, so no two threads get the same number
    started = time.perf_counter()

    def run(_: int) -> int:
        work(next(numbers))  # at least one call per thread, however busy the machine is
        done = 1
        while time.perf_counter() - started < seconds:
            work(next(numbers))
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(run, range(threads)))
    return done / (time.perf_counter() - started)


def decode_rate(store: Store, ids: Sequence[int], threads: int, seconds: float = SECONDS) -> float:
    """Return the images/s of libjpeg's exact decode of the images `ids`, again and again.

    Raw images are copied, since they need no decode. The order of `ids` matters: their first images
    alone are decoded if time is short.
    """

    def work(k: int) -> None:
        i = int(ids[k % len(ids)])
        encoded = store.encoded(i)
        if store.kinds[i] == JPEG:
            simplejpeg.decode_jpeg(encoded)
        else:
            encoded.copy()

    return in_threads(work, threads, seconds)


def write_rate(handle: int, seconds: float = SECONDS) -> float:
    """Return the bytes/s at which a disk stores new data in an open, empty file, synced at the end.

    Writes at most WRITTEN bytes. Raises OSError.
    """
    block = np.random.default_rng(0).bytes(BLOCK)  # noise: some disks compress
    started, written = time.perf_counter(), 0
    while True:
        written += os.write(handle, block)
        if written >= WRITTEN or time.perf_counter() - started >= seconds:
            break
    os.fsync(handle)
    return written / (time.perf_counter() - started)


def read_rate(handle: int, seconds: float = SECONDS) -> float:
    """Return the bytes/s at which a disk reads back an open file that write_rate wrote.

    The file is dropped from the page cache first, if the system can do that. Raises OSError.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    size = os.fstat(handle).st_size
    started, got = time.perf_counter(), 0
    while True:
        got += len(os.pread(handle, BLOCK, got))
        if got >= size or time.perf_counter() - started >= seconds:
            break
    return got / (time.perf_counter() - started)
