"""CIFAR archives of a few random images, as Python pickles and as binary records."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROWS = 7
NAMES = {10: [f"thing {i}" for i in range(10)], 100: [f"fine {i}" for i in range(100)]}


def rows(seed: int, classes: int) -> tuple[np.ndarray, list[int]]:
    """uint8 [ROWS, 3072] and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (ROWS, 3072), np.uint8), rng.integers(0, classes, ROWS).tolist()


def python2(batch: dict[str, object]) -> bytes:
    """The batch as Python 2 wrote it: protocol 2, text and array bytes as byte strings."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")

    def string(value: bytes) -> None:
        out.write(b"T" + len(value).to_bytes(4, "little") + value)

    for key, value in batch.items():
        string(key.encode())
        if isinstance(value, np.ndarray):
            out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85")
            string(b"b")
            out.write(b"\x87R(K\x01")
            out.write(b"".join(b"M" + n.to_bytes(2, "little") for n in value.shape) + b"\x86")
            out.write(b"cnumpy\ndtype\n")
            string(b"u1")
            out.write(b"K\x00K\x01\x87R(K\x03")
            string(b"|")
            out.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
            string(value.tobytes())
            out.write(b"tb")
        elif isinstance(value, list):
            out.write(b"](")
            for item in value:
                string(item.encode()) if isinstance(item, str) else out.write(b"K" + bytes([item]))
            out.write(b"e")
    return out.getvalue() + b"u."


def layout_files(folder: str, dump: Callable[[dict], bytes]) -> dict[str, bytes]:
    classes = 100 if "100" in folder else 10
    key = "fine_labels" if classes == 100 else "labels"
    if classes == 10:
        suffix = ".bin" if folder.endswith("bin") else ""
        batches = [f"data_batch_{i}{suffix}" for i in (1, 2, 10)] + [f"test_batch{suffix}"]
    else:
        batches = ["train.bin", "test.bin"] if folder.endswith("binary") else ["train", "test"]
    files = {}
    for seed, name in enumerate(batches):
        data, labels = rows(seed, classes)
        if name.endswith(".bin"):
            coarse = np.zeros((ROWS, classes // 100), np.uint8)
            fine = np.array(labels, np.uint8)[:, None]
            files[name] = np.hstack([coarse, fine, data]).tobytes()
        else:
            files[name] = dump({"data": data, key: labels, "coarse_labels": [0] * ROWS})
    if folder.endswith(("bin", "binary")):
        name = "batches.meta.txt" if classes == 10 else "fine_label_names.txt"
        files[name] = ("\n".join(NAMES[classes]) + "\n\n").encode()
    else:
        names = "label_names" if classes == 10 else "fine_label_names"
        files["batches.meta" if classes == 10 else "meta"] = dump({names: NAMES[classes]})
    return files


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def pack(folder: Path) -> Path:
    path = folder.parent / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path
