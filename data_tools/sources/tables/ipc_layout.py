"""Checks Arrow's compressed record batches before pyarrow unpacks them.

Each compressed buffer starts with the number of bytes that it unpacks to, and pyarrow allocates
that many without a check. The batch's buffers are listed in its metadata, a FlatBuffer. Formats:
arrow.apache.org/docs/format/Columnar.html (IPC) and flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Images hardly shrink when packed. A batch that unpacks to more than MOST_BATCH and to more than
# MOST_RATIO times its size is refused.
MOST_BATCH, MOST_RATIO = 64 << 20, 20
MARK = b"ARROW1"
DICTIONARY_BATCH, RECORD_BATCH = 2, 3
# Positions of fields in the tables of Arrow's Message.fbs and File.fbs.
MESSAGE_TYPE, MESSAGE_HEADER = 1, 2
BATCH_BUFFERS, BATCH_COMPRESSION = 2, 3
DICTIONARY_DATA = 1
FOOTER_DICTIONARIES, FOOTER_BATCHES = 2, 3
BLOCK, BUFFER = struct.Struct("<qi4xq"), struct.Struct("<qq")


class Table:
    """A table of a FlatBuffer. Reading raises struct.error or ValueError for damage."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - self._unpack("<i", at)
        self.size = self._unpack("<H", self.fields)

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def place(self, field: int) -> int:
        """The offset of a field's value; 0 if it has none."""
        entry = 4 + 2 * field
        offset = self._unpack("<H", self.fields + entry) if entry + 2 <= self.size else 0
        return self.at + offset if offset else 0

    def byte(self, field: int) -> int:
        place = self.place(field)
        return int(self._unpack("<B", place)) if place else 0

    def table(self, field: int) -> Table | None:
        place = self.place(field)
        return Table(self.data, place + self._unpack("<I", place)) if place else None

    def structs(self, field: int, form: struct.Struct) -> list[tuple[Any, ...]]:
        place = self.place(field)
        if not place:
            return []
        start = place + self._unpack("<I", place)
        count = self._unpack("<I", start)
        end = start + 4 + count * form.size
        if end > len(self.data):
            raise ValueError(f"a list that claims {count} items")
        return list(form.iter_unpack(self.data[start + 4 : end]))

    def _unpack(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset before its start")
        return int(struct.unpack_from(form, self.data, at)[0])


def blocks_of(file: Any) -> list[int]:
    """The offsets of an Arrow file's dictionaries and record batches, from its footer.

    Raises ValueError or struct.error for a damaged file.
    """
    size = file.size()
    file.seek(max(0, size - 10))
    tail = file.read(10)
    if tail[4:] != MARK:
        raise ValueError("its end is missing")
    length = struct.unpack("<i", tail[:4])[0]
    if not 0 < length <= size - 10:
        raise ValueError(f"its footer claims {length} bytes")
    file.seek(size - 10 - length)
    footer = Table.root(file.read(length))
    blocks = footer.structs(FOOTER_DICTIONARIES, BLOCK) + footer.structs(FOOTER_BATCHES, BLOCK)
    return [offset for offset, _, _ in blocks]


def check_message(message: pa.Message) -> None:
    """Raises ValueError for a batch that claims to unpack to more than it can hold."""
    head = Table.root(message.metadata.to_pybytes())
    kind, batch = head.byte(MESSAGE_TYPE), head.table(MESSAGE_HEADER)
    if kind == DICTIONARY_BATCH and batch is not None:
        batch = batch.table(DICTIONARY_DATA)
    elif kind != RECORD_BATCH:
        return
    if batch is None or batch.table(BATCH_COMPRESSION) is None:
        return
    body = message.body
    size = body.size if body is not None else 0
    unpacked = 0
    for offset, length in batch.structs(BATCH_BUFFERS, BUFFER):
        if length >= 8 and 0 <= offset <= size - 8:
            unpacked += max(0, struct.unpack("<q", body.slice(offset, 8).to_pybytes())[0])
    if unpacked > max(MOST_BATCH, MOST_RATIO * size):
        raise ValueError(f"a batch of {size} bytes claims to unpack to {unpacked}")
