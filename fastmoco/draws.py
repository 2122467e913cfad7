"""Randomness as data: every order, window and factor of a run, from one counter-based generator.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by the
seed, its counter made of (epoch, sample, stream, block). A number depends on nothing else: not on
the batch it is drawn in, nor on threads, ranks or what was drawn before. numpy only.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmoco.recipe import Augmentation

TRIES = 10  # torchvision's RandomResizedCrop tries so often before it falls back

# Streams keep uses apart; views of one use are streams side by side (at most 256 views).
_ORDER, _SHUFFLE, _WINDOW, _COLOUR, _BLOCKS, _BANK = (use << 8 for use in range(6))

# The 24 orders of (brightness, contrast, saturation, hue): row r is the r-th permutation.
ORDERS: NDArray[np.uint8] = np.array(list(itertools.permutations(range(4))), dtype=np.uint8)


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of counters [4, n] under one 64-bit key (low word, high word): words [4, n]."""
    m0, m1, mask = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57), np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    c0, c1, c2, c3 = (c.astype(np.uint64) for c in counter)
    for _ in range(10):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
        k0 = np.uint64((int(k0) + 0x9E3779B9) & 0xFFFFFFFF)
        k1 = np.uint64((int(k1) + 0xBB67AE85) & 0xFFFFFFFF)
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def _words(seed: int, epoch: int, ids: ArrayLike, streams: ArrayLike, n: int) -> NDArray[np.uint32]:
    """Random words [len(ids), len(streams), n]."""
    blocks = -(-n // 4)
    sample, stream, block = np.meshgrid(
        np.asarray(ids, dtype=np.uint32),
        np.asarray(streams, dtype=np.uint32),
        np.arange(blocks, dtype=np.uint32),
        indexing="ij",
    )
    counter = np.stack([block, stream, sample, np.full_like(block, epoch)]).reshape(4, -1)
    words = philox(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    return words.T.reshape(*sample.shape[:2], blocks * 4)[..., :n]


def uniforms(
    seed: int, epoch: int, ids: ArrayLike, streams: ArrayLike, n: int
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64 [len(ids), len(streams), n], multiples of 2**-32."""
    return _words(seed, epoch, ids, streams, n).astype(np.float64) * 2.0**-32


def _random_order(seed: int, epoch: int, n: int, stream: int) -> NDArray[np.int64]:
    words = _words(seed, epoch, np.arange(n), [stream], 2)[:, 0].astype(np.uint64)
    return np.argsort((words[:, 0] << np.uint64(32)) | words[:, 1], kind="stable")


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order in which an epoch visits n samples: int64 [n]."""
    return _random_order(seed, epoch, n, _ORDER)


def block_permutation(
    seed: int, epoch: int, n: int, block: int, together: int
) -> NDArray[np.int64]:
    """An order of n samples that reads them in runs: int64 [n].

    The blocks (each `block` samples that follow each other) are put in random order; every
    `together` of them, as they come, are mixed sample by sample.
    """
    rank = np.empty(-(-n // block), np.int64)
    rank[_random_order(seed, epoch, len(rank), _BLOCKS)] = np.arange(len(rank))
    mixed = permutation(seed, epoch, n)
    return mixed[np.argsort(rank[mixed // block] // together, kind="stable")]


def key_shuffle(seed: int, step: int, n: int) -> NDArray[np.int64]:
    """The order in which a step deals n keys to the parts of split BatchNorm: int64 [n].

    See section 3.3 of 1911.05722.
    """
    return _random_order(seed, step, n, _SHUFFLE)


def bank_negatives(seed: int, step: int, K: int, samples: int) -> NDArray[np.int64]:
    """The entries of a memory bank that a step contrasts with, uniform with replacement: int64 [K]
    (1911.05722 section 3.2: the dictionary of each mini-batch is randomly sampled)."""
    words = _words(seed, step, np.arange(K), [_BANK], 2)[:, 0].astype(np.uint64)
    return (((words[:, 0] << np.uint64(32)) | words[:, 1]) % np.uint64(samples)).astype(np.int64)


def crop_windows(
    seed: int,
    epoch: int,
    ids: ArrayLike,
    sizes: ArrayLike,
    views: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int32]:
    """Windows of torchvision's RandomResizedCrop, int32 [B, views, 4] (top, left, height, width).

    sizes: [B, 2] (height, width) in pixels. Ten tries of an area and a log-uniform ratio; where
    none fits, the largest centred window within the ratios.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    u = uniforms(seed, epoch, ids, _WINDOW + np.arange(views), 2 * TRIES + 2)
    high, wide = sizes[:, None, None, 0], sizes[:, None, None, 1]
    area = (high * wide) * (scale[0] + (scale[1] - scale[0]) * u[..., 0 : 2 * TRIES : 2])
    low, top = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (top - low) * u[..., 1 : 2 * TRIES : 2])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= wide) & (h > 0) & (h <= high)
    first = np.argmax(fits, axis=-1)[..., None]
    h, w = (np.take_along_axis(x, first, -1)[..., 0] for x in (h, w))
    fall_h, fall_w = _largest_centred(sizes, ratio)
    found = fits.any(axis=-1)
    h, w = np.where(found, h, fall_h[:, None]), np.where(found, w, fall_w[:, None])
    room_h, room_w = sizes[:, None, 0] - h, sizes[:, None, 1] - w
    i = np.where(found, np.floor(u[..., -2] * (room_h + 1)).astype(np.int64), room_h // 2)
    j = np.where(found, np.floor(u[..., -1] * (room_w + 1)).astype(np.int64), room_w // 2)
    return np.stack([i, j, h, w], axis=-1).astype(np.int32)


def _largest_centred(
    sizes: NDArray[np.int64], ratio: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    high, wide = sizes[:, 0], sizes[:, 1]
    narrow, broad = wide / high < min(ratio), wide / high > max(ratio)
    h = np.where(narrow, np.rint(wide / min(ratio)), high).astype(np.int64)
    w = np.where(broad, np.rint(high * max(ratio)), wide).astype(np.int64)
    return h, w


def eval_boxes(sizes: ArrayLike, eval_crop: float) -> NDArray[np.float64]:
    """Evaluation's window: the centred square of the short side times eval_crop.

    Float boxes [B, 1, 4] (top, left, height, width). Resizing such a box to the view's size is
    resizing the short side to size / eval_crop and cropping the centre, in one step.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    side = sizes.min(axis=1) * eval_crop
    top, left = (sizes[:, 0] - side) / 2, (sizes[:, 1] - side) / 2
    return np.stack([top, left, side, side], axis=-1)[:, None, :]


@dataclass(frozen=True)
class Colour:
    """Parameters of every view's colour changes: arrays [B, V], numpy as drawn, tensors once they
    are on the device."""

    brightness: Any  # float32 factor
    contrast: Any  # float32 factor
    saturation: Any  # float32 factor
    hue: Any  # float32 turns, -0.5..0.5
    order: Any  # uint8 [B, V, 4]: which of the four comes 1st, 2nd, 3rd, 4th
    jitter: Any  # bool: whether the four are applied at all
    gray: Any  # bool
    sigma: Any  # float32, of the blur in pixels; 0 without a blur
    taps: Any  # float32 [B, V, t]: the blur's kernel in each direction
    flip: Any  # bool
    blur_rows: Any = None  # int64 [R] of the V * B views (view by view), see blur_rows()

    def arrays(self) -> dict[str, Any]:
        """The fields of each view, [B, V, ...], by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blur_rows"}


def tap_count(aug: Augmentation) -> int:
    """Taps that the widest blur of an augmentation needs: 13 for sigma up to 2, 1 for no blur."""
    return 1 if aug.blur_p == 0 else 6 * (int(_box(np.array(aug.blur_sigma[1]))[0]) + 1) + 1


def _box(sigma: NDArray) -> tuple[NDArray, NDArray]:
    """Whole and fractional radius of the box that PIL passes three times for this sigma.

    Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"
    (SSVM 2011), as in Pillow's BoxBlur.c.
    """
    variance = np.asarray(sigma, dtype=np.float64) ** 2 / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole, fraction / (6 * (variance - (whole + 1) ** 2))


def blur_taps(sigma: NDArray, count: int) -> NDArray[np.float32]:
    """Three extended box passes as one symmetric kernel: float32 [..., count], summing to 1."""
    whole, fraction = (r[..., None] for r in _box(sigma))
    half = (count - 1) // 6
    offset = np.abs(np.arange(-half, half + 1))
    box = np.where(offset <= whole, 1.0, np.where(offset == whole + 1, fraction, 0.0))
    box /= box.sum(-1, keepdims=True)

    def convolve(a: NDArray, b: NDArray) -> NDArray:
        out = np.zeros((*a.shape[:-1], a.shape[-1] + b.shape[-1] - 1))
        for i in range(b.shape[-1]):
            out[..., i : i + a.shape[-1]] += a * b[..., i : i + 1]
        return out

    return convolve(convolve(box, box), box).astype(np.float32)


def blur_room(views: int, blur_p: float) -> int:
    """Number of rows that blur_rows() takes for this many views: six standard deviations above
    the mean number of blurs."""
    spread = (views * blur_p * (1 - blur_p)) ** 0.5
    return min(views, math.ceil(views * blur_p + 6 * spread))


def blur_rows(sigma: NDArray[np.float32], blur_p: float) -> NDArray[np.int64]:
    """The views of a batch to blur, int64 [R]: view v of image b is row v * B + b (sigma [B, V]).

    R depends on the shape alone, so that compiled code has one size: those that drew a blur come
    first, others (whose taps change nothing) fill it up. If more views drew one than six
    deviations allow (once in a billion batches), all rows are returned.
    """
    drawn = sigma.T.ravel() > 0
    room = blur_room(drawn.size, blur_p)
    if np.count_nonzero(drawn) > room:
        room = drawn.size
    return np.argsort(~drawn, kind="stable")[:room]


def colour(seed: int, epoch: int, ids: ArrayLike, views: int, aug: Augmentation) -> Colour:
    """Draw what the augmentation does to each view (torchvision's distributions)."""
    u = uniforms(seed, epoch, ids, _COLOUR + np.arange(views), 10)
    b, c, s, h = aug.jitter

    def between(low: float, high: float, x: NDArray[np.float64]) -> NDArray[np.float32]:
        return (low + (high - low) * x).astype(np.float32)

    sigma = np.where(u[..., 7] < aug.blur_p, between(*aug.blur_sigma, u[..., 8]), 0)
    return Colour(
        brightness=between(max(0.0, 1 - b), 1 + b, u[..., 0]),
        contrast=between(max(0.0, 1 - c), 1 + c, u[..., 1]),
        saturation=between(max(0.0, 1 - s), 1 + s, u[..., 2]),
        hue=between(-h, h, u[..., 3]),
        order=ORDERS[np.floor(u[..., 4] * len(ORDERS)).astype(np.int64)],
        jitter=u[..., 5] < aug.jitter_p,
        gray=u[..., 6] < aug.gray_p,
        sigma=sigma.astype(np.float32),
        taps=blur_taps(sigma, tap_count(aug)),
        flip=u[..., 9] < aug.flip_p,
    )


BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
