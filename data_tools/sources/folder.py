"""A folder of images, at any depth."""

from __future__ import annotations

import copy
import errno
import os
import stat
from array import array
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UserError
from data_tools.images.file_names import is_ignored
from data_tools.images.magic import HEAD
from data_tools.safe_reading.regular import read_head, read_regular
from data_tools.safe_reading.special_files import Special
from data_tools.sources.folder_labels import label_files
from data_tools.sources.keys import Keys
from data_tools.sources.location import on_disk
from data_tools.sources.tar import digest_of

if TYPE_CHECKING:
    from data_tools.sources.location import Location

# If a link raises one of these errors, the link is at fault, not the disk.
BROKEN_LINK = {
    errno.ENOENT: "a link that leads nowhere", errno.ENOTDIR: "a link that leads nowhere",
    errno.ENAMETOOLONG: "a link that leads nowhere",
    errno.ELOOP: "a link that leads back to itself",
}
SPECIAL = {
    stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}


def recognises(location: Location) -> bool:
    return location.is_dir()


def open(location: Location, labels: Location | None = None) -> FolderSource:
    """Opens a folder. Raises UserError if it can't be listed, is empty, or holds train and val side
    by side."""
    return FolderSource(location, labels)


def not_listed(path: str, error: OSError) -> UserError:
    """The error for an entry that can't be examined while its folder is listed."""
    if error.errno in (errno.ENOENT, errno.ESRCH):  # below /proc it is ESRCH
        return UserError(f"{path}: it was removed while its folder was listed; run prep again once "
                         "nothing changes there")
    return UserError(f"{path}: can't be listed: {error.strerror or error}")


class FolderSource:
    """The files under a folder. Links are followed, except into a folder that contains them."""

    kind = "image folder"

    def __init__(self, location: Location, labels: Location | None = None) -> None:
        # A copy, since the given one may keep a long list of names in memory.
        location = self._place = copy.copy(location)
        self.name, self.ignored = location.name, 0
        self._root = None if location.local is None else str(location.local)
        self._special = Special()
        names: list[str] = []
        sizes, times = array("q"), array("q")
        if self._root is None:
            self._list_remote(names, sizes, times)
        else:
            self._list(self._root, "", (), names, sizes, times)
        if not names:
            odd = "".join(f" ({line})" for line in self._special.lines())
            raise UserError(f"{location}: holds no files{odd}; give a folder or a tar of images")
        order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
        names.sort()
        self.keys = Keys(names)
        self.sizes = np.frombuffer(sizes, np.int64)[order]
        self.fingerprint = digest_of(names, self.sizes, np.frombuffer(times, np.int64)[order])
        del names
        found = label_files(self.keys, self._head, location, labels)
        self.labels, self.classes, notes = found
        self.notes = [*notes, *self._special.lines()]

    def _list(
        self,
        folder: str,
        prefix: str,
        above: tuple[tuple[int, int], ...],
        names: list[str],
        sizes: array[int],
        times: array[int],
    ) -> None:
        """Appends key, bytes and mtime of every file under `folder`; `above` are its ancestors."""
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:
                return  # a link back to a folder above this one
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            raise not_listed(folder, error) from None
        above = (*above, (here.st_dev, here.st_ino))
        for entry in entries:
            if is_ignored(entry.name):
                self.ignored += 1
                continue
            try:
                is_dir, status = entry.is_dir(), entry.stat()
            except OSError as error:
                if not entry.is_symlink() or error.errno not in BROKEN_LINK:
                    raise not_listed(entry.path, error) from None
                names.append(prefix + entry.name)  # reading it will fail, which quarantines it
                sizes.append(0)
                times.append(0)
                continue
            kind = stat.S_IFMT(status.st_mode)
            if is_dir:
                self._list(entry.path, f"{prefix}{entry.name}/", above, names, sizes, times)
            elif kind == stat.S_IFREG:
                names.append(prefix + entry.name)
                sizes.append(status.st_size)
                times.append(int(status.st_mtime))
            else:
                self._special.add(prefix + entry.name, SPECIAL.get(kind, "special file"))

    def _list_remote(self, names: list[str], sizes: array[int], times: array[int]) -> None:
        """Appends key, bytes and mtime of every file under a remote folder."""
        hidden: set[str] = set()
        try:
            for key, size, mtime in self._place.walk():
                parts = key.split("/")
                mark = next((i for i, part in enumerate(parts) if is_ignored(part)), -1)
                if mark >= 0:
                    hidden.add("/".join(parts[: mark + 1]))
                    continue
                names.append(key)
                sizes.append(size)
                times.append(mtime)
        except OSError as error:
            raise UserError(f"{self._place}: can't be listed: {error.strerror or error}") from None
        self.ignored = len(hidden)

    def _head(self, i: int) -> bytes:
        return self._read(i, HEAD)

    def read(self, i: int) -> bytes:
        return self._read(i, -1)

    def _read(self, i: int, most: int) -> bytes:
        size = int(self.sizes[i])
        if self._root is not None:
            path = on_disk(f"{self._root}/{self.keys[i]}")
            try:
                return read_regular(path, size) if most < 0 else read_head(path, most)
            except OSError as error:
                broken = BROKEN_LINK.get(error.errno or 0)
                if broken and not size and os.path.islink(path):  # it was broken when listed too
                    raise OSError(broken) from None
                raise
        return self._place.child(self.keys[i]).pread(size if most < 0 else min(most, size), 0)

    def close(self) -> None:
        pass
