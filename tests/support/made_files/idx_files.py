"""IDX files of a few random digits, in the names that MNIST has."""

import gzip
import struct
from pathlib import Path

import numpy as np

N = 12
DIGITS = np.random.default_rng(0).integers(0, 256, (N, 9, 7), np.uint8)
LABELS = (np.arange(N) * 7 % 10).astype(np.uint8)


def pack(array: np.ndarray) -> bytes:
    code = {1: 8, 4: 12}[array.dtype.itemsize]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder: Path, files: dict[str, np.ndarray], packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in files.items():
        data = pack(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder
PAIR = {"train-images-idx3-ubyte": DIGITS, "train-labels-idx1-ubyte": LABELS}
TEST = {"t10k-images-idx3-ubyte": DIGITS[:5] // 2, "t10k-labels-idx1-ubyte": LABELS[:5]}
