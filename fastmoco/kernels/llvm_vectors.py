"""Vector instructions for numba, which has none: helpers that emit pieces of LLVM code.

The functions run while numba compiles, and append instructions to `builder`. The vectors are LLVM's
generic ones with sixteen lanes; LLVM splits or joins them to fit the machine's registers. Addresses
are integers (numba's `array.ctypes.data`). Nothing here checks bounds. numba's cache only watches
the file of the compiled function: after a change in this file, delete the __pycache__ beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending

intrinsic: Any = extending.intrinsic  # Any: numba's annotations omit the typing context
LANES = 16
BYTES = ir.VectorType(ir.IntType(8), LANES)
WORDS = ir.VectorType(ir.IntType(16), LANES)
DOUBLE = ir.VectorType(ir.IntType(32), LANES)  # double words, 32 bits; not floating point
FLOATS = ir.VectorType(ir.FloatType(), LANES)


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    # align=1: crops start at any byte
    return builder.load(pointer(builder, address, kind), align=1)


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, pointer(builder, address, value.type), align=1)


def everywhere(builder: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A vector with one number in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, one, lanes)


def constant(kind: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def upper_product(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """(a * b) >> 16 of unsigned 16-bit lanes. LLVM turns this into one instruction (pmulhuw on x86)
    if the machine has it."""
    wide = builder.mul(builder.zext(a, DOUBLE), builder.zext(b, DOUBLE))
    return builder.trunc(builder.lshr(wide, constant(DOUBLE, 16)), WORDS)


def plus(builder: ir.IRBuilder, address: ir.Value, count: int | ir.Value) -> ir.Value:
    return builder.add(address, address.type(count) if isinstance(count, int) else count)


def loop(
    builder: ir.IRBuilder, end: ir.Value, values: list[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Emit a loop: values = body(index, values) for index in range(end). Return the last values.

    LLVM's values never change (static single assignment): the loop variables are phi nodes, which
    take the initial value on entry and the following value after each pass.
    """
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
    index.add_incoming(plus(builder, index, 1), builder.block)
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return phis


def interleave(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> list[ir.Value]:
    """Interleave three vectors to a0 b0 c0 a1 b1 c1 ...: again three vectors (planes to pixels)."""
    number = ir.IntType(32)

    def shuffle(x: ir.Value, y: ir.Value, lanes: list[int]) -> ir.Value:
        return builder.shuffle_vector(
            x, y, ir.Constant(ir.VectorType(number, len(lanes)), lanes)
        )

    # A shuffle takes lanes from two vectors of one length: first join a and b, then mix in c.
    both = shuffle(a, b, list(range(2 * LANES)))
    third = shuffle(c, c, list(range(2 * LANES)))  # as long as `both`; its second half is not used
    out = []
    for k in range(3):
        places = [divmod(k * LANES + i, 3) for i in range(LANES)]  # (pixel, channel)
        out.append(shuffle(both, third, [pixel + channel * LANES for pixel, channel in places]))
    return out


def reverse(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The lanes in reverse order."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES - 1, -1, -1)))
    return builder.shuffle_vector(x, x, lanes)
