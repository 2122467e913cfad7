"""The stack, memo and bytes of a pickle that is being read, with limits on all that it can hold.

A pickle is a program for a stack machine (opcodes: Python's pickletools). Each opcode takes its
arguments from the bytes behind it and from the stack. A MARK sets the stack aside, and a later
opcode collects all that was pushed since.
"""

from __future__ import annotations

import codecs
import struct
from typing import Any

from data_tools.safe_reading.extent import VALUES, Extent

# The most containers in one pickle. A checkpoint of a ResNet-50 with its optimizer has 3,000.
CONTAINERS = 200_000
KEY_LENGTH = 1_000
# Python's hashes of text differ from process to process, those of numbers do not. So a file can
# choose numbers that collide: the time to insert N such keys grows with N squared. A checkpoint
# has 200 numbers as keys.
NUMBERS_AS_KEYS = 10_000
OTHER_KEYS = 1_000
LONGEST_INTEGER = 255  # bytes


class PickleRefused(ValueError):
    """A pickle is damaged, or asks for something that is refused. `str(error)` is the reason."""


class PickleStack:
    """The state of a stack machine that reads the pickles in `data`, from offset `at` on."""

    encoding: str | None = None
    """The encoding of Python 2's strings; None gives them as bytes."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.at = at
        """Offset of the first byte behind the last pickle that was read."""
        self.extent = Extent()
        """Extent of the last value that was read."""
        self._data = data
        self._values = self._characters = self._containers = self._numbers = self._others = 0
        self._clear()

    def _clear(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

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
        """Pushes a new container or object."""
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
        """A string of Python 2: bytes, or text in an encoding that the pickle does not name."""
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
        """Counts values and characters that a call copies: repeated calls of a few bytes each may
        copy the same large part over and over."""
        self._values += values
        self._characters += characters
        if self._values > VALUES or self._characters > len(self._data):
            raise PickleRefused("its pickle unfolds to more than a checkpoint holds")

    def _drop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _drop_to_mark(self) -> None:
        self._since_mark()
