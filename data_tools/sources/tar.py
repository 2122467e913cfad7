"""A tar of a folder of images, read in place.

Headers are walked by hand (POSIX.1-2001 pax, and GNU tar's own extensions): one pass over the
headers, then every member is one positioned read, in any order and from any thread. The standard
library's tarfile keeps a Python object a member and takes twenty times as long.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path

from data_tools.errors import UserError
from data_tools.sources import is_ignored

BLOCK = 512
WINDOW = 1 << 16
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
REGULAR, LINKS = b"0\0007", b"12"


class TarSource:
    """The regular files of a tar; links stand for the members they point at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise UserError(f"{path}: can't be opened: {error.strerror}") from None
        try:
            members, links, hidden = self._walk(os.fstat(self._file).st_size)
        except ValueError:
            self.close()
            raise UserError(f"{path}: damaged: a header holds no number where one must be; "
                            "copy or download it again") from None
        except BaseException:
            self.close()
            raise
        self.ignored = len(hidden)
        for key, target in links.items():
            members[key] = self._follow(target, members, links)
        self.keys = sorted(members)
        rows = [members[key] for key in self.keys]
        self._offsets = [offset for offset, _, _ in rows]
        self.sizes = [size for _, size, _ in rows]
        digest = hashlib.sha256()
        for key, (_, size, mtime) in zip(self.keys, rows, strict=True):
            digest.update(repr((key, size, mtime)).encode())
        self.fingerprint = digest.hexdigest()

    def _walk(
        self, end: int
    ) -> tuple[dict[str, tuple[int, int, int]], dict[str, str], set[str]]:
        """Members as key -> (offset, bytes, mtime), links as key -> target key, hidden paths."""
        members: dict[str, tuple[int, int, int]] = {}
        links: dict[str, str] = {}
        hidden: set[str] = set()
        pax: dict[str, str] = {}  # what an extension header says of the next member
        position = start = 0
        window = b""
        if end < BLOCK:
            raise self._no_tar(os.pread(self._file, end, 0))
        while position + BLOCK <= end:
            at = position - start
            if not 0 <= at <= len(window) - BLOCK:
                window = os.pread(self._file, WINDOW, position)
                start, at = position, 0
            block = window[at : at + BLOCK]
            if block[0] == 0 and not any(block):
                break  # the end of the archive
            self._verify(block, position)
            kind = block[156:157]
            size = int(pax["size"]) if "size" in pax else octal(block[124:136])
            data = position + BLOCK
            position = data + (0 if kind in LINKS else -(-size // BLOCK) * BLOCK)
            if data + size > end and kind not in LINKS:
                raise UserError(f"{self.path}: truncated: its last member ends {data + size - end} "
                                "bytes behind the end of the file; copy or download it again")
            if kind in b"LKxg":
                body = os.pread(self._file, size, data)
                if kind == b"x":
                    pax |= pax_records(body)
                elif kind != b"g":  # GNU long name (L), long link target (K)
                    pax["path" if kind == b"L" else "linkpath"] = text(body)
                continue
            name, target = self._names(block, pax)
            sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in pax)
            pax = {}
            parts = [part for part in name.split("/") if part not in ("", ".")]
            key = "/".join(parts)
            mark = next((i for i, part in enumerate(parts) if is_ignored(part)), -1)
            if mark >= 0:
                hidden.add("/".join(parts[: mark + 1]))
            elif kind in LINKS:
                # A hard link names a member from the top, a symbolic one from where it lies.
                base = "" if kind == b"1" else posixpath.dirname(key)
                links[key] = posixpath.normpath(posixpath.join(base, target))
            elif sparse:
                raise UserError(f"{self.path}: {key} is stored sparse; pack it without --sparse")
            elif kind in REGULAR and not name.endswith("/"):
                members[key] = data, size, octal(block[136:148])
                links.pop(key, None)  # of several members of one name the last counts
            elif kind not in b"5" + REGULAR:
                hidden.add(key)  # devices, pipes
        else:
            if position < end:
                raise UserError(f"{self.path}: truncated in a header; copy or download it again")
        return members, links, hidden

    def _verify(self, block: bytes, position: int) -> None:
        """Raises UserError unless the header's checksum holds: the bytes' sum, itself blank."""
        try:
            good = octal(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * 32
        except ValueError:
            good = False
        if not good and position == 0:
            raise self._no_tar(block)
        if not good:
            raise UserError(f"{self.path}: damaged: no tar header at byte {position}; "
                            "copy or download it again")

    def _no_tar(self, block: bytes) -> UserError:
        for magic, name in COMPRESSED.items():
            if block.startswith(magic):
                return UserError(f"{self.path}: compressed ({name}); unpack it to a plain tar "
                                 "or a folder first")
        return UserError(f"{self.path}: neither a folder nor a tar; give one of these")

    @staticmethod
    def _names(block: bytes, pax: dict[str, str]) -> tuple[str, str]:
        name = text(block[:100])
        # Only POSIX headers have a prefix; GNU's old magic has times in its place.
        if block[257:263] == b"ustar\0" and block[345]:
            name = f"{text(block[345:500])}/{name}"
        return pax.get("path", name), pax.get("linkpath", text(block[157:257]))

    @staticmethod
    def _follow(
        target: str, members: dict[str, tuple[int, int, int]], links: dict[str, str]
    ) -> tuple[int, int, int]:
        for _ in range(40):  # the kernel's own limit for chains of links
            if target in members:
                return members[target]
            if target not in links:
                break
            target = links[target]
        return -1, 0, 0

    def read(self, i: int) -> bytes:
        if self._offsets[i] < 0:
            raise FileNotFoundError(2, "a link to a file that the tar doesn't hold")
        return os.pread(self._file, self.sizes[i], self._offsets[i])

    def close(self) -> None:
        os.close(self._file)


def text(field: bytes) -> str:
    return os.fsdecode(field.split(b"\0", 1)[0])


def octal(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's base 256 (top bit set) for what is too large."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def pax_records(body: bytes) -> dict[str, str]:
    """The records "length key=value\\n" of a pax extension header."""
    records: dict[str, str] = {}
    while body:
        length, _, rest = body.partition(b" ")
        if not length.isdigit() or int(length) <= len(length):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        records[os.fsdecode(key)] = os.fsdecode(value)
        body = body[int(length) :]
    return records
