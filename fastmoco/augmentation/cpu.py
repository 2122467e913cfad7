"""The same augmentation for CPUs: one compiled pass over each image, threads over the images.

A removable fast form of fastmoco.augmentation.plain (a test holds the two to each other). The
planes of one image stay in cache from the first op to the normalised pixel, only what was drawn is
computed, and the images are written in the compute dtype, channels last, into memory that is used
again.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from data_tools.machine import cores
from fastmoco.augmentation.plain import BRIGHTNESS, CONTRAST, SATURATION
from fastmoco.draws import Colour
from fastmoco.kernels.blur import SUMS_IN_ANY_ORDER, blur_plane
from fastmoco.kernels.normalise import write_image
from fastmoco.recipe import Augmentation

KEPT = 3  # outputs whose memory is kept: the step's, the next one's, one more


class Memory:
    """Arrays for the images of one shape, taken again once no tensor shares them.

    Fresh memory costs a page fault for every 4 KB, which takes as long as the augmentation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[NDArray] = []

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, contiguous, float32 or bfloat16."""
        plain = np.dtype(np.float32 if dtype == torch.float32 else np.uint16)
        with self._lock:
            same = [a for a in self._arrays if a.shape == shape and a.dtype == plain]
            # The list, `same`, the loop's variable and getrefcount's argument hold it: a tensor
            # made of it would be one more.
            array = next((a for a in same if sys.getrefcount(a) <= 4), None)
            if array is None:
                array = np.empty(shape, plain)
                self._arrays = [*same[-(KEPT - 1) :], array]
            made = torch.from_numpy(array)
        return made if dtype == torch.float32 else made.view(dtype)


MEMORY = Memory()


def augment_numba(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> torch.Tensor:
    """uint8 views [B, V, S, S, 3] on the CPU to images [V, B, 3, S, S]; see plain.augment."""
    b, v, size, _, _ = views.shape
    made = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    out = MEMORY.tensor((v, b, size, size, 3), made)
    pixels = views.numpy()
    target = (out if made == torch.float32 else out.view(torch.uint16)).numpy()
    c = {k: t.numpy() for k, t in colour.arrays().items()}
    factors = np.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], axis=-1)
    mean, std = np.array(aug.mean, np.float32), np.array(aug.std, np.float32)
    scale = 1 / std
    drawn = (c["jitter"], c["order"], factors, c["gray"], c["flip"], c["sigma"] > 0, c["taps"])

    def work(rows: slice) -> None:
        parts = [x[rows] for x in drawn]
        _augment_rows(
            pixels[rows], target[:, rows], *parts, aug.gray_first, scale, -mean * scale  # type: ignore
        )

    threads = threads or cores()
    step = -(-b // threads)
    slices = [slice(i, i + step) for i in range(0, b, step)]
    if len(slices) == 1:
        work(slices[0])
    else:
        with ThreadPoolExecutor(len(slices)) as pool:
            list(pool.map(work, slices))
    return out.permute(0, 1, 4, 2, 3).to(dtype)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _augment_rows(
    pixels, out, jitter, order, factors, gray, flip, blurred, taps, gray_first, scale, shift
):
    n, views, size = pixels.shape[0], pixels.shape[1], pixels.shape[2]
    x = np.empty((3, size * size), np.float32)
    y = np.empty((3, size * size), np.float32)
    line = np.empty(size + taps.shape[2], np.float32)
    for i in range(n):
        for v in range(views):
            _load(pixels[i, v].reshape(-1), x)
            if gray_first and gray[i, v]:
                _to_gray(x)
            if jitter[i, v]:
                for place in range(4):
                    op = order[i, v, place]
                    f = factors[i, v, op]
                    if op == BRIGHTNESS:
                        _blend_constant(x, f, np.float32(0))
                    elif op == CONTRAST:
                        _blend_constant(x, f, _mean_gray(x))
                    elif op == SATURATION:
                        _blend_gray(x, f)
                    else:
                        _turn_hue(x, f)
            if not gray_first and gray[i, v]:
                _to_gray(x)
            done = x
            if blurred[i, v]:
                for channel in range(3):
                    plane, soft = x[channel].reshape(size, size), y[channel].reshape(size, size)
                    blur_plane(plane, soft, line, taps[i, v])
                done = y
            write_image(done, out[v, i], flip[i, v], scale, shift)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _load(pixels, x):
    scale = np.float32(1 / 255)
    for p in range(x.shape[1]):
        x[0, p] = np.float32(pixels[3 * p]) * scale
        x[1, p] = np.float32(pixels[3 * p + 1]) * scale
        x[2, p] = np.float32(pixels[3 * p + 2]) * scale


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER, inline="always")
def _clamp(value):
    return min(max(value, np.float32(0)), np.float32(1))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER, inline="always")
def _gray_of(r, g, b):
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _to_gray(x):
    for p in range(x.shape[1]):
        x[0, p] = x[1, p] = x[2, p] = _gray_of(x[0, p], x[1, p], x[2, p])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _mean_gray(x):
    total = np.float32(0)
    for p in range(x.shape[1]):
        total += _gray_of(x[0, p], x[1, p], x[2, p])
    return total / np.float32(x.shape[1])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _blend_constant(x, f, value):
    offset = (np.float32(1) - f) * value
    for channel in range(3):
        for p in range(x.shape[1]):
            x[channel, p] = _clamp(f * x[channel, p] + offset)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _blend_gray(x, f):
    rest = np.float32(1) - f
    for p in range(x.shape[1]):
        offset = rest * _gray_of(x[0, p], x[1, p], x[2, p])
        x[0, p] = _clamp(f * x[0, p] + offset)
        x[1, p] = _clamp(f * x[1, p] + offset)
        x[2, p] = _clamp(f * x[2, p] + offset)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER, inline="always")
def _hue_channel(n, sextant, high, chroma):
    k = n + sextant
    k -= np.float32(6) * np.floor(k / np.float32(6))
    return high - chroma * _clamp(min(k, np.float32(4) - k))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _turn_hue(x, turns):
    shift = np.float32(6) * turns
    for p in range(x.shape[1]):
        r, g, b = x[0, p], x[1, p], x[2, p]
        high, low = max(max(r, g), b), min(min(r, g), b)
        chroma = high - low
        inverse = np.float32(1) / (chroma if chroma > 0 else np.float32(1))
        sextant = (g - b) * inverse
        sextant = np.float32(2) + (b - r) * inverse if high == g else sextant
        sextant = np.float32(4) + (r - g) * inverse if high == b else sextant
        sextant = (g - b) * inverse if high == r else sextant
        sextant += shift
        x[0, p] = _hue_channel(np.float32(5), sextant, high, chroma)
        x[1, p] = _hue_channel(np.float32(3), sextant, high, chroma)
        x[2, p] = _hue_channel(np.float32(1), sextant, high, chroma)
