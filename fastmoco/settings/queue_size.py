"""The size K of the queue: the least, the most and the advised number of keys, with the messages.

Too few keys do not hold one batch. Too many hold older keys of the same images as negatives, or do
not fit into memory. In the paper's figure 3 accuracy grows with K and levels off.
"""

from __future__ import annotations

import math

from data_tools.errors import UserError
from data_tools.quantities import human

PAPERS_K = 65_536
LARGE = 0.5  # of the dataset; from here the queue holds older keys of the batch's own images
SMALL, SMALL_SHARE = 1024, 1 / 16  # keys, and share of the dataset: a K below both is small
MOST_BYTES = 10**12  # more memory than any device has


def least_keys(batch: int, symmetric: bool) -> int:
    """Return the number of keys that a step enqueues: the queue must have room for them."""
    return batch * (2 if symmetric else 1)


def most_keys(samples: int, batch: int) -> int:
    """Return the largest sensible K for a dataset of `samples` images.

    It is a power of two of at most a quarter of the dataset, and at least one batch.
    """
    return max(2 ** int(math.log2(max(samples // 4, 1))), batch)


def advised_keys(samples: int, batch: int) -> int:
    """Return the K to suggest: a sixteenth of the dataset, to a power of two, but no more than the
    paper's and no less than a batch."""
    sixteenth = 2 ** round(math.log2(max(samples / 16, 1)))
    return max(min(PAPERS_K, sixteenth, most_keys(samples, batch)), batch)


def refuse_small(K: int, batch: int, symmetric: bool) -> None:
    """Raise UserError if the queue cannot hold the keys of one step."""
    keys = least_keys(batch, symmetric)
    if keys > K:
        both = ", twice with --symmetric" if symmetric else ""
        raise UserError(
            f"--K is {K}, below --batch {batch}: the queue must hold one batch of "
            f"keys{both}; use --K {keys} or more, or a smaller --batch"
        )


def too_large(K: int, samples: int) -> str:
    """Return the reason why a queue is too large for the dataset, or an empty string."""
    return f"--K {K} is larger than the dataset ({samples} images)" if samples < K else ""


def refuse_large(K: int, samples: int, batch: int) -> None:
    """Raise UserError if the queue would hold more keys than there are images."""
    reason = too_large(K, samples)
    if reason:
        raise UserError(
            f"{reason}: the negatives would hold older keys of the same images; use --K "
            f"{most_keys(samples, batch)} or less, or --force"
        )


def refuse_vast(K: int, dim: int, room: int | None) -> None:
    """Raise UserError if the keys, float32 [K, dim], take more than `room` bytes.

    room: None if it is not known; then MOST_BYTES. This comes before any estimate, because walking
    through a step takes time in proportion to K.
    """
    keys, room = K * dim * 4, MOST_BYTES if room is None else room
    if keys > room:
        raise UserError(
            f"out of memory: the queue's keys alone take {human(keys)} (--K {K}, "
            f"--dim {dim}), and there are {human(room)}; use a smaller --K or --dim"
        )


def warning_on(K: int, samples: int) -> str:
    """Return a warning on a K that trains but is not sensible, or an empty string."""
    if K > LARGE * samples:
        return (
            f"--K {K} is {K / samples:.0%} of the dataset: the queue holds older keys of the "
            f"same images that it is contrasted with; a quarter of it or less is usual"
        )
    if K < SMALL and K <= SMALL_SHARE * samples:
        return (
            f"--K {K} is small for {samples:,} images: more negatives cost next to nothing and "
            f"help (paper, figure 3)"
        )
    return ""
