"""A tar of one tar per class, such as ILSVRC2012_img_train.tar, read without unpacking it."""

from __future__ import annotations

import itertools
import posixpath
from typing import TYPE_CHECKING

from data_tools.errors import UserError
from data_tools.formats.tar import Walk
from data_tools.formats.tar_header import BLOCK, is_header
from data_tools.formats.tar_listing import Listing, read_listing
from data_tools.sources.archive import Archive, compression, head_of
from data_tools.sources.tar import TarSource

if TYPE_CHECKING:
    from data_tools.sources.location import Location

LOOKED_AT = 3


def recognises(location: Location) -> bool:
    """True if the first members are all tars."""
    try:
        if not location.is_file() or not is_header(head_of(location, BLOCK)):
            return False
        if compression(location):
            head = head_of(location, 2 * BLOCK)
            first = next(iter(Walk(lambda size, at: head[at : at + size], 0, 1 << 62, location)))
            return first.is_file and first.name.endswith(".tar")
        walk = Walk(location.pread, 0, location.size(), location)
        first_files = itertools.islice((m for m in walk if m.is_file), LOOKED_AT)
        names = [member.name for member in first_files]
        return bool(names) and all(name.endswith(".tar") for name in names)
    except (OSError, UserError, StopIteration):
        return False


def open(location: Location, labels: Location | None = None) -> TarSource:
    """Opens a tar of tars. Keys look as if each tar were unpacked to a folder:
    "n01440764/n01440764_10026.JPEG".

    Raises UserError for a damaged tar, and if a member is no tar.
    """
    archive = Archive(location)
    try:
        outer = read_listing(archive.walk())
        whole = Listing()
        whole.hidden, whole.notes = outer.hidden, outer.notes
        for name, at in sorted(outer.index.items()):
            if not name.endswith(".tar"):
                raise UserError(f"{location}: holds tars, and {name}, which is none")
            folder = name.removesuffix(".tar")
            start, size = outer.offsets[at], outer.sizes[at]
            inner = read_listing(archive.walk(start, start + size, name))
            whole.notes += inner.notes
            whole.hidden |= {posixpath.join(folder, key) for key in inner.hidden}
            for key, i in inner.index.items():
                whole.add(f"{folder}/{key}", inner.offsets[i], inner.sizes[i], inner.mtimes[i])
        count = len(outer.index)
        return TarSource(archive, whole, f"tar of {count:,} tars of images", labels)
    except BaseException:
        archive.close()
        raise
