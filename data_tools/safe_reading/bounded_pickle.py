"""Reads pickles without running anything in them, in time and memory bounded by their length.

Python's own readers trust a pickle: they call the functions that it names, allocate the lengths
that it claims, and hash keys whose hash may take forever. This reader refuses all of that. A
subclass says which names it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from data_tools.safe_reading.extent import TooLarge, measure
from data_tools.safe_reading.pickle_stack import (
    KEY_LENGTH,
    NUMBERS_AS_KEYS,
    OTHER_KEYS,
    PickleRefused,
    PickleStack,
)


class BoundedPickle(PickleStack):
    """Reads the pickles that follow each other in `data`, from offset `at` on.

    Gives numbers, text, bytes, lists, tuples, dicts and sets. A subclass overrides `find` and
    `call` (and `build`, `persistent`) for the names that it reads. All other names are refused.
    """

    opcodes: frozenset[int] | None = None
    """The opcodes that are read; None: all known ones."""

    def find(self, module: str, name: str) -> Any:
        """The stand-in for a class or function."""
        raise PickleRefused(f"its pickle asks for {module}.{name}, which is not read")

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """The stand-in for function(*args), where `find` gave the function."""
        raise PickleRefused("its pickle calls something, which is not done")

    def create(self, kind: Any, args: tuple[Any, ...]) -> Any:
        """The stand-in for a new object of a class that `find` gave."""
        raise PickleRefused("its pickle creates an object, which is not done")

    def build(self, value: Any, state: Any) -> None:
        """Gives a stand-in its state."""
        raise PickleRefused("its pickle sets the state of an object, which is not done")

    def persistent(self, key: Any) -> Any:
        """The value, stored outside the pickle, that has this key."""
        raise PickleRefused("its pickle refers to something outside it, which is not read")

    def is_identity(self, value: Any) -> bool:
        """True if a value that `find` gave is hashed by its identity, which is safe for a key."""
        return False

    def array_bytes(self, value: Any) -> int:
        """Bytes of memory that a stand-in of an array takes."""
        return 0

    def load(self) -> Any:
        """Returns the next pickle's value. Raises PickleRefused."""
        self._clear()
        try:
            while (code := self._take(1)[0]) != STOP:
                step = STEPS.get(code)
                if step is None or self.opcodes is not None and code not in self.opcodes:
                    raise PickleRefused(f"its pickle has opcode 0x{code:02x}, which is not read")
                step(self)
            value = self._stack.pop()
            if self._stack or self._marked:
                raise PickleRefused("its pickle is damaged")
            self.extent = measure(value, self.array_bytes)
        except PickleRefused:
            raise
        except TooLarge as error:
            raise PickleRefused(f"its pickle {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
            raise PickleRefused("its pickle is damaged") from None
        self._memo = {}
        return value

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise PickleRefused("its pickle is damaged")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleRefused("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def _add_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise PickleRefused("its pickle is damaged")
        target.update(map(self.key, items))

    def _global(self) -> None:
        module, name = self._line(KEY_LENGTH).decode(), self._line(KEY_LENGTH).decode()
        self._push(self.find(module, name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(module) is not str or type(name) is not str:
            raise PickleRefused("its pickle is damaged")
        self._push(self.find(module, name))

    def _apply(self, apply: Callable[[Any, tuple[Any, ...]], Any]) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if type(args) is not tuple:
            raise PickleRefused("its pickle is damaged")
        self._contain(apply(function, args))

    def _build(self) -> None:
        state = self._stack.pop()
        self.build(self._stack[-1], state)

    def _dict(self) -> None:
        items = self._since_mark()
        self._contain({})
        self._set_items(items)

    def key(self, key: Any) -> Any:
        """Returns a dict's key or a set's member. Raises PickleRefused if hashing or comparing it
        could take long."""
        if isinstance(key, (str, bytes)):
            if len(key) <= KEY_LENGTH:
                return key
        elif type(key) is int and abs(key) < 1 << 60:
            self._numbers += 1
            if self._numbers <= NUMBERS_AS_KEYS:
                return key
        elif _is_flat(key) or self.is_identity(key):
            self._others += 1
            if self._others <= OTHER_KEYS:
                return key
        raise PickleRefused("its pickle has keys that are not short text or a few numbers")


def _is_flat(key: Any) -> bool:
    """True for None, a bool, a float, or a short tuple of these, of integers and of short text."""
    if type(key) is tuple:
        return len(key) <= 8 and all(
            type(k) in (int, bool, float, type(None))
            or type(k) in (str, bytes) and len(k) <= KEY_LENGTH for k in key
        )
    return key is None or type(key) in (bool, float)


Steps = dict[int, Callable[[BoundedPickle], None]]
STOP = ord(".")


def _table(steps: dict[bytes, Callable[[BoundedPickle], None]]) -> Steps:
    return {code[0]: step for code, step in steps.items()}


STEPS: Steps = _table({
    b"\x80": BoundedPickle._protocol, b"\x95": BoundedPickle._frame, b"(": BoundedPickle._mark,
    b"0": BoundedPickle._drop, b"1": BoundedPickle._drop_to_mark,
    b"2": lambda p: p._push(p._stack[-1]),
    # numbers and None
    b"N": lambda p: p._push(None), b"\x88": lambda p: p._push(True),
    b"\x89": lambda p: p._push(False), b"I": BoundedPickle._integer, b"L": BoundedPickle._integer,
    b"J": lambda p: p._push(p._number("<i")), b"K": lambda p: p._push(p._number("B")),
    b"M": lambda p: p._push(p._number("<H")), b"\x8a": lambda p: p._long("B"),
    b"\x8b": lambda p: p._long("<i"), b"F": lambda p: p._push(float(p._line(KEY_LENGTH))),
    b"G": lambda p: p._push(p._number(">d")),
    # text and bytes; the first three are Python 2's
    b"S": BoundedPickle._string, b"T": lambda p: p._push(p._text(p._take(p._number("<i")))),
    b"U": lambda p: p._push(p._text(p._take(p._number("B")))),
    b"V": lambda p: p._push(p._line().decode("raw-unicode-escape")),
    b"X": lambda p: p._push(p._take(p._number("<I")).decode("utf-8", "surrogatepass")),
    b"\x8c": lambda p: p._push(p._take(p._number("B")).decode("utf-8", "surrogatepass")),
    b"\x8d": lambda p: p._push(p._take(p._number("<Q")).decode("utf-8", "surrogatepass")),
    b"B": lambda p: p._push(p._take(p._number("<I"))),
    b"C": lambda p: p._push(p._take(p._number("B"))),
    b"\x8e": lambda p: p._push(p._take(p._number("<Q"))),
    b"\x96": lambda p: p._push(bytearray(p._take(p._number("<Q")))),
    # containers
    b")": lambda p: p._push(()), b"t": lambda p: p._contain(tuple(p._since_mark())),
    b"\x85": lambda p: p._tuple(1), b"\x86": lambda p: p._tuple(2), b"\x87": lambda p: p._tuple(3),
    b"]": lambda p: p._contain([]), b"l": lambda p: p._contain(p._since_mark()),
    b"a": lambda p: p._append([p._stack.pop()]), b"e": lambda p: p._append(p._since_mark()),
    b"}": lambda p: p._contain({}),
    b"d": BoundedPickle._dict,
    b"s": lambda p: p._set_items([p._stack.pop(), p._stack.pop()][::-1]),
    b"u": lambda p: p._set_items(p._since_mark()), b"\x8f": lambda p: p._contain(set()),
    b"\x90": lambda p: p._add_items(p._since_mark()),
    b"\x91": lambda p: p._contain(frozenset(map(p.key, p._since_mark()))),
    # the memo
    b"p": lambda p: p._remember(int(p._line(20))), b"q": lambda p: p._remember(p._number("B")),
    b"r": lambda p: p._remember(p._number("<I")), b"\x94": lambda p: p._remember(len(p._memo)),
    b"g": lambda p: p._push(p._memo[int(p._line(20))]),
    b"h": lambda p: p._push(p._memo[p._number("B")]),
    b"j": lambda p: p._push(p._memo[p._number("<I")]),
    # names, and calls of them
    b"c": BoundedPickle._global, b"\x93": BoundedPickle._stack_global,
    b"R": lambda p: p._apply(p.call), b"\x81": lambda p: p._apply(p.create),
    b"b": BoundedPickle._build, b"Q": lambda p: p._contain(p.persistent(p._stack.pop())),
})
