"""The colour operations on the planes of one image: compiled loops."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastmoco.draws import BRIGHTNESS, CONTRAST, SATURATION
from fastmoco.kernels.blur import SUMS_IN_ANY_ORDER, blur_plane
from fastmoco.kernels.normalise import write_image


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def augment_rows(
    pixels, out, jitter, order, factors, gray, flip, blurred, taps, gray_first, scale, shift
):
    """Augment uint8 views [n, V, S, S, 3] into out [V, n, S, S, 3] (float32, or uint16 that holds
    bfloat16), image by image, so that its planes stay in cache from the first op to the last.

    The draws, [n, V, ...]: jitter, gray, flip and blurred are bool; order int [.., 4] lists the
    ops; factors float32 [.., 4] (brightness, contrast, saturation, hue); taps float32 [.., t].
    gray_first is v1's order of ops. An output channel is x * scale + shift, with float32 [3] each.
    """
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
    k -= np.float32(6) * np.floor(k / np.float32(6))  # k modulo 6
    return high - chroma * _clamp(min(k, np.float32(4) - k))


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _turn_hue(x, turns):
    """Turn the hue in HSV, in place; see plain.turn_hue. Without a division per channel."""
    shift = np.float32(6) * turns
    for p in range(x.shape[1]):
        r, g, b = x[0, p], x[1, p], x[2, p]
        high, low = max(max(r, g), b), min(min(r, g), b)
        chroma = high - low
        # A grey pixel has no hue: any sextant gives back the same grey.
        inverse = np.float32(1) / (chroma if chroma > 0 else np.float32(1))
        sextant = (g - b) * inverse
        sextant = np.float32(2) + (b - r) * inverse if high == g else sextant
        sextant = np.float32(4) + (r - g) * inverse if high == b else sextant
        sextant = (g - b) * inverse if high == r else sextant
        sextant += shift
        x[0, p] = _hue_channel(np.float32(5), sextant, high, chroma)
        x[1, p] = _hue_channel(np.float32(3), sextant, high, chroma)
        x[2, p] = _hue_channel(np.float32(1), sextant, high, chroma)
