"""Reads Thrift's compact protocol from untrusted bytes, in no more memory than they take.

Format: github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator

# Types of fields and of items.
BOOLS, BYTE, INTEGERS, DOUBLE, BINARY = (1, 2), 3, (4, 5, 6), 7, 8
LISTS, MAP, STRUCT = (9, 10), 11, 12
MOST_DEPTH = 16


class Compact:
    """A reader of Thrift's compact protocol. Raises ValueError or IndexError for damage."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        self._forward(size)
        return self.data[self.at - size : self.at]

    def fields(self) -> Iterator[tuple[int, int]]:
        """(field id, type) of each field of a struct. Read or skip a value before the next field.
        """
        field = 0
        while head := self.data[self.at]:
            self.at += 1
            step, kind = head >> 4, head & 15
            field = field + step if step else self.integer()
            yield field, kind
        self.at += 1

    def items(self) -> tuple[int, int]:
        """The number of a list's items, and their type."""
        head = self.data[self.at]
        self.at += 1
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self.varint()
        if count > len(self.data) - self.at:
            raise ValueError(f"a list that claims {count} items")
        return count, kind

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > MOST_DEPTH:
            raise ValueError("nested too deep")
        if kind in BOOLS:
            pass
        elif kind == BYTE:
            self._forward(1)
        elif kind in INTEGERS:
            self.varint()
        elif kind == DOUBLE:
            self._forward(8)
        elif kind == BINARY:
            self._forward(self.varint())
        elif kind in LISTS:
            count, kind = self.items()
            for _ in range(count):
                self._skip_item(kind, depth)
        elif kind == MAP:
            count = self.varint()
            kinds = self.data[self.at] if count else 0
            self.at += count > 0
            for _ in range(count):
                self._skip_item(kinds >> 4, depth)
                self._skip_item(kinds & 15, depth)
        elif kind == STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError(f"a field of the unknown type {kind}")

    def _skip_item(self, kind: int, depth: int) -> None:
        # In a list a boolean takes a byte; as a field its value is in the type.
        if kind in BOOLS:
            self._forward(1)
        else:
            self.skip(kind, depth + 1)

    def _forward(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends too early")

    def integers(self, inner: dict[int, tuple[int, ...]]) -> dict[tuple[int, ...], int]:
        """The integer fields of a struct, by (field,), and those of the structs in it that `inner`
        names, by (field, inner field)."""
        found: dict[tuple[int, ...], int] = {}
        for field, kind in self.fields():
            if kind in INTEGERS:
                found[field,] = self.integer()
            elif kind == STRUCT and field in inner:
                for below, kind in self.fields():
                    if below in inner[field] and kind in INTEGERS:
                        found[field, below] = self.integer()
                    else:
                        self.skip(kind)
            else:
                self.skip(kind)
        return found
