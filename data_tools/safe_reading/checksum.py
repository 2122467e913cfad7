"""Checksums of our own files: a file is read back as it was written, or not at all.

A small file starts with a SHA-256 of its content (1.6 GB/s on one core). A large array is followed
by a CRC-32 per block, which several threads check (4 GB/s per core). A CRC finds flipped bits, but
no forgery.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.safe_reading.regular import open_regular, read_all

DIGEST = 32  # bytes of a SHA-256
BLOCK = 16 << 20
Say = Callable[[str], None]


def unsaid(line: str) -> None:
    """A Say that prints nothing."""


def sealed(content: bytes, identity: str) -> bytes:
    """A SHA-256 of the identity and the content, followed by the content.

    identity: a name of the content, so that one sealed file cannot pass for another.
    """
    return _digest(content, identity) + content


def unsealed(data: bytes, identity: str) -> bytes | None:
    """The content that was given to sealed(); None if any bit or the identity differs."""
    content = data[DIGEST:]
    return content if data[:DIGEST] == _digest(content, identity) else None


def _digest(content: bytes, identity: str) -> bytes:
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(content)
    return digest.digest()


def read_checked(path: Path, sha256: str) -> bytes:
    """All bytes of a file with this SHA-256 (hexadecimal). Raises UserError if it differs."""
    try:
        data = read_all(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: changed since it was prepared (its checksum differs); remove "
                        f"{path.parent} and run prep again")
    return data


def block_crcs(path: Path, size: int, threads: int) -> np.ndarray:
    """CRC-32 of each BLOCK of a file's first `size` bytes, uint32 [ceil(size / BLOCK)].

    Raises OSError. Reads with pread, since a failing disk ends a process that reads a mapped file.
    """
    handle = open_regular(path)
    try:
        with ThreadPoolExecutor(threads) as pool:
            starts = range(0, size, BLOCK)
            crcs = pool.map(lambda at: _crc(handle, at, min(BLOCK, size - at)), starts)
            return np.array(list(crcs), "<u4")
    finally:
        os.close(handle)


def _crc(handle: int, at: int, size: int) -> int:
    crc = 0
    while size and (data := os.pread(handle, size, at)):
        crc = zlib.crc32(data, crc)
        at, size = at + len(data), size - len(data)
    return crc
