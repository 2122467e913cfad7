"""Checks that a dataset is whole: its structure, its checksums, and that every image decodes.

It takes prepared datasets and files that others wrote. Every problem names its image and says what
to do about it.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats import webdataset
from data_tools.formats.registry import TABLE, format_of
from data_tools.images import codec
from data_tools.images.codec import quiet_pillow
from data_tools.images.prepare_image import BadImage, sniff_jpeg
from data_tools.machine import cores
from data_tools.manifest import MANIFEST, UNFINISHED, Manifest, read_manifest
from data_tools.open import datasets_in, open_foreign, open_store
from data_tools.progress import Tick
from data_tools.safe_reading.regular import special_kind
from data_tools.store import INDEX, JPEG, RAW, MappedStore

# Number of problems that are reported in words. The others are only counted.
MOST = 20
# Number of images that a thread checks per task.
CHUNK = 64
# Columns in which the index and the data file must agree.
SHARED_COLUMNS = ("offset", "size", "height", "width", "label", "kind")
READ = 1 << 20


@dataclass
class Report:
    """Result of verify for one dataset or file."""

    path: str
    format: str = ""
    samples: int = 0
    looked_at: int = 0
    """Number of images that were checked and decoded."""
    found: int = 0
    """Number of problems."""
    problems: list[str] = field(default_factory=list)
    """The first MOST problems, in words."""
    warnings: list[str] = field(default_factory=list)
    """Things that are valid but possibly unexpected."""

    def add(self, problem: str) -> None:
        self.found += 1
        if len(self.problems) < MOST:
            self.problems.append(problem)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if self.found:
            return f"damaged: {self.found:,} problem{'s' if self.found > 1 else ''}"
        if self.looked_at < self.samples:
            return (f"whole as far as it was checked: the structure, and {self.looked_at:,} of "
                    f"{self.samples:,} images")
        return f"whole: all {self.samples:,} images have their checksum and decode"


def verify(
    path: str | os.PathLike[str],
    quick: int = 0,
    workers: int = 0,
    progress: Tick | None = None,
) -> list[Report]:
    """Checks a prepared dataset (one report per format in it), or a file of one format.

    quick: number of images to decode, evenly spread, without parsing whole files; 0: check all.
    progress(done, total) is called with the number of images checked so far. Raises UserError if
    the path is no dataset at all; damage is no exception, but is in the report.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if kind := special_kind(path):
        raise UserError(f"{path}: {kind}; give a prepared dataset, or a file in one of its formats")
    if path.is_file():
        return [verify_file(path, quick, workers, progress)]
    folders = datasets_in(path)
    if not folders and (path / UNFINISHED).exists():
        report = Report(str(path))
        report.add("preparation was stopped before its end; run the same prep again: it goes on")
        return [report]
    if not folders:
        raise UserError(f"{path}: no prepared dataset (no {MANIFEST}); give one, or a beton, "
                        "TFRecord, RecordIO or WebDataset file")
    return [verify_dataset(folder, quick, workers, progress) for folder in folders]


def verify_dataset(folder: Path, quick: int, workers: int, progress: Tick | None) -> Report:
    report = Report(str(folder))
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        report.add(str(error))
        return report
    report.format, report.samples = manifest.format, manifest.samples
    check_files(folder, manifest, report)
    try:
        store = open_store(folder)
        rows = np.load(folder / INDEX, mmap_mode="r")
    except (UserError, ValueError, OSError) as error:
        if not report.found:
            report.add(str(error))
        return report
    try:
        store.key(0)
    except UserError as error:
        report.add(str(error).removeprefix(f"{folder}{os.sep}"))
        return report
    check_places(store, rows, report)
    if manifest.format == "beton" or not quick:
        check_structure(store, rows, manifest, report)
    check_images(store, rows["crc"], quick, workers, report, progress)
    return report


def verify_file(path: Path, quick: int, workers: int, progress: Tick | None) -> Report:
    report = Report(str(path), format_of(path) or "")
    try:
        store = open_foreign(path)
    except UserError as error:
        if not report.format:
            raise
        report.add(str(error).removeprefix(f"{path}: "))
        return report
    report.samples = len(store)
    if report.format == "webdataset" and not quick:
        report.warnings += webdataset.read_shard(path).notes
    check_images(store, None, quick, workers, report, progress)
    return report


def check_files(folder: Path, manifest: Manifest, report: Report) -> None:
    """Checks that every file exists with its size, and small files with their checksum."""
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            report.add(f"{name}: missing")
        elif path.stat().st_size != record.bytes:
            size = path.stat().st_size
            cut = "truncated" if size < record.bytes else "changed"
            report.add(f"{name}: {cut}: {size:,} bytes, not {record.bytes:,}")
        elif record.sha256 and sha256(path) != record.sha256:
            report.add(f"{name}: changed since it was prepared (its checksum differs)")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(READ):
            digest.update(block)
    return digest.hexdigest()


def check_places(store: MappedStore, rows: np.ndarray, report: Report) -> None:
    """Checks that no two images overlap. Duplicates share one place, which is allowed."""
    order = np.lexsort((rows["offset"], rows["file"]))
    file, start = rows["file"][order], rows["offset"][order].astype(np.int64)
    end = start + rows["size"][order].astype(np.int64)
    same_file = file[1:] == file[:-1]
    shared = (start[1:] == start[:-1]) & (end[1:] == end[:-1])
    bad = np.flatnonzero(same_file & ~shared & (start[1:] < end[:-1]))
    for at in order[1:][bad]:
        report.add(f"{INDEX}: {store.key(int(at))} overlaps another image")


def check_structure(
    store: MappedStore, rows: np.ndarray, manifest: Manifest, report: Report
) -> None:
    """Checks that the index agrees with the data files, parsed by their format's own rules.

    Only columns that a format holds are compared: betons hold no checksums, and RecordIO holds no
    height and width but those in the image itself.
    """
    for number, path in enumerate(store.data):
        mine = np.flatnonzero(rows["file"] == number)
        ours = rows[mine]
        try:
            theirs = TABLE[manifest.format].reread(path)
        except UserError as error:
            report.add(str(error).removeprefix(f"{store.path}{os.sep}"))
            continue
        if len(theirs) != len(ours):
            report.add(f"{path.name}: holds {len(theirs):,} images, not {len(ours):,}")
            continue
        for column in SHARED_COLUMNS:
            for at in np.flatnonzero(theirs[column] != ours[column]):
                there, here = theirs[column][at], ours[column][at]
                report.add(f"{path.name}: {store.key(int(mine[at]))}: the file's {column} is "
                           f"{there}, the index says {here}")


def check_images(
    store: MappedStore,
    crcs: np.ndarray | None,
    quick: int,
    workers: int,
    report: Report,
    progress: Tick | None,
) -> None:
    """Checks checksums and pixels, in threads. crcs: CRC-32 of each image's bytes, if known."""
    ids = chosen(len(store), quick)
    chunks = [ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK)]
    turned = foreign_cmyk = 0

    def look(chunk: np.ndarray) -> list[tuple[str, str]]:
        return [look_at(store, int(i), None if crcs is None else int(crcs[i])) for i in chunk]

    with quiet_pillow(), ThreadPoolExecutor(workers or cores()) as pool:
        for chunk, results in zip(chunks, in_order(pool, look, chunks), strict=True):
            for i, (problem, remark) in zip(chunk, results, strict=True):
                if problem:
                    report.add(f"{store.key(int(i))} (number {i}): {problem}")
                turned += remark == "turned"
                foreign_cmyk += remark == "CMYK"
            report.looked_at += len(chunk)
            if progress is not None:
                progress(report.looked_at, len(ids))
    if turned:
        report.warnings.append(f"{turned:,} images are turned only by EXIF, which loaders ignore; "
                               "prep turns them upright")
    if foreign_cmyk:
        report.warnings.append(f"{foreign_cmyk:,} images are CMYK JPEGs, which FFCV decodes to "
                               "wrong colours without an error; prep converts them")


def in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[np.ndarray], list[tuple[str, str]]],
    chunks: Sequence[np.ndarray],
) -> Iterator[list[tuple[str, str]]]:
    """pool.map in steps, so that results never pile up far ahead of the consumer."""
    ahead = 4 * (os.cpu_count() or 1)
    for at in range(0, len(chunks), ahead):
        yield from pool.map(work, chunks[at : at + ahead])


def chosen(samples: int, quick: int) -> np.ndarray:
    """Numbers of the images to check: all, or `quick` of them, evenly spaced."""
    if not quick or quick >= samples:
        return np.arange(samples)
    return np.unique(np.linspace(0, samples - 1, quick).round().astype(np.int64))


def look_at(store: MappedStore, i: int, crc: int | None) -> tuple[str, str]:
    """Checks image i. Returns (problem, remark); each is empty if there is none."""
    data = store.encoded(i)
    if crc is not None and zlib.crc32(data.data) != crc:
        return "its bytes have changed since it was prepared (checksum)", ""
    height, width = store.sizes[i].tolist()
    if store.kinds[i] == RAW:
        wrong = len(data) != height * width * 3
        return f"{len(data):,} bytes are not {width} x {height} pixels" if wrong else "", ""
    content = data.tobytes()
    try:
        if store.kinds[i] != JPEG:
            with codec.open_image(content) as image:
                size = image.size[::-1]
                codec.decode(image, image.size)
            return differs(size, (height, width)), ""
        header = sniff_jpeg(content, whole=True)
        codec.check_jpeg(content, "CMYK" if header.components == 4 else "RGB")
    except BadImage as error:
        return str(error), ""
    remark = "CMYK" if header.components == 4 else "turned" if header.orientation != 1 else ""
    return differs((header.height, header.width), (height, width)), remark


def differs(own: tuple[int, int], noted: tuple[int, int]) -> str:
    """The problem if an image's own (height, width) differs from the noted one; else empty."""
    if own == noted:
        return ""
    return (f"is {own[1]} x {own[0]} pixels, but the file says {noted[1]} x {noted[0]}: FFCV would "
            "decode it into the wrong place")
