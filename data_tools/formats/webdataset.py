"""Writes and reads WebDataset shards: tars in which members KEY.EXTENSION of one key are a sample.

The writer's tars are plain USTAR (POSIX.1-1988). tar.py and webdataset_samples.py read them.
Source of DALI's index "v1.2": nvidia/dali's tools/wds2idx.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.appended_file import AppendedFile
from data_tools.formats.scan import LARGEST, Scan
from data_tools.formats.tar import Walk
from data_tools.formats.tar_header import BLOCK
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
# Version of the rule that makes samples. Indexes that were cached under another are made again.
RULE = "2"


class Writer(AppendedFile):
    """Appends one sample per image: 000000012.jpg (.ppm if raw), and its label, 000000012.cls.

    The key is the image's number in the source. An image without a label has no .cls. Time, owner
    and mode are constants, so that the same images give the same bytes.
    """

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]:
        """Writes the next sample; returns (offset of the image's bytes or pixels, JPEG or RAW)."""
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
        self._file.write(bytes(2 * BLOCK))  # the end mark of a tar
        super().finish()


def member_name(i: int, raw: bool) -> str:
    """The name of image i. Digits only: a dot would start the extension, a blank break DALI's
    index."""
    return f"{i:09d}.{'ppm' if raw else 'jpg'}"


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a plain file. name: at most 100 bytes of ASCII. size: below 8 GiB."""
    before = name.encode("ascii").ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    before += b"%011o\0" % size + b"%011o\0" % 0
    after = (b"0" + bytes(100) + b"ustar\00000").ljust(356, b"\0")
    checksum = sum(before) + sum(after) + 8 * 32
    return before + b"%06o\0 " % checksum + after


def dali_index(rows: np.ndarray, numbers: np.ndarray) -> str:
    """DALI's index of one of our files: a line per sample, with offset and size of its members.

    rows: all INDEX_DTYPE rows of the file. numbers: int [N], the images' numbers in the source.
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
    """True for an uncompressed tar that starts with samples; see `begins_with_samples`."""
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
    """Lines for the user about anything unusual in it."""
    regrouped: bool
    """True if older versions of this program took other members for its images."""


def scan(path: Path, progress: Tick | None = None) -> tuple[np.ndarray, list[str]]:
    """The index of a WebDataset tar: INDEX_DTYPE [N], and the classes.

    webdataset_samples.py has the rules for samples and labels. Skips samples without an image.
    Raises UserError if the file is damaged or truncated.
    """
    shard = read_shard(path, progress)
    return shard.rows, shard.classes


def read_shard(
    path: Path, progress: Tick | None = None, as_written: bool = False
) -> Shard:
    """Reads every header and image of a tar.

    as_written: True for a shard that prep wrote, whose labels are final numbers of any range.
    """
    # Until all labels are known, a row's label is the number of its text.
    texts: dict[str, int] = {}
    tally = Tally()
    regrouped = False
    with Scan(path, progress, "member") as scan:
        walk = Walk(scan.pread, 0, scan.size, path)
        try:
            for sample in samples_of(walk, tally):
                if sample.image is not None:
                    add_sample(scan, sample, texts)
                    regrouped = regrouped or chosen_differently(sample)
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
    """Appends the index row of a sample with an image. Its label is the number of its text."""
    assert sample.image is not None
    member = sample.image.member
    if member.size > LARGEST:
        raise UserError(f"{scan.path}: {member.name} has {member.size:,} bytes, too many for an "
                        "image; remove it")
    scan.reach(member.offset)
    text = sample.label(scan.pread)
    scan.add(scan.pread(member.size, member.offset), member.offset,
             texts.setdefault(text, len(texts)) if text else -1)


def chosen_differently(sample: Sample) -> bool:
    """True if older versions took another image: the first one with a plain extension."""
    plain = (part for part in sample.images if "." not in part.extension)
    former = next(plain, sample.images[0])
    return former is not sample.image or former.extension.rpartition(".")[2] in LATER
