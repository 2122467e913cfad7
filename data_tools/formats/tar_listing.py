"""Lists all files of a tar by name, with links resolved, for readers that need random access."""

from __future__ import annotations

import posixpath
from array import array

from data_tools.formats.tar import LINKS, REGULAR, Walk
from data_tools.images.file_names import key_of
from data_tools.safe_reading.special_files import Special

# The kernel's own limit for chains of links.
CHAIN = 40
# Kinds of members (POSIX's ustar) other than files, links and folders.
SPECIAL = {b"3": "device", b"4": "device", b"6": "pipe"}


class Listing:
    """The files of a tar by key, in compact columns. The last file of a name counts."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.offsets, self.sizes, self.mtimes = array("q"), array("q"), array("q")
        self.hidden: set[str] = set()
        self.special = Special()
        self.replaced = 0
        """Number of files replaced by a later one of the same name, as in unpacking the tar."""
        self.notes: list[str] = []

    def add(self, key: str, offset: int, size: int, mtime: int) -> None:
        """Appends a file."""
        self.replaced += key in self.index
        self.index[key] = len(self.offsets)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.mtimes.append(mtime)

    def find(self, key: str) -> tuple[int, int]:
        """(offset, size) of a file; (-1, 0) if there is none."""
        at = self.index.get(key, -1)
        return (self.offsets[at], self.sizes[at]) if at >= 0 else (-1, 0)


def read_listing(walk: Walk) -> Listing:
    """All files of a tar. A link to a file that the tar doesn't contain has the offset -1."""
    listing = Listing()
    links: dict[str, str] = {}
    for member in walk:
        key, hidden = key_of(member.name)
        if hidden:
            listing.hidden.add(hidden)
        elif member.is_file:
            if key:
                listing.add(key, member.offset, member.size, member.mtime)
                links.pop(key, None)
        elif member.kind in LINKS:
            # A hard link's target is a path in the tar; a symbolic link's, in the link's folder.
            base = "" if member.kind == b"1" else posixpath.dirname(key)
            target = key_of(member.target)[0] if member.kind == b"1" else member.target
            links[key] = posixpath.normpath(posixpath.join(base, target))
        elif member.kind not in b"5" + REGULAR:
            listing.special.add(key, SPECIAL.get(member.kind, "special member"))
    for key, target in links.items():
        at = follow(target, listing.index, links)
        if at < 0:
            listing.add(key, -1, 0, 0)
        else:
            listing.add(key, listing.offsets[at], listing.sizes[at], listing.mtimes[at])
    listing.notes = [*walk.notes(), *listing.special.lines()]
    if listing.replaced:
        listing.notes.append(f"{listing.replaced:,} files occur again under the same name: the "
                             "last of each counts")
    return listing


def follow(target: str, index: dict[str, int], links: dict[str, str]) -> int:
    """The number of the file at the end of a chain of links; -1 if there is none."""
    for _ in range(CHAIN):
        if target in index:
            return index[target]
        if target not in links:
            break
        target = links[target]
    return -1
