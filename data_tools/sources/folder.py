"""A folder of images, at any depth."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.sources import is_ignored


class FolderSource:
    """The files under `path`. Links are followed, but not into a folder they lie in."""

    def __init__(self, path: Path) -> None:
        self._root = str(path)
        self.name = path.resolve().name
        self.ignored = 0
        found: list[tuple[str, int, int]] = []
        self._list(self._root, "", (), found)
        found.sort()
        self.keys = [key for key, _, _ in found]
        self.sizes = [size for _, size, _ in found]
        digest = hashlib.sha256()
        for row in found:
            digest.update(repr(row).encode())
        self.fingerprint = digest.hexdigest()

    def _list(
        self,
        folder: str,
        prefix: str,
        above: tuple[tuple[int, int], ...],
        found: list[tuple[str, int, int]],
    ) -> None:
        """Appends (key, bytes, mtime) of every file under `folder`; `above` are its ancestors."""
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:
                return  # a link back to a folder this one lies in
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            raise UserError(f"{folder}: can't be listed: {error.strerror}") from None
        above = (*above, (here.st_dev, here.st_ino))
        for entry in entries:
            if is_ignored(entry.name):
                self.ignored += 1
            elif entry.is_dir():
                self._list(entry.path, f"{prefix}{entry.name}/", above, found)
            elif entry.is_file():
                status = entry.stat()
                found.append((prefix + entry.name, status.st_size, int(status.st_mtime)))
            elif entry.is_symlink():
                found.append((prefix + entry.name, 0, 0))  # broken: quarantined when it is read
            else:
                self.ignored += 1  # sockets, pipes, devices

    def read(self, i: int) -> bytes:
        with open(f"{self._root}/{self.keys[i]}", "rb", buffering=0) as file:
            return file.read()

    def close(self) -> None:
        pass
