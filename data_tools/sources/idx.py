"""IDX files: MNIST and its family, plain or gzipped.

An IDX file is 0, 0, the type (8: uint8, 12: int32), the number of dimensions, each dimension as a
big-endian uint32, and the numbers, last index fastest (yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.label_values import number_labels
from data_tools.safe_reading.inflate import Broken, most_unpacked, pieces
from data_tools.sources.archive import compression, head_of, opened
from data_tools.sources.arrays import ArraySource
from data_tools.sources.keys import RowKeys

if TYPE_CHECKING:
    from data_tools.sources.location import Location

# Most bytes that are unpacked to memory: EMNIST's largest file is 550 MB. A local file that is not
# compressed is mapped instead.
UNPACKED_BYTES = 1 << 30
READ_BYTES = 1 << 22
# A gzip of a few kilobytes may unpack to this; MNIST's images take 47 MB.
SMALL = 128 << 20
TYPES: dict[int, np.dtype] = {8: np.dtype("u1"), 12: np.dtype(">i4")}
IMAGE_WORDS = ("images-idx3", "images.idx3", "images-idx4", "images.idx4")


class Header(NamedTuple):
    """The header of an IDX file."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Length of the header."""
        return 4 + 4 * len(self.shape)

    @property
    def numbers(self) -> int:
        """Number of values that follow. It is a Python integer, since a damaged header may claim
        more than 64 bits hold."""
        total = 1
        for side in self.shape:
            total *= side
        return total

    @property
    def holds_images(self) -> bool:
        """True for uint8 [N, H, W] or [N, H, W, 3] that is not empty."""
        plain = len(self.shape) == 3 or (len(self.shape) == 4 and self.shape[3] == 3)
        return plain and self.dtype.itemsize == 1 and 0 not in self.shape


def recognises(location: Location) -> bool:
    """True for an IDX file (gzipped or not), and for a folder that holds one of images."""
    try:
        if location.is_dir():
            return any(map(named_images, location.names()))
        # By its name too, so that a damaged file is reported as damaged.
        return named_images(location.name) or bool(header_of(location))
    except (OSError, UserError):
        return False


def open(location: Location, split: str = "") -> ArraySource:
    """Opens a file of images and the file of labels beside it.

    split: for a folder, "train" (also "") or "test". Raises UserError for a damaged file, and for a
    folder in which several files fit.
    """
    notes: list[str] = []
    file = location
    if location.is_dir():
        file = choose(location, split or "train", notes)
    elif split:
        raise UserError(f"{location}: one file has no splits; leave #{split} off")
    header = header_of(file)
    if header is None or not header.holds_images:
        raise UserError(f"{file}: holds no images of 8 bits; give the file of images "
                        "(like train-images-idx3-ubyte)")
    images = read_idx(file)
    labels, classes = labels_beside(file, len(images), notes)
    keys = RowKeys([file.name], [len(images)])
    height, width = images.shape[1:3]
    kind = f"IDX, {file.name}, {width} x {height}"
    return ArraySource(location.name, kind, images, labels, classes, keys, notes)


def named_images(name: str) -> bool:
    return any(word in name.lower() for word in IMAGE_WORDS)


def image_files(folder: Location) -> list[Location]:
    """The files of images in a folder. If one is there packed and unpacked, the unpacked counts."""
    names = [name for name in folder.names() if named_images(name)]
    names = [n for n in names if not (n.endswith(".gz") and n.removesuffix(".gz") in names)]
    files = [folder.child(name) for name in names]
    return [f for f in files if f.is_file() and (h := header_of(f)) and h.holds_images]


def choose(folder: Location, split: str, notes: list[str]) -> Location:
    """The only file of a split in a folder. MNIST's test split is called t10k."""
    by_split: dict[str, list[Location]] = {"train": [], "test": []}
    for file in image_files(folder):
        name = file.name.lower()
        by_split["test" if "t10k" in name or "test" in name else "train"].append(file)
    if split not in by_split or not by_split[split]:
        raise UserError(f"{folder}: holds no {split} images; it has "
                        f"{' and '.join(name for name, files in by_split.items() if files)}")
    if len(by_split[split]) > 1:
        raise UserError(f"{folder}: holds {len(by_split[split])} files of {split} images; "
                        f"give one of them, like {by_split[split][0]}")
    other = "test" if split == "train" else "train"
    if by_split[other]:
        notes.append(f"holds the {split} images; for the others give {folder.name}#{other}")
    return by_split[split][0]


def labels_beside(
    file: Location, samples: int, notes: list[str]
) -> tuple[np.ndarray, list[str]]:
    """Labels int64 [N] and classes, from the file of labels that belongs to a file of images."""
    place = next((p for name in label_names(file.name) if (p := file.parent.child(name)).exists()),
                 None)
    if place is None:
        notes.append(f"no labels: there is no {label_names(file.name)[0]} beside the images"
                     if label_names(file.name) else "no labels: the name doesn't say whose")
        return np.full(samples, -1, np.int64), []
    values = read_idx(place)
    if values.ndim == 2:
        values = values[:, 0]  # QMNIST: the class, then columns on the origin of the digit
    if values.ndim != 1 or len(values) != samples:
        raise UserError(f"{place}: holds {len(values)} labels for {samples} images; "
                        "give files that belong together")
    labels, classes, note = number_labels(values)
    notes += [note] if note else []
    return labels, classes


def label_names(name: str) -> list[str]:
    """Possible names of the file of labels; empty if the images' file has an unusual name."""
    if "images" not in name:
        return []
    stem = name.removesuffix(".gz").replace("images", "labels")
    stems = [stem.replace("idx3", "idx1").replace("idx4", "idx1"),
             stem.replace("idx3-ubyte", "idx2-int")]
    tails = (".gz", "") if name.endswith(".gz") else ("", ".gz")
    return [stem + tail for stem in dict.fromkeys(stems) for tail in tails]


def header_of(location: Location) -> Header | None:
    """The header of an IDX file; None for any other file, also for a damaged gzip."""
    with damaged(location):
        head = head_of(location, 4 + 4 * 4)
    if len(head) < 8 or head[:2] != b"\0\0" or head[2] not in TYPES or not 1 <= head[3] <= 4:
        return None
    if len(head) < 4 + 4 * head[3]:
        return None
    return Header(TYPES[head[2]], struct.unpack_from(f">{head[3]}I", head, 4))


def read_idx(location: Location) -> np.ndarray:
    """The array of an IDX file. Raises UserError unless it has as many numbers as it claims."""
    header = header_of(location)
    if header is None:
        raise UserError(f"{location}: no IDX file, or a damaged one")
    size = header.numbers * header.dtype.itemsize
    with damaged(location):
        packed, stored = compression(location), location.size()
        if not packed and stored != header.bytes + size:
            raise ValueError(f"claims {size:,} bytes of numbers, has {stored - header.bytes:,}")
        if not packed and location.local is not None:
            return np.memmap(location.local, header.dtype, "r", header.bytes, header.shape)
        most = most_unpacked(stored, SMALL) if packed else UNPACKED_BYTES
        if size > min(most, UNPACKED_BYTES):
            raise UserError(f"{location}: its {stored:,} bytes claim to hold {size:,}; unpack it "
                            "to a local file first")
        data = read_bytes(location, packed, header.bytes + size + 1)
        if len(data) != header.bytes + size:
            more = "more" if len(data) > header.bytes + size else "fewer"
            raise ValueError(f"holds {more} than the {size:,} bytes it claims")
        return np.frombuffer(data, header.dtype, offset=header.bytes).reshape(header.shape)


def read_bytes(location: Location, packed: str, most: int) -> bytearray:
    """The first `most` bytes, unpacked. Raises OSError, ValueError."""
    data = bytearray()
    with opened(location) as file:
        found = pieces(file, packed) if packed else iter(lambda: file.read(READ_BYTES), b"")
        try:
            for piece in found:
                data += piece[: most - len(data)]
                if len(data) == most:
                    break
        except Broken as error:
            raise ValueError(str(error)) from None
    return data


@contextmanager
def damaged(location: Location) -> Iterator[None]:
    """Turns the errors of reading a damaged file into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{location}: damaged or unreadable: {error}; "
                        "copy or download it again") from None
