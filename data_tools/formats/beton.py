"""FFCV's .beton, version 2: written for the official reader, read by whatever wrote it.

    header         <HHIQQ  version, fields, page size, samples, pointer to the allocation table
    fields         1041 bytes each: type, 16-byte name, 1024 bytes of arguments
    metadata       one packed struct a sample
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
# Metadata of each field type; 255, a user's own type, tells no reader its size.
METADATA = {0: "<f8", 1: "<i8", 2: IMAGE, 3: "<u8,<u8", 4: "<u8", 5: "<u8,<u8", 6: "<u8"}
PAGE = 8 << 20
MIN_PAGE, MAX_PAGE = 2 << 20, 2 << 30


def front_bytes(capacity: int, page_size: int) -> int:
    """Bytes before the first image: the header and the metadata, up to a whole page."""
    head = HEADER.size + 2 * FIELD.size + capacity * ROW.itemsize
    return -(-head // page_size) * page_size


class BetonWriter:
    """Places images in pages, one after another; what is equal shares one place.

    Where an image goes follows from the sizes before it, so a writer is brought to any point by
    placing the same images again without their bytes, and a killed run goes on from there.
    capacity: the most samples that will come. Metadata lies before the images, so its room is
    reserved; what stays unused is zeros that no reader looks at.
    page_size: bytes, a power of two; also the largest image that fits.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = PAGE) -> None:
        if page_size & (page_size - 1) or not MIN_PAGE <= page_size <= MAX_PAGE:
            raise ValueError(f"page_size {page_size}: a power of two, {MIN_PAGE} to {MAX_PAGE}")
        self.page_size = page_size
        self._capacity = capacity
        self.end = front_bytes(capacity, page_size)
        """Where the last image ends: bytes from the start of the file."""
        self.pointers = array("Q")
        """Of each sample."""
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=1 << 20)

    def place(self, size: int, same_as: int = -1) -> int:
        """The place of the next sample, of so many bytes; that of an earlier one if it is equal."""
        number = len(self.pointers)
        # The reader finds an image's size by its pointer: two of size 0 would share one.
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
        """Drops what the file holds behind the samples placed so far, and writes on from there."""
        self._file.truncate(self.end)
        self._file.seek(self.end)

    def flush(self) -> int:
        """Hands all that was written to the system; returns the file, for os.fsync."""
        self._file.flush()
        return self._file.fileno()

    def finish(self, rows: Callable[[], Iterator[np.ndarray]]) -> None:
        """Completes the file, durably.

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
    """True for a file that begins as a beton does, of any version up to 9."""
    with open_binary(path) as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return path.suffix == ".beton"
    version, fields, page_size, _, _ = HEADER.unpack(head)
    power = page_size >= 1 << 10 and page_size & (page_size - 1) == 0
    return path.suffix == ".beton" or (version < 10 and 0 < fields < 256 and power)


def open_beton(path: Path) -> MappedStore:
    """Any beton as a Store, ours or FFCV's own. O(N) in samples; no pixels are read.

    Raises UserError for what is broken or cut off.
    """
    index, fingerprint = read_beton(path)
    return MappedStore(path, [path], index, [], fingerprint)


def rows_of(path: Path) -> np.ndarray:
    """A beton's own index: INDEX_DTYPE [N]."""
    return read_beton(path)[0]


def read_beton(path: Path) -> tuple[np.ndarray, str]:
    """A beton's index, and a fingerprint of all that it was read from.

    Images: the field named "image", else the first RGB field. Labels: the Int field named "label",
    else the first; without one all are -1.
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
            raise UserError(f"{path}: half-written: whatever wrote it was stopped; write it again")
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
    # One by one: a damaged file's numbers may be so large that their sum wraps around.
    behind = (index["offset"] > size) | (index["size"] > size)
    if behind.any() or int((index["offset"] + index["size"]).max()) > size:
        raise UserError(f"{path}: truncated: images lie behind its end; copy or write it again")
    pixels = 3 * index["height"].astype(np.uint64) * index["width"].astype(np.uint64)
    if ((index["kind"] == RAW) & (index["size"] != pixels)).any():
        raise UserError(f"{path}: damaged: raw images of the wrong size; copy or write it again")
    digest = hashlib.sha256(head + descriptions + size.to_bytes(8, "little"))
    digest.update(rows.tobytes())
    digest.update(allocations.tobytes())
    return index, digest.hexdigest()


def parse_fields(path: Path, descriptions: bytes) -> tuple[np.dtype, str, str]:
    """The metadata's dtype and the names, in it, of the image and the label ("": none)."""
    types: list[tuple[str, object]] = []
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for number, (kind, name, _) in enumerate(FIELD.iter_unpack(descriptions)):
        if kind not in METADATA:
            raise UserError(f"{path}: field {number} is of a type of its own ({kind}), whose size "
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
    """The size, uint64 [N], of the allocation that begins at each pointer."""
    order = np.argsort(allocations["ptr"], kind="stable")
    starts = allocations["ptr"][order]
    at = np.searchsorted(starts, pointers)
    if len(starts) == 0 or at.max() >= len(starts) or (starts[at] != pointers).any():
        raise UserError(f"{path}: truncated or damaged: its table lacks images; write it again")
    return allocations["size"][order][at]
