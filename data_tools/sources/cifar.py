"""CIFAR-10 and CIFAR-100, as Python pickles or binary records, in their archive or unpacked.

Layouts: www.cs.toronto.edu/~kriz/cifar.html. A pickle can run any code, so nothing in it is called.
Its arrays are read by stand-ins that only keep bytes, and everything else is refused.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.tar import Walk
from data_tools.safe_reading.bounded_pickle import BoundedPickle, PickleRefused
from data_tools.sources.archive import Archive, compression, head_of
from data_tools.sources.arrays import ArraySource
from data_tools.sources.keys import RowKeys

if TYPE_CHECKING:
    from data_tools.sources.location import Location

SIDE = 32
PIXELS = 3 * SIDE * SIDE
# The archives unpack to 190 MB; a file that unpacks to more than these is not CIFAR.
UNPACKED_BYTES, MEMBER_BYTES = 512 << 20, 256 << 20
# The first bytes of an archive, enough for its first headers.
PEEKED = 1 << 16
# Photographs shrink by a tenth when packed. A small file that shrank to a hundredth could fill the
# memory. A file may unpack to SMALL_BYTES plus SHRINKS times its size.
SMALL_BYTES, SHRINKS = 64 << 20, 20


class Layout(NamedTuple):
    """One of the four forms in which CIFAR is published."""

    name: str
    train: str
    """Pattern of the training files' names."""
    test: str
    """Pattern of the test files' names."""
    names: str
    """Name of the file with the class names."""
    label_bytes: int
    """Number of label bytes before each binary record's pixels, of which the last is the (fine)
    label. 0: the files are pickles."""
    classes: int


LAYOUTS = {
    "cifar-10-batches-py": Layout(
        "CIFAR-10 python", r"data_batch_\d+", "test_batch", "batches.meta", 0, 10),
    "cifar-10-batches-bin": Layout(
        "CIFAR-10 binary", r"data_batch_\d+\.bin", r"test_batch\.bin", "batches.meta.txt", 1, 10),
    "cifar-100-python": Layout("CIFAR-100 python", "train", "test", "meta", 0, 100),
    "cifar-100-binary": Layout(
        "CIFAR-100 binary", r"train\.bin", r"test\.bin", "fine_label_names.txt", 2, 100),
}


def recognises(location: Location) -> bool:
    """True for one of the four archives (.tar.gz or .tar), and for a folder unpacked from one."""
    try:
        return layout_of(location) is not None
    except (OSError, UserError, ValueError):
        return False


def open(location: Location, split: str = "train") -> ArraySource:
    """The images of one split, "train" or "test". Raises UserError for a damaged archive."""
    if split not in ("train", "test"):
        raise UserError(f"{location}: holds train and test, no {split}")
    try:
        layout = layout_of(location)
        if layout is None:
            raise UserError(f"{location}: no CIFAR-10 or CIFAR-100 archive or folder")
        pattern = layout.train if split == "train" else layout.test
        folder = location.is_dir()
        files = (read_folder if folder else read_tar)(location, layout, pattern)
        batches = sorted((n for n in files if n != layout.names), key=natural)
        if not batches:
            raise UserError(f"{location}: holds no {split} images of {layout.name}")
        parts = [read_batch(files.pop(name), layout) for name in batches]
        classes = read_names(files.get(layout.names), layout)
    except UserError:
        raise
    except Exception as error:  # damage may show in gzip, tar, pickle or numpy, each in its way
        raise UserError(f"{location}: damaged: {str(error) or type(error).__name__}; "
                        "copy or download it again") from None
    images = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    other = "test" if split == "train" else "train"
    notes = [f"holds {layout.name.split()[0]}'s {split} images; for the others give "
             f"{location.name}#{other}"]
    notes += [] if classes else ["no class names in it"]
    keys = RowKeys(batches, [len(part) for _, part in parts])
    kind = f"{layout.name} {'folder' if folder else 'archive'}, {split} split"
    return ArraySource(location.name, kind, images, labels, classes, keys, notes)


def layout_of(location: Location) -> Layout | None:
    """The layout of a folder, or of an archive by its first member; None for anything else."""
    if location.is_dir():
        names = set(location.names())
        for layout in LAYOUTS.values():
            found = [n for n in names if re.fullmatch(f"{layout.train}|{layout.test}", n)]
            # CIFAR-100's files are called "train" and "test", and so are many folders of images.
            known = layout.names in names or posixpath.basename(location.name) in LAYOUTS
            if found and known and all(location.child(name).is_file() for name in found):
                return layout
        return None
    packed = compression(location)
    head = head_of(location, PEEKED) if packed else b""
    pread = (lambda size, at: head[at : at + size]) if packed else location.pread
    end = 1 << 62 if packed else location.size()
    member = next(iter(Walk(pread, 0, end, location)), None)
    parts = [part for part in member.name.split("/") if part not in ("", ".")] if member else []
    return LAYOUTS.get(parts[0]) if parts else None


def read_tar(location: Location, layout: Layout, pattern: str) -> dict[str, bytes]:
    """The members that the layout names, by their base names."""
    files: dict[str, bytes] = {}
    archive = Archive(location)
    try:
        if archive.size > min(UNPACKED_BYTES, SMALL_BYTES + SHRINKS * location.size()):
            raise ValueError("it unpacks to more than a CIFAR holds")
        walk = archive.walk()
        for member in walk:
            name = posixpath.basename(member.name)
            if member.is_file and (name == layout.names or re.fullmatch(pattern, name)):
                if member.size > MEMBER_BYTES:
                    raise ValueError("a member larger than any file of CIFAR")
                files[name] = archive.pread(member.size, member.offset)
                if len(files[name]) < member.size:
                    raise ValueError("cut off")
        if not walk.ended:
            raise ValueError("cut off: its end mark is missing")
    finally:
        archive.close()
    return files


def read_folder(location: Location, layout: Layout, pattern: str) -> dict[str, bytes]:
    """The files that the layout names, by name."""
    files = {}
    for name in location.names():
        if name == layout.names or re.fullmatch(pattern, name):
            place = location.child(name)
            if place.size() > MEMBER_BYTES:
                raise UserError(f"{place}: larger than any file of CIFAR")
            files[name] = place.pread(place.size(), 0)
    return files


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts data_batch_10 after data_batch_9."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def read_batch(data: bytes, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """One file's images, uint8 [N, 32, 32, 3], and labels, int64 [N]. Raises ValueError."""
    if layout.label_bytes:
        row = layout.label_bytes + PIXELS
        if not data or len(data) % row:
            raise ValueError(f"a file's length is no multiple of {row}")
        records = np.frombuffer(data, np.uint8).reshape(-1, row)
        planes, labels = records[:, layout.label_bytes :], records[:, layout.label_bytes - 1]
    else:
        batch = read_pickle(data)
        planes = pixels_of(batch.get("data"))
        labels = labels_of(batch.get("fine_labels", batch.get("labels")))
    labels = labels.astype(np.int64)
    if len(labels) != len(planes):
        raise ValueError(f"{len(planes)} images but {len(labels)} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < layout.classes:
        raise ValueError("a label that is none of the classes")
    images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def read_names(data: bytes | None, layout: Layout) -> list[str]:
    """The class names in a file's bytes; empty if there is no file. Raises ValueError."""
    if data is None:
        return []
    if layout.label_bytes:
        names: Any = data.decode().split("\n")
        names = [name.strip() for name in names if name.strip()]
    else:
        meta = read_pickle(data)
        names = meta.get("fine_label_names", meta.get("label_names"))
        if not isinstance(names, list):
            raise ValueError("no list of class names")
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    if len(names) != layout.classes:
        raise ValueError(f"{len(names)} class names where {layout.classes} must be")
    return names


class Array:
    """Placeholder for a numpy array in a pickle. It keeps the bytes until values() reads them."""

    def __init__(self, data: object = b"", dtype: object = None, shape: object = ()) -> None:
        self.data, self.dtype, self.shape = data, dtype, shape

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, self.data = state
        if fortran:
            raise ValueError("an array in an order that CIFAR doesn't use")

    def values(self) -> np.ndarray:
        """The array, uint8 or integers, in the shape that the pickle gives. Raises ValueError."""
        name = self.dtype.name if isinstance(self.dtype, Dtype) else ""
        if name not in ("u1", "i8", "i4") or not isinstance(self.data, (bytes, bytearray)):
            raise ValueError("an array that is not of plain numbers")
        if not isinstance(self.shape, tuple) or not all(type(n) is int for n in self.shape):
            raise ValueError("an array without a shape")
        dtype = np.uint8 if name == "u1" else np.dtype(f"<{name}")
        return np.frombuffer(self.data, dtype).reshape(self.shape)


class Dtype:
    """Placeholder for a numpy dtype: its name. The archives are little-endian."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            raise ValueError("big-endian numbers")


def rebuild(*_: object) -> Array:
    return Array()


def from_buffer(data: object, dtype: object, shape: object, *_: object) -> Array:
    return Array(data, dtype, shape)


def to_bytes(text: str, *_: object) -> bytes:
    """Stand-in for _codecs.encode: protocol 2 writes bytes as text to be encoded as Latin-1."""
    return text.encode("latin1")


# numpy's own module has one name before release 2.0 and another since.
STAND_INS: dict[tuple[str, str], Any] = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype,
                                         ("_codecs", "encode"): to_bytes}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_core}.multiarray", "_reconstruct"] = rebuild
    STAND_INS[f"{_core}.numeric", "_frombuffer"] = from_buffer


class Reader(BoundedPickle):
    """Reads containers, numbers, text, and arrays as stand-ins. It refuses any other name."""

    def find(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise PickleRefused(f"its pickle asks for {module}.{name}, which is not read")
        return STAND_INS[module, name]

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        if not any(function is known for known in STAND_INS.values()):
            return super().call(function, args)
        if function is to_bytes:  # it copies its argument, so the copy counts too
            self.spend(characters=len(args[0]))
        return function(*args)

    def build(self, value: Any, state: Any) -> None:
        if not isinstance(value, (Array, Dtype)):
            super().build(value, state)
        value.__setstate__(state)


def read_pickle(data: bytes) -> dict[str, Any]:
    """The dictionary in a pickle, with text as keys. Raises ValueError."""
    found = Reader(data).load()
    if not isinstance(found, dict):
        raise ValueError("a pickle that holds no dictionary")
    return {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in found.items()}


def pixels_of(value: object) -> np.ndarray:
    """A batch's pixels, uint8 [N, 3072], one colour plane after another. Raises ValueError."""
    pixels = value.values() if isinstance(value, Array) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise ValueError(f"no array of images of {PIXELS} bytes")
    return pixels


def labels_of(value: object) -> np.ndarray:
    """A batch's labels, int64 [N]. Raises ValueError."""
    if isinstance(value, Array):
        value = value.values().tolist()
    if not isinstance(value, list) or not all(type(label) is int for label in value):
        raise ValueError("no list of labels")
    return np.array(value, np.int64)
