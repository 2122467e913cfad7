"""Reads pickles without running anything in them, in time and memory bounded by their length.

A pickle is a program for a stack machine (its opcodes: Python's pickletools). Python's own readers
trust it: they call what it names, allocate the lengths that it claims, and hash keys whose hash may
take forever. This reader refuses all of that; a subclass says which names it reads.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from data_tools.safe_reading.extent import VALUES, Extent, TooLarge, measure

# What one pickle may hold, besides VALUES. A checkpoint of a ResNet-50 with its optimizer has 3,000
# containers and 200 numbers as keys.
CONTAINERS = 200_000
KEY_LENGTH = 1_000
# Hashes of text differ from process to process. Those of numbers do not, so that a file can choose
# keys that collide: the time to insert N of them grows with N squared.
NUMBERS_AS_KEYS = 10_000
OTHER_KEYS = 1_000
LONGEST_INTEGER = 255  # bytes


class PickleRefused(ValueError):
    """A pickle is damaged, or asks for what is not given. `str(error)` says which, in a line."""


class BoundedPickle:
    """Reads the pickles that stand one after another in `data`, from `at` on.

    Gives numbers, text, bytes, lists, tuples, dicts and sets. A subclass overrides `find` and
    `call` (and `build`, `persistent`) for the names that it reads: without them every name is
    refused.
    """

    opcodes: frozenset[int] | None = None
    """Those that are read, None for all known ones."""
    encoding: str | None = None
    """The encoding of Python 2's strings; None leaves them bytes."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.at = at
        """The offset behind the last pickle that was read."""
        self.extent = Extent()
        """The extent of the last value."""
        self._data = data
        self._values = self._characters = self._containers = self._numbers = self._others = 0

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
        """Give a stand-in its state."""
        raise PickleRefused("its pickle sets the state of an object, which is not done")

    def persistent(self, key: Any) -> Any:
        """The value that lies outside the pickle."""
        raise PickleRefused("its pickle refers to something outside it, which is not read")

    def is_identity(self, value: Any) -> bool:
        """Whether a value that `find` gave is hashed by its identity, and so may be a key."""
        return False

    def array_bytes(self, value: Any) -> int:
        """Memory that a stand-in of an array takes."""
        return 0

    def load(self) -> Any:
        """The next pickle's value. Raises PickleRefused."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
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

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self.at:
            raise PickleRefused("its pickle is cut short, or claims more bytes than there are")
        self.at += count
        return self._data[self.at - count : self.at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self, most: int | None = None) -> bytes:
        end = self._data.find(b"\n", self.at, None if most is None else self.at + most)
        line = self._take(end - self.at if end >= 0 else -1)
        self.at += 1
        return line

    def _push(self, value: Any) -> None:
        self._values += 1
        if self._values > VALUES:
            raise PickleRefused(f"its pickle holds more than {VALUES:,} values")
        self._stack.append(value)

    def _contain(self, value: Any) -> None:
        """Push a new container or object."""
        self._count_container()
        self._push(value)

    def _count_container(self) -> None:
        self._containers += 1
        if self._containers > CONTAINERS:
            raise PickleRefused(f"its pickle holds more than {CONTAINERS:,} containers")

    def _mark(self) -> None:
        self._count_container()
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _tuple(self, count: int) -> None:
        if count > len(self._stack):
            raise PickleRefused("its pickle is damaged")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._contain(items)

    def _text(self, raw: bytes) -> str | bytes:
        """A string of Python 2."""
        return raw if self.encoding is None else raw.decode(self.encoding)

    def _string(self) -> None:
        quoted = self._line()
        if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in b"'\"":
            raise PickleRefused("its pickle is damaged")
        self._push(self._text(codecs.escape_decode(quoted[1:-1])[0]))  # type: ignore[attr-defined]

    def _integer(self) -> None:
        line = self._line(3 * LONGEST_INTEGER)
        booleans = {b"00": False, b"01": True}
        self._push(booleans[line] if line in booleans else int(line.rstrip(b"L"), 0))

    def _long(self, layout: str) -> None:
        count = self._number(layout)
        if not 0 <= count <= LONGEST_INTEGER:
            raise PickleRefused(f"its pickle holds an integer of {count} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _frame(self) -> None:
        if not 0 <= self._number("<Q") <= len(self._data) - self.at:
            raise PickleRefused("its pickle is cut short, or claims more bytes than there are")

    def _protocol(self) -> None:
        if self._number("B") > 5:
            raise PickleRefused("its pickle is of a protocol that is not known here")

    def _remember(self, index: int) -> None:
        self._values += 1
        if self._values > VALUES or index < 0:
            raise PickleRefused(f"its pickle holds more than {VALUES:,} values")
        self._memo[index] = self._stack[-1]

    def spend(self, values: int = 0, characters: int = 0) -> None:
        """Count what a call copies: one that is repeated may copy the same part over and over."""
        self._values += values
        self._characters += characters
        if self._values > VALUES or self._characters > len(self._data):
            raise PickleRefused("its pickle unfolds to more than a checkpoint holds")

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

    def key(self, key: Any) -> Any:
        """A dict's key or a set's member, if it can be hashed and compared in no time."""
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

    def _drop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _drop_to_mark(self) -> None:
        self._since_mark()


def _is_flat(key: Any) -> bool:
    """None, a number that is not whole, or a short tuple of such, of integers and of short text."""
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
    # names, and what is done with them
    b"c": BoundedPickle._global, b"\x93": BoundedPickle._stack_global,
    b"R": lambda p: p._apply(p.call), b"\x81": lambda p: p._apply(p.create),
    b"b": BoundedPickle._build, b"Q": lambda p: p._contain(p.persistent(p._stack.pop())),
})
