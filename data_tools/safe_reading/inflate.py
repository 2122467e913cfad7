"""Unpacks gzip, xz, bzip2 and zstd within limits, also several streams joined in one file.

A few kilobytes may unpack to gigabytes. So every reader of compressed files uses this one. It gets
the bytes in pieces, can stop after a number of compressed bytes, and asks `most_unpacked` for the
limit of a file of this size.
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
# A file may unpack to GROWTH times its size, and any file to SMALL. Sets of uncompressed images
# shrink ten- to a hundredfold; a tar of black bitmaps a thousandfold, but such tars are small.
GROWTH, SMALL = 200, 1 << 30
# The most memory for an xz dictionary, in bytes. The strongest preset of xz takes 65 MB.
XZ_MEMORY = 256 << 20
# Compressed bytes that are read, at most, to see the first unpacked ones: four blocks of bzip2.
LOOKED_AT = 4 << 20


class Broken(Exception):
    """The compressed bytes are damaged or cut off."""


class NoReader(Exception):
    """This Python lacks the library for a compression. `str(error)` says which to install."""


def compression_of(head: bytes) -> str:
    """gzip, xz, bzip2 or zstd, by a file's first six bytes; "" for any other file."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def most_unpacked(size: int, small: int) -> int:
    """The bytes that a compressed file of `size` bytes may unpack to; at least `small`."""
    return max(small, GROWTH * size)


def pieces(file: IO[bytes], packed: str, most_read: int = 1 << 62) -> Iterator[bytes]:
    """Yields the unpacked bytes, at most PIECE at once.

    packed: a name that compression_of returns. most_read: the number of compressed bytes to read;
    the file seems to end there. Raises Broken if the bytes are damaged or their end is missing,
    OSError if the file can't be read, and NoReader.
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
            except Exception as error:  # each library raises its own kinds
                raise Broken(str(error)) from None
            rest = b""
            if piece:
                ended = False  # the stream may hold back more unpacked bytes
                yield piece
        # Another stream may follow, after zeros that pad the first one to a block.
        rest = stream.unused_data.lstrip(b"\0")
        while not rest and (more := part.read()):
            rest = more.lstrip(b"\0")


class Part:
    """A file that seems to end after `most` bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def read(self, size: int = READ) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


class Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

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
    """A function that opens a file of zstd frames as one stream of bytes. Raises NoReader."""
    with suppress(ImportError):
        return importlib.import_module("compression.zstd").open  # type: ignore[no-any-return]
    with suppress(ImportError):
        library = importlib.import_module("zstandard")
        return lambda file: library.ZstdDecompressor().stream_reader(
            file, read_across_frames=True)
    raise NoReader("is compressed with zstd: pip install zstandard, or unpack it")
