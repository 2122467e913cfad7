"""Prepares the images of a source by a policy, on all cores, in the source's order.

Threads read, check and re-encode chunks of images. They stay a bounded distance ahead of the
consumer, so memory does not grow with the dataset. Threads suffice, because libjpeg, Pillow and
file reads release Python's global lock.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data_tools.errors import Interrupted, NotEnoughMemory, UserError, of_file_system
from data_tools.images.codec import quiet_pillow
from data_tools.images.memory_budget import DECODING, READING
from data_tools.images.prepare_image import BadImage, Prepared, prepare_image
from data_tools.machine import cores, free_memory
from data_tools.policy import Policy
from data_tools.safe_reading.limits import refuse
from data_tools.sources.source import Source
from data_tools.store import digest_of

# A chunk is one task of a thread. It ends at CHUNK_IMAGES or at CHUNK_BYTES, whichever comes first:
# large enough that the queue costs nothing, small enough that threads share the work evenly.
CHUNK_IMAGES, CHUNK_BYTES = 256, 2 << 20
LARGEST_FILE = 1 << 30


class Done(NamedTuple):
    """Result for one image of the source."""

    i: int
    """Number of the image in the source."""
    result: Prepared | BadImage
    """The image to store, or the reason to leave it out."""
    digest: bytes
    """Digest of the source's bytes, DIGEST_BYTES long: equal for equal images."""
    crc: int
    """zlib.crc32 of the bytes to store."""
    unreadable: bool
    """True if the file system or network failed to give the image."""


def share_memory(processes: int = 1) -> None:
    """Sets the memory that all threads together may hold, as a share of what is free now.

    processes: number of processes that prepare images on this machine at the same time.
    """
    free = free_memory() // max(1, processes)
    DECODING.resize(free // 2)
    READING.resize(free // 4)


def work_through(
    source: Source, ranges: Iterable[range], policy: Policy, max_bytes: int, processes: int = 1
) -> Iterator[Done]:
    """Yields every image of the ranges, in order.

    max_bytes: the most bytes that a stored image may take. processes: see share_memory.
    Raises UserError at the first bad image if the policy is strict, and NotEnoughMemory, with the
    image's name, for a valid image that this machine can't decode.
    """
    workers = policy.workers or cores()
    share_memory(processes)

    def work(chunk: range) -> list[Done]:
        return [prepare_one(source, i, policy, max_bytes) for i in chunk]

    pending: deque[Future[list[Done]]] = deque()
    with ThreadPoolExecutor(workers) as pool, quiet_pillow():
        try:
            for whole in ranges:
                for chunk in chunks(source.sizes, whole):
                    pending.append(pool.submit(work, chunk))
                    if len(pending) > 2 * workers:
                        yield from checked(source, policy, pending.popleft().result())
            while pending:
                yield from checked(source, policy, pending.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def checked(source: Source, policy: Policy, results: list[Done]) -> list[Done]:
    """The results. Raises UserError (Interrupted if the file system failed) for a bad image, if the
    policy is strict."""
    bad = (done for done in results if policy.strict and isinstance(done.result, BadImage))
    for done in bad:
        kind = Interrupted if done.unreadable else UserError
        raise kind(f"{source.name}: {source.keys[done.i]}: {done.result} "
                   "(--strict stops at the first bad image)")
    return results


def chunks(sizes: Sequence[int] | np.ndarray, whole: range) -> Iterator[range]:
    """Cuts a range of images of these sizes into chunks of CHUNK_IMAGES or CHUNK_BYTES at most."""
    start, total = whole.start, 0
    for i in whole:
        size = int(sizes[i])
        if i > start and (i - start == CHUNK_IMAGES or total + size > CHUNK_BYTES):
            yield range(start, i)
            start, total = i, 0
        total += size
    if start < whole.stop:
        yield range(start, whole.stop)


def prepare_one(source: Source, i: int, policy: Policy, max_bytes: int) -> Done:
    """Reads image i and prepares it. A bad image is a result, not an exception."""
    digest = b""
    try:
        if source.sizes[i] > LARGEST_FILE:
            raise BadImage(f"larger than {LARGEST_FILE} bytes", is_image=False)
        with READING.take(int(source.sizes[i])):
            data = source.read(i)
            digest = digest_of(data)
            result = prepare_image(data, policy, max_bytes, stored_raw(i, policy.raw_fraction))
            return Done(i, result, digest, zlib.crc32(result.data), False)
    except NotEnoughMemory as error:
        raise NotEnoughMemory(f"{source.keys[i]}: {error}") from None
    except BadImage as error:
        # A new exception: the traceback of the old one would keep the file's bytes in memory.
        return Done(i, BadImage(str(error), error.is_image), digest, 0, False)
    except OSError as error:
        refuse(error)
        reason = f"can't be read: {error.strerror or error}"
        return Done(i, BadImage(reason, is_image=False), digest, 0, of_file_system(error))


def stored_raw(i: int, fraction: float) -> bool:
    """True if image i is stored raw: of the first n images, n x fraction are, evenly spread."""
    return int((i + 1) * fraction) > int(i * fraction)
