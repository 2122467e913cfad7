"""The same augmentation for CPUs: one compiled pass over each image, threads over the images.

A removable fast form of fastmoco.augment (a test holds the two to each other). The planes of one
image stay in cache from the first op to the normalised pixel, and only what was drawn is computed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

from data_tools.workers import cores
from fastmoco.augment import BRIGHTNESS, CONTRAST, SATURATION
from fastmoco.draws import Colour
from fastmoco.recipe import Augmentation

_SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # lets the means use vector registers


def augment_numba(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> torch.Tensor:
    """uint8 views [B, V, S, S, 3] on the CPU to images [V, B, 3, S, S]; see fastmoco.augment."""
    b, v, size, _, _ = views.shape
    out = torch.empty(v, b, size, size, 3)
    pixels, target = views.numpy(), out.numpy()
    c = {k: t.numpy() for k, t in colour.arrays().items()}
    factors = np.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], axis=-1)
    mean, std = np.array(aug.mean, np.float32), np.array(aug.std, np.float32)
    drawn = (c["jitter"], c["order"], factors, c["gray"], c["flip"], c["sigma"] > 0, c["taps"])

    def work(rows: slice) -> None:
        parts = [x[rows] for x in drawn]
        _augment_rows(pixels[rows], target[:, rows], *parts, aug.gray_first, mean, std)  # type: ignore

    threads = threads or cores()
    step = -(-b // threads)
    slices = [slice(i, i + step) for i in range(0, b, step)]
    if len(slices) == 1:
        work(slices[0])
    else:
        with ThreadPoolExecutor(len(slices)) as pool:
            list(pool.map(work, slices))
    return out.permute(0, 1, 4, 2, 3).to(dtype)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _augment_rows(
    pixels, out, jitter, order, factors, gray, flip, blurred, taps, gray_first, mean, std
):
    n, views, size = pixels.shape[0], pixels.shape[1], pixels.shape[2]
    x = np.empty((3, size * size), np.float32)
    spare = np.empty(size * size, np.float32)
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
            if blurred[i, v]:
                for channel in range(3):
                    _blur(x[channel].reshape(size, size), spare.reshape(size, size), taps[i, v])
            _store(x, out[v, i], flip[i, v], mean, std)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _load(pixels, x):
    scale = np.float32(1 / 255)
    for p in range(x.shape[1]):
        x[0, p] = np.float32(pixels[3 * p]) * scale
        x[1, p] = np.float32(pixels[3 * p + 1]) * scale
        x[2, p] = np.float32(pixels[3 * p + 2]) * scale


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _store(x, out, flip, mean, std):
    size = out.shape[0]
    for channel in range(3):
        inverse = np.float32(1) / std[channel]
        shift = mean[channel] * inverse
        for row in range(size):
            base = row * size
            for column in range(size):
                source = size - 1 - column if flip else column
                out[row, column, channel] = x[channel, base + source] * inverse - shift


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER, inline="always")
def _clamp(value):
    return min(max(value, np.float32(0)), np.float32(1))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER, inline="always")
def _gray_of(r, g, b):
    return np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _to_gray(x):
    for p in range(x.shape[1]):
        x[0, p] = x[1, p] = x[2, p] = _gray_of(x[0, p], x[1, p], x[2, p])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _mean_gray(x):
    total = np.float32(0)
    for p in range(x.shape[1]):
        total += _gray_of(x[0, p], x[1, p], x[2, p])
    return total / np.float32(x.shape[1])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _blend_constant(x, f, value):
    offset = (np.float32(1) - f) * value
    for channel in range(3):
        for p in range(x.shape[1]):
            x[channel, p] = _clamp(f * x[channel, p] + offset)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _blend_gray(x, f):
    rest = np.float32(1) - f
    for p in range(x.shape[1]):
        offset = rest * _gray_of(x[0, p], x[1, p], x[2, p])
        x[0, p] = _clamp(f * x[0, p] + offset)
        x[1, p] = _clamp(f * x[1, p] + offset)
        x[2, p] = _clamp(f * x[2, p] + offset)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER, inline="always")
def _hue_channel(n, sextant, high, chroma):
    k = n + sextant
    k -= np.float32(6) * np.floor(k / np.float32(6))
    return high - chroma * _clamp(min(k, np.float32(4) - k))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
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


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_SUMS_IN_ANY_ORDER)
def _blur(plane, spare, taps):
    size, half = plane.shape[0], taps.shape[0] // 2
    last = size - 1
    for row in range(size):  # down the columns: whole rows at a time
        for column in range(size):
            spare[row, column] = taps[half] * plane[row, column]
        for t in range(1, half + 1):
            weight = taps[half + t]
            if weight == 0:
                continue
            above, below = max(row - t, 0), min(row + t, last)
            for column in range(size):
                spare[row, column] += weight * (plane[above, column] + plane[below, column])
    for row in range(size):
        for column in range(size):
            plane[row, column] = taps[half] * spare[row, column]
        for t in range(1, half + 1):
            weight = taps[half + t]
            if weight == 0:
                continue
            for column in range(min(t, size)):
                right = spare[row, min(column + t, last)]
                plane[row, column] += weight * (spare[row, 0] + right)
            for column in range(t, size - t):
                plane[row, column] += weight * (spare[row, column - t] + spare[row, column + t])
            for column in range(max(size - t, t), size):
                plane[row, column] += weight * (spare[row, column - t] + spare[row, last])
