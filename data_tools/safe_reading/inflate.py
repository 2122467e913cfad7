"""Compressed files, unpacked within limits: gzip, xz, bzip2 and zstd, also several joined.

A few kilobytes may unpack to gigabytes. So every reader that inflates goes through here: it gets
its bytes in pieces, from a bounded part of the file where it only looks, and asks `most_unpacked`
how much a file of this size may become.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
READ, PIECE = 1 << 15, 1 << 20
# A file may unpack to GROWTH times its size, and a small one to SMALL all the same: a tar of black
# bitmaps shrinks a thousandfold, real sets of uncompressed images ten- to a hundredfold.
GROWTH, SMALL = 200, 1 << 30
# What xz may ask for as its dictionary; its strongest preset takes 65 MB.
XZ_MEMORY = 256 << 20
# Compressed bytes that a look at the first unpacked ones may cost: four blocks of bzip2.
LOOKED_AT = 4 << 20


class Broken(Exception):
    """The compressed bytes are damaged or cut off."""


class NoReader(Exception):
    """This Python lacks a library for the compression; says which."""


def compression_of(head: bytes) -> str:
    """gzip, xz, bzip2 or zstd, by a file's first six bytes; "" for others."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def most_unpacked(size: int, small: int) -> int:
    """The bytes that a compressed file of `size` bytes may unpack to; at least `small`."""
    return max(small, GROWTH * size)


def pieces(file: IO[bytes], packed: str, most_read: int = 1 << 62) -> Iterator[bytes]:
    """The unpacked bytes, at most PIECE at once.

    most_read: stop behind this many compressed bytes, as if the file ended there.
    Raises Broken for damage and a missing end, OSError for what can't be read, and NoReader.
    """
    if packed == "zstd":
        yield from zstd_pieces(Part(file, most_read))
        return
    part = Part(file, most_read)
    rest = part.read()
    while rest:
        stream = new_stream(packed)
        ended = False
        while not stream.eof:
            if ended:
                raise Broken("its end is missing")
            if stream.needs_input and not rest:
                rest = part.read()
                ended = not rest
            try:
                piece = stream.decompress(rest, PIECE)
            except Exception as error:  # each library has its own
                raise Broken(str(error)) from None
            rest = b""
            if piece:
                ended = False  # there may be more of what it holds back
                yield piece
        # Another stream may follow, behind zeros that fill a block.
        rest = stream.unused_data.lstrip(b"\0")
        while not rest and (more := part.read()):
            rest = more.lstrip(b"\0")


class Part:
    """A file that seems to end behind `most` bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def read(self, size: int = READ) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class Gzip:
    """zlib's object in the manner of bz2's and lzma's."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._tail = b""

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        piece = self._stream.decompress(self._tail + data, most)
        self._tail = self._stream.unconsumed_tail
        return piece


def new_stream(packed: str) -> Any:
    if packed == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
    return Gzip() if packed == "gzip" else bz2.BZ2Decompressor()


def zstd_pieces(file: Part) -> Iterator[bytes]:
    opener = zstd_reader()
    try:
        plain = opener(file)
    except Exception as error:
        raise Broken(str(error)) from None
    while True:
        try:
            piece = plain.read(PIECE)
        except OSError:
            raise
        except Exception as error:
            raise Broken(str(error)) from None
        if not piece:
            return
        yield piece


def zstd_reader() -> Callable[[Any], Any]:
    """Opens a file's unpacked bytes, through all frames of it. Raises NoReader."""
    with suppress(ImportError):
        return importlib.import_module("compression.zstd").open  # type: ignore[no-any-return]
    with suppress(ImportError):
        library = importlib.import_module("zstandard")
        return lambda file: library.ZstdDecompressor().stream_reader(
            file, read_across_frames=True)
    raise NoReader("is compressed with zstd: pip install zstandard, or unpack it")
