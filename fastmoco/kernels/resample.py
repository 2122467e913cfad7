"""Crops by antialiased bilinear resampling, as Pillow does it, in vectors of sixteen lanes.

The weights are Pillow's (Resample.c, precompute_coeffs): a triangle as wide as the reduction. Each
pass sums the upper halves of 16-bit products, (pixel * 256 * weight) >> 16, which every vector unit
computes in one instruction. The lower halves, which are dropped, add up to less than 1/50 of a grey
level. The vertical pass comes first and reads the decoded image directly, so the window is never
copied. It makes sixteen output rows at a time; in the horizontal pass these are the sixteen lanes,
so every pixel has the same weights in all lanes and nothing has to be gathered. Pillow's horizontal
pass comes first; the different rounding in between is 0.13/255 on average.

The four inner steps are written in LLVM vectors (kernels.llvm_vectors), the rest is plain numba.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from fastmoco.kernels.llvm_vectors import (
    BYTES,
    LANES,
    WORDS,
    constant,
    everywhere,
    intrinsic,
    load,
    loop,
    plus,
    store,
    upper_product,
)

LEAST_SIDE = 16  # side of a view in pixels: smaller views do not fill a vector of rows
LEAST_WIDTH = 6  # width of a window in pixels: 18 bytes, which fill a vector
_HALF = 128 + 2  # 128 rounds to the nearest; 2 makes up for the dropped halves of the products


def fits(image: NDArray[np.uint8], windows: NDArray[np.int32], out: NDArray[np.uint8]) -> bool:
    """True if crop_views accepts these arrays."""
    contiguous = all(x.flags.c_contiguous for x in (image, windows, out))
    return contiguous and out.shape[1] >= LEAST_SIDE and int(windows[:, 3].min()) >= LEAST_WIDTH


@njit(nogil=True, cache=True, error_model="numpy")
def crop_views(
    image: NDArray[np.uint8], windows: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """Crop windows [V, 4] (top, left, height, width) of an image [H, W, 3] into out [V, S, S, 3].

    All arrays must be contiguous, the windows inside the image and at least 6 pixels wide, and S at
    least 16: nothing is checked here; see fits().
    """
    size = out.shape[1]
    line = size * 3
    widest = windows[:, 3].max() * 3
    pitch = -(-widest // LANES) * LANES
    rows = np.empty(LANES * pitch, np.uint8)  # sixteen output rows, as wide as the window
    lanes = np.empty(pitch * LANES, np.uint16)  # the same transposed: one vector per column
    done = np.empty((line + LANES) * LANES, np.uint8)  # sixteen rows of the view, transposed
    for v in range(windows.shape[0]):
        top, left, height, width = windows[v]
        first_y, count_y, weight_y = _weights(height, size)
        first_x, count_x, weight_x = _weights(width, size)
        source = image.ctypes.data + (top * image.shape[1] + left) * 3
        target = out[v].ctypes.data
        taps_y, taps_x = weight_y.shape[1] * 2, weight_x.shape[1] * 2
        # Sixteen output rows at a time: down, turn, across, turn back. The buffers grow with the
        # width of the window, and not with its height.
        y = 0
        while y < size:
            y = min(y, size - LANES)  # the last sixteen rows may overlap those before
            for r in range(LANES):
                _down(
                    source + first_y[y + r] * image.shape[1] * 3, image.shape[1] * 3,
                    weight_y.ctypes.data + (y + r) * taps_y, count_y[y + r],
                    rows.ctypes.data + r * pitch, width * 3,
                )
            for x in range(0, width * 3, LANES):
                _turn_up(rows.ctypes.data + x, pitch, lanes.ctypes.data + x * LANES * 2)
            for x in range(size):
                _across(
                    lanes.ctypes.data + first_x[x] * 3 * LANES * 2,
                    weight_x.ctypes.data + x * taps_x, count_x[x],
                    done.ctypes.data + x * 3 * LANES,
                )
            for begin in range(0, line, LANES):
                x = min(begin, line - LANES)
                _turn_back(done.ctypes.data + x * LANES, target + y * line + x, line)
            y += LANES


@njit(nogil=True, cache=True, error_model="numpy")
def crop_images(
    pixels: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int32],
    ids: NDArray[np.int64], windows: NDArray[np.int32], out: NDArray[np.uint8],
) -> None:
    """crop_views of many images: windows [B, V, 4] into out [B, V, S, S, 3]. One call for all,
    since cropping a small image takes less time than a call. Image i of ids [B] starts at
    pixels[starts[i]] and has sizes[i] (height, width)."""
    for n in range(len(ids)):
        i = ids[n]
        height, width = sizes[i]
        image = pixels[starts[i] : starts[i] + height * width * 3].reshape(height, width, 3)
        crop_views(image, windows[n], out[n])


@njit(nogil=True, cache=True, error_model="numpy")
def _weights(
    length: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
    """For each output pixel: its first input pixel, the number of inputs, and their weights in
    units of 1/65536."""
    scale = length / size
    reach = max(scale, 1.0)
    most = int(np.ceil(reach)) * 2 + 1
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.zeros((size, most), np.uint16)
    triangle = np.empty(most)
    inverse = 1 / reach
    for i in range(size):
        centre = (i + 0.5) * scale  # pixel centres are at halves, as in Pillow
        low, high = max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))
        total = 0.0
        for t in range(high - low):
            triangle[t] = max(0.0, 1.0 - abs(low + t + 0.5 - centre) * inverse)
            total += triangle[t]
        unit = 65536 / total
        for t in range(high - low):  # a single tap would be 65536, one more than 16 bits hold
            weights[i, t] = min(65535, int(triangle[t] * unit + 0.5))
        first[i], count[i] = low, high - low
    return first, count, weights


def _weight(builder: ir.IRBuilder, weights: ir.Value, t: ir.Value) -> ir.Value:
    address = plus(builder, weights, builder.mul(t, t.type(2)))
    return everywhere(builder, load(builder, address, ir.IntType(16)), WORDS)


@intrinsic
def _down(typing, source, pitch, weights, count, target, length):
    """Write one output row: a weighted sum of `count` rows of `length` bytes (at least LANES)."""

    def generate(context, builder, signature, args):
        source, pitch, weights, count, target, length = args
        step = length.type(LANES)
        blocks = builder.sdiv(plus(builder, length, LANES - 1), step)
        last = builder.sub(length, step)

        def block(number, _):
            x = builder.mul(number, step)
            # the last vector may overlap the one before
            x = builder.select(builder.icmp_signed("<", x, last), x, last)

            def tap(t, carried):
                total, address = carried
                # A pixel in the upper byte of a word, times a weight in 1/65536: the upper half of
                # the product is the weighted pixel in 1/256 of a level.
                pixels = builder.zext(load(builder, address, BYTES), WORDS)
                shifted = builder.shl(pixels, constant(WORDS, 8))
                product = upper_product(builder, shifted, _weight(builder, weights, t))
                return [builder.add(total, product), builder.add(address, pitch)]

            begin = [constant(WORDS, _HALF), builder.add(source, x)]
            total, _ = loop(builder, count, begin, tap)
            rounded = builder.lshr(total, constant(WORDS, 8))
            store(builder, builder.trunc(rounded, BYTES), builder.add(target, x))
            return []

        loop(builder, blocks, [], block)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def _across(typing, source, weights, count, target):
    """Write one pixel of sixteen rows: three channels, each a weighted sum of `count` vectors."""

    def generate(context, builder, signature, args):
        source, weights, count, target = args

        # Lane r belongs to row r, and the next pixel of all rows is the next vector: no lane moves.
        def tap(t, carried):
            *totals, address = carried
            weight = _weight(builder, weights, t)
            for c in range(3):
                lanes = load(builder, plus(builder, address, c * LANES * 2), WORDS)
                totals[c] = builder.add(totals[c], upper_product(builder, lanes, weight))
            return [*totals, plus(builder, address, 3 * LANES * 2)]

        *totals, _ = loop(builder, count, [constant(WORDS, _HALF)] * 3 + [source], tap)
        for c, total in enumerate(totals):
            rounded = builder.lshr(total, constant(WORDS, 8))
            store(builder, builder.trunc(rounded, BYTES), plus(builder, target, c * LANES))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose sixteen vectors of sixteen bytes, by four rounds of interleaving."""
    number = ir.VectorType(ir.IntType(32), LANES)
    low = ir.Constant(number, [i // 2 + LANES * (i % 2) for i in range(LANES)])
    high = ir.Constant(number, [8 + i // 2 + LANES * (i % 2) for i in range(LANES)])
    # Interleaving row i with row i + 8 rotates the eight bits of a byte's position (row, column) by
    # one: after four rounds, row and column have changed places.
    for _ in range(4):
        rows = [
            builder.shuffle_vector(rows[i], rows[i + 8], half) for i in range(8)
            for half in (low, high)
        ]
    return rows


@intrinsic
def _turn_up(typing, source, pitch, target):
    """Transpose sixteen rows of sixteen bytes to columns of words, each 256 times its byte."""

    def generate(context, builder, signature, args):
        source, pitch, target = args
        rows = []
        for _ in range(LANES):
            rows.append(load(builder, source, BYTES))
            source = builder.add(source, pitch)
        for i, column in enumerate(_transposed(builder, rows)):
            words = builder.shl(builder.zext(column, WORDS), constant(WORDS, 8))
            store(builder, words, plus(builder, target, i * LANES * 2))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), generate


@intrinsic
def _turn_back(typing, source, target, pitch):
    """Transpose sixteen columns of sixteen bytes to sixteen rows, `pitch` bytes apart."""

    def generate(context, builder, signature, args):
        source, target, pitch = args
        columns = [
            load(builder, plus(builder, source, i * LANES), BYTES) for i in range(LANES)
        ]
        for row in _transposed(builder, columns):
            store(builder, row, target)
            target = builder.add(target, pitch)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), generate
