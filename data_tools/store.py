"""Random access to encoded images of any format: the Store, and the index that it reads.

In every format, a sample is a piece of a data file. The index is a table with the file, offset and
length of each sample, in one .npy (numpy's format 1.0). So opening a dataset reads nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.errors import UserError
from data_tools.safe_reading.checksum import read_checked
from data_tools.safe_reading.json_file import Damaged, read_bytes
from data_tools.safe_reading.limits import raise_open_files, refuse
from data_tools.safe_reading.regular import open_binary

DIGEST_BYTES = 16

INDEX = "index.npy"
KEYS = "keys.txt"
DIGESTS = "digests.npy"
INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # bytes from the start of the data file
        ("size", "<u8"),  # bytes
        ("height", "<i4"),  # pixels
        ("width", "<i4"),
        ("label", "<i8"),  # -1: unlabelled
        ("crc", "<u4"),  # zlib.crc32 of the image's bytes; 0 in files of others
        ("file", "<u4"),  # which data file
        ("kind", "u1"),  # JPEG, RAW or OTHER, and maybe SPLIT
    ]
)
# Kinds of an image's bytes: a JPEG; height x width x 3 uint8 RGB; another encoded image, which only
# files that prep did not write contain.
JPEG, RAW, OTHER = 0, 1, 2
# RecordIO splits an image at its magic number. The pieces are joined when the image is read.
SPLIT = 4
# Samples of the index per read, so that memory never holds the whole table next to the columns.
ROWS = 1 << 16


# (a file's bytes, uint8 [n]; a sample's offset; its size) -> the sample's bytes, uint8 [size]
Join = Callable[[np.ndarray, int, int], np.ndarray]


class Store(Protocol):
    """A random-access sequence of N encoded images."""

    path: Path
    sizes: np.ndarray
    """int32 [N, 2]: height, width in pixels."""
    labels: np.ndarray
    """int64 [N]; -1: unlabelled."""
    classes: list[str]
    """Names by label; empty if there are none or the file does not contain them."""
    kinds: np.ndarray
    """uint8 [N]: JPEG, RAW (height x width x 3 uint8 RGB) or OTHER."""
    lengths: np.ndarray
    """int64 [N]: number of bytes of each sample."""
    data: list[Path]
    """The data files."""
    fingerprint: str
    """Hex digest that changes with the data."""

    def __len__(self) -> int: ...

    def encoded(self, i: int) -> np.ndarray:
        """Sample i's bytes, uint8 [size], without a copy. Read-only; holds the file open."""

    def key(self, i: int) -> str:
        """Sample i's name for messages: its path in the source, if that is known."""

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of samples: (indices in `data`, offsets, lengths), int64 each."""


class Columns:
    """The columns of an index that a store keeps in memory: 33 bytes per sample."""

    def __init__(self, blocks: Iterable[np.ndarray], samples: int) -> None:
        self.sizes = np.empty((samples, 2), np.int32)
        self.labels = np.empty(samples, np.int64)
        self.kinds = np.empty(samples, np.uint8)
        self.starts = np.empty(samples, np.int64)
        self.bytes = np.empty(samples, np.int64)
        self.files = np.empty(samples, np.uint32)
        at = 0
        for block in blocks:
            to = slice(at, at + len(block))
            self.sizes[to, 0], self.sizes[to, 1] = block["height"], block["width"]
            self.labels[to], self.kinds[to] = block["label"], block["kind"]
            self.starts[to], self.bytes[to] = block["offset"], block["size"]
            self.files[to] = block["file"]
            at += len(block)


class MappedStore:
    """A Store over memory-mapped data files and their index.

    Files are mapped when they are first read, so that a store opens at once. Threads and forked
    processes share the maps.

    index: INDEX_DTYPE [N], or its columns. keys: the file with the samples' names. join: puts
    together a sample that its format splits (SPLIT).
    """

    def __init__(
        self,
        path: Path,
        data: Sequence[Path],
        index: np.ndarray | Columns,
        classes: list[str],
        fingerprint: str,
        keys: Path | None = None,
        keys_sha256: str = "",
        join: Join | None = None,
    ) -> None:
        columns = index if isinstance(index, Columns) else Columns([index], len(index))
        self.path = path
        self.classes = classes
        self.fingerprint = fingerprint
        self.sizes = columns.sizes
        self.labels = columns.labels
        self.kinds = columns.kinds & ~np.uint8(SPLIT)
        self.data = list(data)
        self._split = columns.kinds & SPLIT != 0
        self._any_split = bool(self._split.any())
        self._files = columns.files
        self._starts = columns.starts
        self.lengths = columns.bytes
        # Array and map are one tuple, so that no thread sees only one of them while another unmaps.
        self._maps: list[tuple[np.ndarray, mmap.mmap] | None] = [None] * len(self.data)
        self.has_keys = keys is not None
        self._keys_path = keys
        self._keys_sha256 = keys_sha256
        self._join = join
        self._keys: list[str] | None = None
        self._check_ends()

    def _check_ends(self) -> None:
        """Raises UserError if a sample is behind the end of its file."""
        ends = np.zeros(len(self.data), np.int64)
        for at in range(0, len(self), ROWS):
            to = slice(at, at + ROWS)
            starts, lengths = self._starts[to], self.lengths[to]
            # Before the sum, which may wrap around for the numbers of a damaged index.
            limit = 1 << 62
            wrong = (starts < 0) | (lengths < 0) | (starts > limit) | (lengths > limit)
            if wrong.any() or (self._files[to] >= len(self.data)).any():
                raise UserError(f"{self.path}: its index is damaged; remove it and run prep again")
            np.maximum.at(ends, self._files[to], starts + lengths)
        for path, end in zip(self.data, ends, strict=True):
            if end > path.stat().st_size:
                raise UserError(f"{path}: truncated: samples are behind its end; prepare it again")

    def __len__(self) -> int:
        return len(self._starts)

    def _map(self, file: int) -> tuple[np.ndarray, mmap.mmap]:
        path = self.data[file]
        try:
            mapped = _map_file(path)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            # Each map holds its file open, and many systems allow fewer than 1,000 open files by
            # default.
            if not raise_open_files():
                self._let_go()
            mapped = _map_file(path)
        # A plain array: slices of numpy's memmap class cost several times as much.
        opened = self._maps[file] = np.frombuffer(mapped, np.uint8), mapped
        return opened

    def _let_go(self) -> None:
        """Unmaps half of the files. A file whose bytes are still in use stays mapped until they are
        not."""
        there = [file for file, opened in enumerate(self._maps) if opened is not None]
        for file in there[::2] or there:
            self._maps[file] = None

    def encoded(self, i: int) -> np.ndarray:
        file = self._files[i]
        content, opened = self._maps[file] or self._map(int(file))
        start, length = self._starts[i], self.lengths[i]
        # Reading a map behind the end of its file would end the process.
        if start + length > opened.size():
            raise UserError(
                f"{self.data[file]}: became shorter while it was read, sample {i} is gone; "
                "prepare it again, and don't write to a dataset in use"
            )
        if self._any_split and self._split[i]:
            assert self._join is not None
            return self._join(content, int(start), int(length))
        return content[start : start + length]

    def key(self, i: int) -> str:
        if self._keys is None and self._keys_path is not None:
            self._keys = read_keys(self._keys_path, len(self), self._keys_sha256)
        if self._keys is None:
            return f"sample {i} of {self.path}"
        return self._keys[i]

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._files[ids].astype(np.int64), self._starts[ids], self.lengths[ids]


def _map_file(path: Path) -> mmap.mmap:
    with open_binary(path) as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def read_index(path: Path, samples: int, sha256: str = "") -> Columns:
    """The columns of the index in `path`.

    Raises UserError unless it has this number of samples, and this SHA-256 (hexadecimal) if one is
    given.
    """
    damaged = UserError(f"{path}: damaged; remove {path.parent} and run prep again")
    try:
        with open_binary(path) as file:
            # Compared, not parsed: numpy's parser of headers raises errors of many kinds on damage.
            header = npy_header(INDEX_DTYPE, samples)
            rest = os.fstat(file.fileno()).st_size - len(header)
            if file.read(len(header)) != header or rest != samples * INDEX_DTYPE.itemsize:
                raise ValueError
            digest = hashlib.sha256(header)

            def blocks() -> Iterator[np.ndarray]:
                for at in range(0, samples, ROWS):
                    block = np.fromfile(file, INDEX_DTYPE, min(ROWS, samples - at))
                    digest.update(block.view(np.uint8).data)
                    yield block

            columns = Columns(blocks(), samples)
            if sha256 and digest.hexdigest() != sha256:
                raise ValueError
            return columns
    except (OSError, ValueError, EOFError) as error:
        refuse(error)
        raise damaged from None


def npy_header(dtype: np.dtype, *shape: int) -> bytes:
    """The header of a .npy file (format 1.0), for an array that is written in pieces."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": description, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def escape_key(key: str) -> bytes:
    """A key as a line of UTF-8. Backslash and newline are escaped; undecodable bytes stay."""
    plain = key.replace("\\", "\\\\").replace("\n", "\\n")
    return (plain + "\n").encode("utf-8", "surrogateescape")


def read_keys(path: Path, samples: int, sha256: str = "") -> list[str]:
    """The key of each sample. Raises UserError unless the file has this number of keys, and this
    SHA-256 (hexadecimal) if one is given."""
    try:
        content = read_checked(path, sha256) if sha256 else read_bytes(path)
    except (OSError, Damaged) as error:
        raise UserError(f"{path}: can't be read ({error}); run prep again") from None
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    if lines.pop() or len(lines) != samples:
        raise UserError(f"{path}: damaged: does not name {samples:,} images; remove {path.parent} "
                        "and run prep again")
    plain = [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") for line in lines]
    return plain


def digest_of(data: bytes | np.ndarray) -> bytes:
    """DIGEST_BYTES of SHA-256 of a file's bytes, or of an array's shape and pixels."""
    if isinstance(data, np.ndarray):
        digest = hashlib.sha256(repr(data.shape).encode())
        digest.update(np.ascontiguousarray(data).data)
        return digest.digest()[:DIGEST_BYTES]
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
