"""Crops by antialiased bilinear resampling, as Pillow does it, in vectors of sixteen lanes.

Weights are Pillow's (Resample.c, precompute_coeffs): a triangle as wide as the reduction. Each pass
sums 16-bit products, (pixel * 256 * weight) >> 16, the upper half that every vector unit multiplies
in one instruction; what that cuts off stays below 1/50 of a grey level. Going down comes first,
straight from the decoded image, so the window is never copied, and sixteen output rows at a time
then lie side by side: across, the same sixteen lanes serve every pixel, without a gather. Pillow
goes across first; the order moves the rounding in between by 0.13/255 on average.

numba offers no vectors of its own: the four inner steps are written as LLVM vectors (generic ones,
which LLVM fits to the machine), the rest is plain numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numpy.typing import NDArray

intrinsic: Any = extending.intrinsic  # its types leave the typing context out of the call
LANES = 16
LEAST_SIDE = 16  # of a view; and so many pixels of a window's width: below, there is no full vector
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_WORDS = ir.VectorType(ir.IntType(16), LANES)
_DOUBLE = ir.VectorType(ir.IntType(32), LANES)
_HALF = 128 + 2  # rounds, and makes up for what the products cut off


def fits(image: NDArray[np.uint8], windows: NDArray[np.int32], out: NDArray[np.uint8]) -> bool:
    """Whether crop_views takes these arrays."""
    contiguous = all(x.flags.c_contiguous for x in (image, windows, out))
    return contiguous and out.shape[1] >= LEAST_SIDE and int(windows[:, 3].min()) >= LEAST_SIDE


@njit(nogil=True, cache=True, error_model="numpy")
def crop_views(
    image: NDArray[np.uint8], windows: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """Every window [V, 4] (top, left, height, width) of an image [H, W, 3] into out [V, S, S, 3].

    All arrays contiguous; windows inside the image, at least 16 pixels wide, S at least 16.
    """
    size = out.shape[1]
    line = size * 3
    widest = windows[:, 3].max() * 3
    pitch = -(-widest // LANES) * LANES
    rows = np.empty(LANES * pitch, np.uint8)  # sixteen output rows, as wide as the window
    lanes = np.empty(pitch * LANES, np.uint16)  # the same turned: one column a vector
    done = np.empty((line + LANES) * LANES, np.uint8)  # sixteen rows of the view, turned
    for v in range(windows.shape[0]):
        top, left, height, width = windows[v]
        first_y, count_y, weight_y = _weights(height, size)
        first_x, count_x, weight_x = _weights(width, size)
        source = image.ctypes.data + (top * image.shape[1] + left) * 3
        target = out[v].ctypes.data
        taps_y, taps_x = weight_y.shape[1] * 2, weight_x.shape[1] * 2
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
def _weights(
    length: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
    """For each output: its first input, how many, and their weights in 1/65536."""
    scale = length / size
    reach = max(scale, 1.0)
    most = int(np.ceil(reach)) * 2 + 1
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.zeros((size, most), np.uint16)
    triangle = np.empty(most)
    inverse = 1 / reach
    for i in range(size):
        centre = (i + 0.5) * scale
        low, high = max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))
        total = 0.0
        for t in range(high - low):
            triangle[t] = max(0.0, 1.0 - abs(low + t + 0.5 - centre) * inverse)
            total += triangle[t]
        unit = 65536 / total
        for t in range(high - low):
            weights[i, t] = min(65535, int(triangle[t] * unit + 0.5))
        first[i], count[i] = low, high - low
    return first, count, weights


def _pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.load(_pointer(builder, address, kind), align=1)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=1)


def _all(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """One number in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, one, lanes)


def _constant(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _upper_product(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """(a * b) >> 16 of unsigned 16-bit lanes: one instruction (pmulhuw) where there is one."""
    wide = builder.mul(builder.zext(a, _DOUBLE), builder.zext(b, _DOUBLE))
    return builder.trunc(builder.lshr(wide, _constant(_DOUBLE, 16)), _WORDS)


def _plus(builder: ir.IRBuilder, address: ir.Value, count: int | ir.Value) -> ir.Value:
    return builder.add(address, address.type(count) if isinstance(count, int) else count)


def _loop(builder: ir.IRBuilder, end: ir.Value, values: list[ir.Value], body: Any) -> list:
    """values = body(index, values), for index in range(end); returns the last values."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(end.type)
    index.add_incoming(end.type(0), before)
    phis = []
    for value in values:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        phis.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, end), inside, after)
    builder.position_at_end(inside)
    following = body(index, phis)
    index.add_incoming(_plus(builder, index, 1), builder.block)
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return phis


def _weight(builder: ir.IRBuilder, weights: ir.Value, t: ir.Value) -> ir.Value:
    address = _plus(builder, weights, builder.mul(t, t.type(2)))
    return _all(builder, _load(builder, address, ir.IntType(16)), _WORDS)


@intrinsic
def _down(typing, source, pitch, weights, count, target, length):
    """One output row: a weighted sum of `count` rows of `length` bytes (at least a vector)."""

    def generate(context, builder, signature, args):
        source, pitch, weights, count, target, length = args
        step = length.type(LANES)
        blocks = builder.sdiv(_plus(builder, length, LANES - 1), step)
        last = builder.sub(length, step)

        def block(number, _):
            x = builder.mul(number, step)
            # the last vector may overlap the one before
            x = builder.select(builder.icmp_signed("<", x, last), x, last)

            def tap(t, carried):
                total, address = carried
                pixels = builder.zext(_load(builder, address, _BYTES), _WORDS)
                shifted = builder.shl(pixels, _constant(_WORDS, 8))
                product = _upper_product(builder, shifted, _weight(builder, weights, t))
                return [builder.add(total, product), builder.add(address, pitch)]

            begin = [_constant(_WORDS, _HALF), builder.add(source, x)]
            total, _ = _loop(builder, count, begin, tap)
            rounded = builder.lshr(total, _constant(_WORDS, 8))
            _store(builder, builder.trunc(rounded, _BYTES), builder.add(target, x))
            return []

        _loop(builder, blocks, [], block)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def _across(typing, source, weights, count, target):
    """One pixel of sixteen rows: three channels, each a weighted sum of `count` vectors."""

    def generate(context, builder, signature, args):
        source, weights, count, target = args

        def tap(t, carried):
            *totals, address = carried
            weight = _weight(builder, weights, t)
            for c in range(3):
                lanes = _load(builder, _plus(builder, address, c * LANES * 2), _WORDS)
                totals[c] = builder.add(totals[c], _upper_product(builder, lanes, weight))
            return [*totals, _plus(builder, address, 3 * LANES * 2)]

        *totals, _ = _loop(builder, count, [_constant(_WORDS, _HALF)] * 3 + [source], tap)
        for c, total in enumerate(totals):
            rounded = builder.lshr(total, _constant(_WORDS, 8))
            _store(builder, builder.trunc(rounded, _BYTES), _plus(builder, target, c * LANES))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Sixteen vectors of sixteen bytes, rows to columns: four rounds of interleaving."""
    number = ir.VectorType(ir.IntType(32), LANES)
    low = ir.Constant(number, [i // 2 + LANES * (i % 2) for i in range(LANES)])
    high = ir.Constant(number, [8 + i // 2 + LANES * (i % 2) for i in range(LANES)])
    for _ in range(4):
        rows = [
            builder.shuffle_vector(rows[i], rows[i + 8], half) for i in range(8)
            for half in (low, high)
        ]
    return rows


@intrinsic
def _turn_up(typing, source, pitch, target):
    """Sixteen rows of sixteen bytes to sixteen columns of words, 256 times the byte."""

    def generate(context, builder, signature, args):
        source, pitch, target = args
        rows = []
        for _ in range(LANES):
            rows.append(_load(builder, source, _BYTES))
            source = builder.add(source, pitch)
        for i, column in enumerate(_transposed(builder, rows)):
            words = builder.shl(builder.zext(column, _WORDS), _constant(_WORDS, 8))
            _store(builder, words, _plus(builder, target, i * LANES * 2))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), generate


@intrinsic
def _turn_back(typing, source, target, pitch):
    """Sixteen columns of sixteen bytes to sixteen rows that lie `pitch` bytes apart."""

    def generate(context, builder, signature, args):
        source, target, pitch = args
        columns = [
            _load(builder, _plus(builder, source, i * LANES), _BYTES) for i in range(LANES)
        ]
        for row in _transposed(builder, columns):
            _store(builder, row, target)
            target = builder.add(target, pitch)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), generate
