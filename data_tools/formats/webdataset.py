"""WebDataset: a tar whose members, named KEY.EXTENSION, make a sample where they share the key.

Written as plain USTAR (POSIX.1-1988), read with the extensions of pax and GNU tar too. DALI's index
"v1.2": nvidia/dali's tools/wds2idx.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data_tools.formats.pictures import ppm_header
from data_tools.image import Prepared
from data_tools.store import JPEG, RAW, SPLIT

SUFFIX = ".tar"
BLOCK = 512


class Writer:
    """Appends a sample an image: 000000012.jpg (or .ppm, raw), and 000000012.cls, its label.

    The key is the image's number in the source; one without a label has no .cls. Time, owner and
    mode are constants. A full disk is an OSError, here and in finish().
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=1 << 20)
        self._end = 0

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next sample; -> (where the image's bytes or pixels begin, JPEG or RAW)."""
        ppm = ppm_header(image.height, image.width) if image.raw else b""
        offset = self._end + BLOCK + len(ppm)
        self._member(member_name(i, image.raw), ppm, image.data)
        if label >= 0:
            self._member(f"{i:09d}.cls", b"", b"%d" % label)
        return offset, RAW if image.raw else JPEG

    def _member(self, name: str, head: bytes, data: bytes) -> None:
        size = len(head) + len(data)
        self._file.write(tar_header(name, size) + head)
        self._file.write(data)
        self._file.write(bytes(-size % BLOCK))
        self._end += BLOCK + size + -size % BLOCK

    def finish(self) -> None:
        """Makes the file whole and durable."""
        self._file.write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


def member_name(i: int, raw: bool) -> str:
    # Digits only: a dot would move the extension, and a blank breaks DALI's index.
    return f"{i:09d}.{'ppm' if raw else 'jpg'}"


def tar_header(name: str, size: int) -> bytes:
    """One USTAR header of a regular file; size below 8 GiB."""
    before = name.encode("ascii").ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    before += b"%011o\0" % size + b"%011o\0" % 0
    after = (b"0" + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2).ljust(356, b"\0")
    checksum = sum(before) + sum(after) + 8 * 32
    return before + b"%06o\0 " % checksum + after


def dali_index(rows: np.ndarray, numbers: np.ndarray) -> str:
    """DALI's index of one file of ours, from all its INDEX_DTYPE rows; what each holds, and where.

    numbers: int [N], of the images in the source.
    """
    lines = [f"v1.2 {len(rows)}\n"]
    for row, i in zip(rows, numbers.tolist(), strict=True):
        raw, label = row["kind"] & ~SPLIT == RAW, int(row["label"])
        head = len(ppm_header(int(row["height"]), int(row["width"]))) if raw else 0
        offset, size = int(row["offset"]) - head, int(row["size"]) + head
        line = f"{'ppm' if raw else 'jpg'} {offset} {size} {member_name(i, raw)}"
        if label >= 0:
            at = offset + size + -size % BLOCK + BLOCK
            line += f" cls {at} {len(str(label))} {i:09d}.cls"
        lines.append(line + "\n")
    return "".join(lines)
