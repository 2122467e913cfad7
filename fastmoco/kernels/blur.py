"""Separable blur of a colour plane with a symmetric kernel: compiled loops for augmentation.cpu."""

from __future__ import annotations

from numba import njit

# Lets LLVM fuse a multiplication and an addition, and reorder sums to use vector registers.
SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def blur_plane(plane, out, line, taps):
    """Convolve a plane, float32 [S, S], into out with a symmetric kernel along both axes; beyond
    its edges the plane repeats its border.

    taps: float32 [t], t odd. line: scratch, float32 [S + t] or longer. Most kernels have at most
    seven taps (sigma below 1.2), and the paper's at most thirteen: these two lengths are unrolled.
    """
    half = taps.shape[0] // 2
    # All kernels are padded with zeros to one length: skip the zeros.
    while half > 0 and taps[taps.shape[0] // 2 + half] == 0:
        half -= 1
    weights = taps[taps.shape[0] // 2 :]
    size = plane.shape[0]
    row = line[half : half + size]
    for y in range(size):
        if half <= 3:
            _down3(plane, y, weights, row)
        elif half <= 6:
            _down6(plane, y, weights, row)
        else:
            _down(plane, y, weights, half, row)
        # One row, blurred down, with its border repeated on both sides; then blur it across.
        line[:half] = row[0]
        line[half + size : 2 * half + size] = row[size - 1]
        if half == 3:
            _across3(line, weights, out[y])
        elif half == 6:
            _across6(line, weights, out[y])
        else:
            _across(line, weights, half, out[y])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _down(plane, y, weights, half, out):
    last = plane.shape[0] - 1
    for x in range(out.shape[0]):
        out[x] = weights[0] * plane[y, x]
    for t in range(1, half + 1):
        above, below, weight = plane[max(y - t, 0)], plane[min(y + t, last)], weights[t]
        for x in range(out.shape[0]):
            out[x] += weight * (above[x] + below[x])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _down3(plane, y, weights, out):
    last = plane.shape[0] - 1
    a1, a2, a3 = plane[max(y - 1, 0)], plane[max(y - 2, 0)], plane[max(y - 3, 0)]
    b1, b2, b3 = plane[min(y + 1, last)], plane[min(y + 2, last)], plane[min(y + 3, last)]
    middle = plane[y]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for x in range(out.shape[0]):
        out[x] = (
            w0 * middle[x] + w1 * (a1[x] + b1[x]) + w2 * (a2[x] + b2[x]) + w3 * (a3[x] + b3[x])
        )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _down6(plane, y, weights, out):
    last = plane.shape[0] - 1
    a4, a5, a6 = plane[max(y - 4, 0)], plane[max(y - 5, 0)], plane[max(y - 6, 0)]
    b4, b5, b6 = plane[min(y + 4, last)], plane[min(y + 5, last)], plane[min(y + 6, last)]
    w4, w5, w6 = weights[4], weights[5], weights[6]
    _down3(plane, y, weights, out)
    for x in range(out.shape[0]):
        out[x] += w4 * (a4[x] + b4[x]) + w5 * (a5[x] + b5[x]) + w6 * (a6[x] + b6[x])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _across(line, weights, half, out):
    for x in range(out.shape[0]):
        out[x] = weights[0] * line[x + half]
    for t in range(1, half + 1):
        weight = weights[t]
        for x in range(out.shape[0]):
            out[x] += weight * (line[x + half - t] + line[x + half + t])


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _across3(line, weights, out):
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for x in range(out.shape[0]):
        out[x] = (
            w0 * line[x + 3] + w1 * (line[x + 2] + line[x + 4]) + w2 * (line[x + 1] + line[x + 5])
            + w3 * (line[x] + line[x + 6])
        )


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _across6(line, weights, out):
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    w4, w5, w6 = weights[4], weights[5], weights[6]
    for x in range(out.shape[0]):
        out[x] = (
            w0 * line[x + 6] + w1 * (line[x + 5] + line[x + 7]) + w2 * (line[x + 4] + line[x + 8])
            + w3 * (line[x + 3] + line[x + 9]) + w4 * (line[x + 2] + line[x + 10])
            + w5 * (line[x + 1] + line[x + 11]) + w6 * (line[x] + line[x + 12])
        )
