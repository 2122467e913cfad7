"""WebDataset: a tar whose members, named KEY.EXTENSION, make a sample where they share the key.

Written as plain USTAR (POSIX.1-1988), read with the extensions of pax and GNU tar too. DALI's index
"v1.2": nvidia/dali's tools/wds2idx.py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats.pictures import ppm_header
from data_tools.formats.scanning import Progress, Scan
from data_tools.image import Prepared
from data_tools.store import JPEG, RAW

SUFFIX = ".tar"
BLOCK = 512
OURS = re.compile(r"\d{9,}\.(jpg|ppm)")
IMAGES = frozenset(("jpg", "jpeg", "jpe", "png", "webp", "ppm", "bmp", "gif", "tif", "tiff", "jp2",
                    "avif"))
NUMBER = re.compile(r"-?\d{1,19}")
# Bytes; of a label file too: what is longer tells something else.
LONGEST_LABEL = 1 << 20
# A record "length key=value\n" of a pax header.
PAX = re.compile(rb"\d+ ([^=\n]+)=([^\n]*)\n")


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
    """True for a plain tar that begins with a sample: an image, and beside it what shares its key.

    An image alone is one only where it is named as ours are: other tars of images are folders.
    """
    try:
        with Scan(path, unit="member") as scan:
            before: dict[str, bool] = {}  # of a key: whether one of its members is an image
            for name, _, _ in itertools.islice(members(scan), 64):
                key, extension = split_name(name)
                image = is_image(extension)
                if before.get(key, image) != image or OURS.fullmatch(name):
                    return True
                before[key] = image
    except (UserError, OSError):
        pass
    return False


def scan(path: Path, progress: Progress | None = None) -> tuple[np.ndarray, list[str]]:
    """The images of a WebDataset tar: INDEX_DTYPE [N], and the classes, if labels are names.

    Members one after another that share a key are a sample; its image is the member whose whole
    extension says so, or else the first whose last part does. The label is what .cls holds, or else
    "label", "class", "cls" or "target" in .json: a number, or a name, numbered by the alphabet.
    Samples without an image are passed over. Raises UserError for what is damaged or truncated.
    """
    # Labels are kept as numbers of their texts until all are known.
    texts: dict[str, int] = {}
    with Scan(path, progress, "member") as scan:
        sample = Sample()
        for name, offset, size in members(scan):
            key, extension = split_name(name)
            if not extension:
                continue
            if key != sample.key or extension in sample.extensions:
                sample.hand_in(scan, texts)
                sample = Sample(key)
            sample.extensions.add(extension)
            if is_image(extension):
                sample.offer(extension, scan.take(size), offset)
            elif extension in ("cls", "json") and size <= LONGEST_LABEL:
                sample.labels[extension] = scan.take(size)
        sample.hand_in(scan, texts)
        rows = scan.rows()
    return rows, name_labels(rows, texts)


class Sample:
    """What is known of the sample that is being read."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.extensions: set[str] = set()
        self.labels: dict[str, bytes] = {}
        self.image: tuple[bytes, int] | None = None
        self._plain = False

    def offer(self, extension: str, data: bytes, offset: int) -> None:
        plain = "." not in extension
        if self.image is None or (plain and not self._plain):
            self.image, self._plain = (data, offset), plain

    def hand_in(self, scan: Scan, texts: dict[str, int]) -> None:
        if self.image is None:
            return
        text = ""
        if "cls" in self.labels:
            text = self.labels["cls"].decode("utf-8", "replace").strip()
        elif "json" in self.labels:
            text = json_label(self.labels["json"])
        scan.add(*self.image, texts.setdefault(text, len(texts)) if text else -1)


def json_label(data: bytes) -> str:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if isinstance(entries, dict):
        for name in ("label", "class", "cls", "target"):
            value = entries.get(name)
            if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
                return str(value).strip()
    return ""


def name_labels(rows: np.ndarray, texts: dict[str, int]) -> list[str]:
    """Turns labels that are numbers of texts into what the texts say, in place; -> the classes."""
    labelled = rows["label"] >= 0
    numbers = np.full(len(texts), -1, np.int64)
    classes = []
    if all(NUMBER.fullmatch(text) for text in texts):
        for text, number in texts.items():
            numbers[number] = int(text) if 0 <= int(text) < 1 << 63 else -1
    else:
        classes = sorted(texts)
        numbers[[texts[text] for text in classes]] = np.arange(len(classes))
    rows["label"][labelled] = numbers[rows["label"][labelled]]
    return classes


def split_name(name: str) -> tuple[str, str]:
    """A member's key and extension, split at the first dot behind the last '/'.

    The extension is empty for what is passed over: hidden files, and those without one.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower() if stem else ""


def is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in IMAGES


def members(scan: Scan) -> Iterator[tuple[str, int, int]]:
    """The regular files of a tar: name, where the bytes begin, how many.

    Who asks for the next one may have taken the bytes or not. Links and devices are passed over.
    """
    name, size = "", -1  # what an extension header says of the next member
    while scan.begin():
        header = scan.take(BLOCK)
        if not any(header):
            return  # the end of the archive
        if number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise scan.damaged("no tar header")
        kind = header[156:157]
        # Links and devices have no bytes, whatever their size says.
        size = 0 if kind in b"123456" else number(header[124:136]) if size < 0 else size
        if size < 0:
            raise scan.damaged("a tar header without a size")
        end = scan.position + size
        if kind in b"LKxg":
            if size > LONGEST_LABEL:
                raise scan.damaged(f"a tar header's extension of {size} bytes")
            body = scan.take(size)
            size = -1
            if kind == b"L":
                name = plain(body)
            elif kind == b"x":
                records = dict(PAX.findall(body))
                name = plain(records.get(b"path", name.encode("utf-8", "surrogateescape")))
                if records.get(b"size", b"").isdigit() and len(records[b"size"]) < 20:
                    size = int(records[b"size"])
                if any(key.startswith(b"GNU.sparse") for key in records):
                    raise scan.damaged("a sparse member; pack it without --sparse")
        else:
            if not name:
                name = plain(header[:100])
                # Only POSIX headers have a prefix; GNU's old magic has times in its place.
                if header[257:263] == b"ustar\0" and header[345]:
                    name = f"{plain(header[345:500])}/{name}"
            if kind in b"0\0007" and not name.endswith("/"):
                yield name, scan.position, size
            name, size = "", -1
        scan.skip(end - scan.position)
        scan.skip(min(-end % BLOCK, scan.size - end))


def plain(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """A number of a tar header: octal digits, or GNU's base 256; -1 for what is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else -1
