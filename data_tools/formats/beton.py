"""Writes and reads FFCV's .beton files, version 2, also those of FFCV's own writer.

    header         <HHIQQ  version, fields, page size, samples, pointer to the allocation table
    fields         1041 bytes each: type, 16-byte name, 1024 bytes of arguments
    metadata       one packed struct per sample
    pages          of page_size bytes, counted from the start of the file; no image crosses one
    allocations    <QQQ    sample, pointer, size; up to the end of the file

Layout: ffcv/types.py, reader.py and memory_managers of github.com/libffcv/ffcv, release 1.0.2.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.safe_reading.regular import open_binary
from data_tools.store import INDEX_DTYPE, JPEG, RAW, MappedStore

NAME = "train.beton"
VERSION = 2
HEADER = struct.Struct("<HHIQQ")
FIELD = struct.Struct("<B16s1024s")
ALLOCATION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
# An image's metadata is not aligned: 13 bytes.
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
JPEG_MODE, RAW_MODE = 0, 1
ROW = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
FLOAT_TYPE, INT_TYPE, IMAGE_TYPE = 0, 1, 2
# Metadata of each field type. Type 255, a user's own, does not give its size.
METADATA = {0: "<f8", 1: "<i8", 2: IMAGE, 3: "<u8,<u8", 4: "<u8", 5: "<u8,<u8", 6: "<u8"}
PAGE = 8 << 20
MIN_PAGE, MAX_PAGE = 2 << 20, 2 << 30


def front_bytes(capacity: int, page_size: int) -> int:
    """Bytes before the first image: the header and the metadata, up to a whole page."""
    head = HEADER.size + 2 * FIELD.size + capacity * ROW.itemsize
    return -(-head // page_size) * page_size


class BetonWriter:
    """Writes images into pages, one after another. Equal images are stored once.

        header, metadata | image image ... | image ... | allocation table
        0                page              page        page

    The place of an image follows from the sizes of the images before it. So after a kill, a new
    writer gets to the same state by calling `place` for the same sizes, without the bytes.

    capacity: the largest number of samples. The metadata is before the images, so its space is
    reserved in advance; unused space is zeros that no reader looks at. page_size: bytes, a power
    of two; no image may be larger.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = PAGE) -> None:
        if page_size & (page_size - 1) or not MIN_PAGE <= page_size <= MAX_PAGE:
            raise ValueError(f"page_size {page_size}: a power of two, {MIN_PAGE} to {MAX_PAGE}")
        self.page_size = page_size
        self._capacity = capacity
        self.end = front_bytes(capacity, page_size)
        """Offset behind the last image."""
        self.pointers = array("Q")
        """Offset of each sample's image."""
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=1 << 20)

    def place(self, size: int, same_as: int = -1) -> int:
        """Returns the offset of the next sample's image, of `size` bytes.

        same_as: the number of an earlier sample with the same bytes, whose place is shared.
        """
        number = len(self.pointers)
        # The reader finds an image's size by its offset. After an empty image, the next one would
        # have the same offset.
        if not 0 < size <= self.page_size or number == self._capacity:
            raise ValueError(f"an image of {size} bytes as number {number} of {self._capacity}")
        if same_as >= 0:
            pointer = self.pointers[same_as]
        else:
            pointer = self.end
            if pointer % self.page_size + size > self.page_size:
                pointer += -pointer % self.page_size
            self.end = pointer + size
        self.pointers.append(pointer)
        return pointer

    def append(self, data: bytes | memoryview, same_as: int = -1) -> None:
        """Places the next sample and writes its bytes."""
        end = self.end
        pointer = self.place(len(data), same_as)
        if same_as < 0:
            if pointer != end:
                self._file.write(bytes(pointer - end))
            self._file.write(data)

    def go_on(self) -> None:
        """Cuts the file behind the samples placed so far. The next image is written there."""
        self._file.truncate(self.end)
        self._file.seek(self.end)

    def flush(self) -> int:
        """Passes buffered bytes to the system; returns the file's descriptor, for os.fsync."""
        self._file.flush()
        return self._file.fileno()

    def finish(self, rows: Callable[[], Iterator[np.ndarray]]) -> None:
        """Writes the table, metadata and header, waits for the disk, and closes the file.

        rows(): blocks of INDEX_DTYPE rows of all samples, in order; called twice. Only size,
        height, width, label and kind are read.
        """
        samples = len(self.pointers)
        pointers = np.frombuffer(self.pointers, "<u8")
        table = self.end + -self.end % self.page_size
        self._file.truncate(table)
        self._file.seek(table)
        at = 0
        for block in rows():
            allocations = np.zeros(len(block), ALLOCATION)
            allocations["sample"] = np.arange(at, at + len(block))
            allocations["ptr"] = pointers[at : at + len(block)]
            allocations["size"] = block["size"]
            self._file.write(allocations.tobytes())
            at += len(block)
        self._file.seek(0)
        self._file.write(HEADER.pack(VERSION, 2, self.page_size, samples, table))
        self._file.write(FIELD.pack(IMAGE_TYPE, b"image", b""))
        self._file.write(FIELD.pack(INT_TYPE, b"label", b""))
        at = 0
        for block in rows():
            metadata = np.zeros(len(block), ROW)
            metadata["label"] = block["label"]
            metadata["image"]["mode"] = np.where(block["kind"] == RAW, RAW_MODE, JPEG_MODE)
            metadata["image"]["width"] = block["width"]
            metadata["image"]["height"] = block["height"]
            metadata["image"]["ptr"] = pointers[at : at + len(block)]
            self._file.write(metadata.tobytes())
            at += len(block)
        os.fsync(self.flush())
        self.close()

    def close(self) -> None:
        self._file.close()


def is_beton(path: Path) -> bool:
    """True for a file with the header of a beton, of any version up to 9, or with its suffix."""
    with open_binary(path) as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return path.suffix == ".beton"
    version, fields, page_size, _, _ = HEADER.unpack(head)
    power = page_size >= 1 << 10 and page_size & (page_size - 1) == 0
    return path.suffix == ".beton" or (version < 10 and 0 < fields < 256 and power)


def open_beton(path: Path) -> MappedStore:
    """Opens any beton, ours or FFCV's own, without reading pixels.

    Raises UserError if the file is damaged or truncated.
    """
    index, fingerprint = read_beton(path)
    return MappedStore(path, [path], index, [], fingerprint)


def rows_of(path: Path) -> np.ndarray:
    """A beton's index: INDEX_DTYPE [N]."""
    return read_beton(path)[0]


def read_beton(path: Path) -> tuple[np.ndarray, str]:
    """A beton's index, INDEX_DTYPE [N], and a fingerprint of the bytes that it was read from.

    Images are the field named "image", or else the first RGB field. Labels are the Int field named
    "label", or else the first one; without any, all labels are -1.
    """
    size = path.stat().st_size
    if size < HEADER.size:
        raise UserError(f"{path}: truncated: {size} bytes are no beton; copy or write it again")
    with open_binary(path) as file:
        head = file.read(HEADER.size)
        version, fields, _, samples, table = HEADER.unpack(head)
        if version != VERSION:
            raise UserError(f"{path}: not a beton of version {VERSION} (it says {version}); "
                            "prepare the images again")
        if table == 0:
            raise UserError(f"{path}: half-written: its writer was stopped; write it again")
        descriptions = file.read(min(fields * FIELD.size, size))
    if table > size or (size - table) % ALLOCATION.itemsize or len(descriptions) % FIELD.size:
        raise UserError(f"{path}: truncated: its image table is cut off; copy or write it again")
    metadata, image, label = parse_fields(path, descriptions)
    start = HEADER.size + len(descriptions)
    if samples == 0:
        raise UserError(f"{path}: holds no samples; write it again")
    if start + samples * metadata.itemsize > size:
        raise UserError(f"{path}: truncated: its metadata is cut off; copy or write it again")
    rows = np.fromfile(path, metadata, samples, offset=start)
    allocations = np.fromfile(path, ALLOCATION, offset=table)
    index = np.zeros(samples, INDEX_DTYPE)
    pictures = rows[image]
    index["offset"] = pictures["ptr"]
    index["kind"] = np.where(pictures["mode"] == RAW_MODE, RAW, JPEG)
    index["height"], index["width"] = pictures["height"], pictures["width"]
    index["label"] = rows[label] if label else -1
    index["size"] = sizes_at(path, pictures["ptr"], allocations)
    # Offset and size are compared before their sum: in a damaged file, the sum may wrap around.
    behind = (index["offset"] > size) | (index["size"] > size)
    if behind.any() or int((index["offset"] + index["size"]).max()) > size:
        raise UserError(f"{path}: truncated: images are behind its end; copy or write it again")
    pixels = 3 * index["height"].astype(np.uint64) * index["width"].astype(np.uint64)
    if ((index["kind"] == RAW) & (index["size"] != pixels)).any():
        raise UserError(f"{path}: damaged: raw images of the wrong size; copy or write it again")
    digest = hashlib.sha256(head + descriptions + size.to_bytes(8, "little"))
    digest.update(rows.tobytes())
    digest.update(allocations.tobytes())
    return index, digest.hexdigest()


def parse_fields(path: Path, descriptions: bytes) -> tuple[np.dtype, str, str]:
    """(dtype of the metadata, its field of the image, its field of the label or "")."""
    types: list[tuple[str, object]] = []
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for number, (kind, name, _) in enumerate(FIELD.iter_unpack(descriptions)):
        if kind not in METADATA:
            raise UserError(f"{path}: field {number} has an unknown type ({kind}), whose size "
                            "is not known; write it without that field")
        types.append((f"f{number}", METADATA[kind]))
        named = name.split(b"\0", 1)[0].decode("ascii", "replace")
        if kind == IMAGE_TYPE:
            images[named] = f"f{number}"
        elif kind == INT_TYPE:
            labels[named] = f"f{number}"
    if not images:
        raise UserError(f"{path}: has no RGB image field; fastmoco trains on images")
    image = images.get("image", next(iter(images.values())))
    label = labels.get("label", next(iter(labels.values()), ""))
    return np.dtype(types, align=True), image, label


def sizes_at(path: Path, pointers: np.ndarray, allocations: np.ndarray) -> np.ndarray:
    """The size of the allocation at each pointer: uint64 [N]."""
    order = np.argsort(allocations["ptr"], kind="stable")
    starts = allocations["ptr"][order]
    at = np.searchsorted(starts, pointers)
    if len(starts) == 0 or at.max() >= len(starts) or (starts[at] != pointers).any():
        raise UserError(f"{path}: truncated or damaged: its table lacks images; write it again")
    return allocations["size"][order][at]
