"""Makes a file that fsspec opened behave as Python's own files do."""

from __future__ import annotations

import datetime
import io
from contextlib import AbstractContextManager
from typing import Any, Protocol

# The names under which drivers give the time of a file.
TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


class Place(Protocol):
    """The part of Location that is needed here: `errors` turns a driver's errors into OSErrors."""

    def errors(self) -> AbstractContextManager[Any]: ...


class RemoteFile(io.RawIOBase):
    """A file of fsspec that raises only OSErrors."""

    def __init__(self, place: Place, file: Any) -> None:
        self._place, self._file = place, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._place.errors():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with self._place.errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            super().close()


def time_of(info: dict[str, Any]) -> int:
    """Time of a file in seconds since 1970, from a driver's info; 0 if it has none."""
    for name in TIMES:
        value = info.get(name)
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime.datetime):
            return int(value.timestamp())
        if isinstance(value, int | float):
            return int(value)
    return 0
