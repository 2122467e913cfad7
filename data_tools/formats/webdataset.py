"""WebDataset: a tar whose members, named KEY.EXTENSION, make a sample where they share the key.

Written as plain USTAR (POSIX.1-1988); read by formats/tar.py and formats/webdataset_samples.py.
DALI's index "v1.2": nvidia/dali's tools/wds2idx.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.scan import LARGEST, Scan
from data_tools.formats.tar import BLOCK, Walk
from data_tools.formats.webdataset_labels import label_samples, labels_as_written
from data_tools.formats.webdataset_samples import (
    LATER,
    Sample,
    Tally,
    begins_with_samples,
    samples_of,
    stem_of,
)
from data_tools.images.prepare_image import Prepared
from data_tools.images.sniff import ppm_header
from data_tools.progress import Tick
from data_tools.store import JPEG, RAW

SUFFIX = ".tar"
# Of the rule that makes samples: an index that was cached under another one is made again.
RULE = "2"


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
    after = (b"0" + bytes(100) + b"ustar\00000").ljust(356, b"\0")
    checksum = sum(before) + sum(after) + 8 * 32
    return before + b"%06o\0 " % checksum + after


def dali_index(rows: np.ndarray, numbers: np.ndarray) -> str:
    """DALI's index of one file of ours, from all its INDEX_DTYPE rows; what each holds, and where.

    numbers: int [N], of the images in the source.
    """
    lines = [f"v1.2 {len(rows)}\n"]
    names = ("offset", "size", "height", "width", "label", "kind")
    columns = [rows[name].tolist() for name in names]
    for i, offset, size, height, width, label, kind in zip(
        numbers.tolist(), *columns, strict=True
    ):
        raw = kind == RAW
        head = len(ppm_header(height, width)) if raw else 0
        offset, size = offset - head, size + head
        line = f"{'ppm' if raw else 'jpg'} {offset} {size} {member_name(i, raw)}"
        if label >= 0:
            at = offset + size + -size % BLOCK + BLOCK
            line += f" cls {at} {len(str(label))} {i:09d}.cls"
        lines.append(line + "\n")
    return "".join(lines)


def is_webdataset(path: Path) -> bool:
    """True for a plain tar that begins with samples; see `begins_with_samples`."""
    try:
        with Scan(path, unit="member") as scan:
            return begins_with_samples(Walk(scan.pread, 0, scan.size, path))
    except OSError:
        return False


class Shard(NamedTuple):
    """The images of one tar."""

    rows: np.ndarray
    """INDEX_DTYPE [N]."""
    classes: list[str]
    notes: list[str]
    """Lines for the user: what is unusual in it."""
    regrouped: bool
    """Older versions took other members for its images."""


def scan(path: Path, progress: Tick | None = None) -> tuple[np.ndarray, list[str]]:
    """The images of a WebDataset tar: INDEX_DTYPE [N], and the classes.

    Which members make a sample, and what its label is: see formats/webdataset_samples.py. Samples
    without an image are passed over. Raises UserError for a damaged or truncated file.
    """
    shard = read_shard(path, progress)
    return shard.rows, shard.classes


def read_shard(
    path: Path, progress: Tick | None = None, as_written: bool = False
) -> Shard:
    """Reads every header and image of a tar. as_written: keep numbers that prep wrote as labels,
    whatever their range."""
    # Labels are kept as numbers of their texts until all are known.
    texts: dict[str, int] = {}
    tally = Tally()
    regrouped = False
    with Scan(path, progress, "member") as scan:
        walk = Walk(scan.pread, 0, scan.size, path)
        try:
            for sample in samples_of(walk, tally):
                if sample.image is not None:
                    add_sample(scan, sample, texts)
                    regrouped = regrouped or chosen_anew(sample)
        except OSError as error:
            raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
        rows = scan.rows()
    codes = rows["label"].astype(np.int64)
    notes = tally.notes() + walk.notes()
    regrouped |= bool(tally.dotted or tally.links or tally.hidden_images or walk.joined)
    if as_written:
        rows["label"] = labels_as_written(codes, list(texts))
        return Shard(rows, [], notes, regrouped)
    labels, classes, said = label_samples(
        codes, list(texts), np.zeros(len(codes), np.int64), [stem_of(path.name)])
    rows["label"] = labels
    return Shard(rows, classes, notes + said, regrouped)


def add_sample(scan: Scan, sample: Sample, texts: dict[str, int]) -> None:
    """Appends the row of a sample with an image; its label is the number of its text."""
    assert sample.image is not None
    member = sample.image.member
    if member.size > LARGEST:
        raise UserError(f"{scan.path}: {member.name} holds {member.size:,} bytes, as no image "
                        "does; remove it")
    scan.reach(member.offset)
    text = sample.label(scan.pread)
    scan.add(scan.pread(member.size, member.offset), member.offset,
             texts.setdefault(text, len(texts)) if text else -1)


def chosen_anew(sample: Sample) -> bool:
    """True if older versions took another member for the image: the first plain one."""
    plain = (part for part in sample.images if "." not in part.extension)
    former = next(plain, sample.images[0])
    return former is not sample.image or former.extension.rpartition(".")[2] in LATER
