"""Writes colour planes as a normalised channels-last image: the last pass of augmentation.cpu."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types

from fastmoco.kernels.blur import SUMS_IN_ANY_ORDER
from fastmoco.kernels.llvm_vectors import (
    DOUBLE,
    FLOATS,
    LANES,
    WORDS,
    constant,
    everywhere,
    interleave,
    intrinsic,
    load,
    plus,
    reverse,
    store,
)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def write_image(x, out, flip, scale, shift):
    """Write planes x, float32 [3, S * S], to out [S, S, 3], mirrored if `flip`, as x * scale +
    shift.

    out is float32, or uint16 that holds bfloat16. scale, shift: float32 [3].
    """
    size = out.shape[0]
    if size < LANES:  # no full vector in a row: pixel by pixel
        rounded = np.empty(1, np.float32)
        for row in range(size):
            for column in range(size):
                source = row * size + (size - 1 - column if flip else column)
                for channel in range(3):
                    rounded[0] = x[channel, source] * scale[channel] + shift[channel]
                    _write_one(rounded, out, row, column, channel)
        return
    width = out.itemsize * 3
    planes, plane = x.ctypes.data, x.shape[1] * 4
    for row in range(size):
        for begin in range(0, size, LANES):
            column = min(begin, size - LANES)  # the last vector may overlap the one before
            place = row * size + column
            source = row * size + (size - LANES - column if flip else column)
            target = out.ctypes.data + place * width
            if out.itemsize == 4:
                _write_floats(planes + source * 4, plane, flip, scale.ctypes.data,
                              shift.ctypes.data, target)
            else:
                _write_bfloat16(planes + source * 4, plane, flip, scale.ctypes.data,
                                shift.ctypes.data, target)


@njit(nogil=True, cache=True, error_model="numpy")
def _write_one(value, out, row, column, channel):
    if out.itemsize == 4:
        out[row, column, channel] = value[0]
    else:
        bits = value.view(np.uint32)[0]
        # bfloat16 is the upper half of float32; round to the nearest, ties to even
        out[row, column, channel] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def _normalised(builder, args):
    """Emit three vectors, one per plane: 16 pixels, mirrored if `flip`, times scale plus shift."""
    planes, plane, flip, scale, shift, _ = args
    found = []
    for channel in range(3):
        at = plus(builder, planes, builder.mul(plane, plane.type(channel)))
        pixels = load(builder, at, FLOATS)
        pixels = builder.select(flip, reverse(builder, pixels), pixels)
        factor, offset = (
            everywhere(builder, load(builder, plus(builder, p, channel * 4), ir.FloatType()),
                       FLOATS)
            for p in (scale, shift)
        )
        found.append(builder.fadd(builder.fmul(pixels, factor), offset))
    return found


_SIGNATURE = types.void(types.intp, types.intp, types.boolean, *[types.intp] * 3)


@intrinsic
def _write_floats(typing, planes, plane, flip, scale, shift, target):
    def generate(context, builder, signature, args):
        for k, part in enumerate(interleave(builder, *_normalised(builder, args))):
            store(builder, part, plus(builder, args[-1], k * LANES * 4))
        return context.get_dummy_value()

    return _SIGNATURE, generate


@intrinsic
def _write_bfloat16(typing, planes, plane, flip, scale, shift, target):
    """Round to bfloat16 as _write_one does. The pixels must be finite."""

    def generate(context, builder, signature, args):
        words = []
        for value in _normalised(builder, args):
            bits = builder.bitcast(value, DOUBLE)
            odd = builder.and_(builder.lshr(bits, constant(DOUBLE, 16)), constant(DOUBLE, 1))
            up = builder.add(builder.add(bits, constant(DOUBLE, 0x7FFF)), odd)
            words.append(builder.trunc(builder.lshr(up, constant(DOUBLE, 16)), WORDS))
        for k, part in enumerate(interleave(builder, *words)):
            store(builder, part, plus(builder, args[-1], k * LANES * 2))
        return context.get_dummy_value()

    return _SIGNATURE, generate
