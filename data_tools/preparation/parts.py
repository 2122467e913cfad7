"""The parts of a dataset: ranges of the source, each prepared by itself; a bad image goes into its
part's quarantine.

Parts are prepared anywhere, in any order.

The parts depend on the source alone, and the files of a part on that part alone. So a killed run, a
job array and a cluster all write the same bytes, and a kill loses one part's work at most.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data_tools.errors import UserError
from data_tools.files import partial_name
from data_tools.formats.registry import SHARDED, TABLE, Writer, part_file
from data_tools.images.prepare_image import BadImage
from data_tools.policy import Policy
from data_tools.preparation.image_notes import ImageNotes
from data_tools.preparation.journal import SAMPLE, Journal, Record
from data_tools.preparation.workers import Done
from data_tools.quantities import human
from data_tools.sources.source import Source
from data_tools.store import JPEG, RAW

# Most images of a part: of tiny images a part of PART_BYTES would need much memory for its rows.
PART_IMAGES = 1 << 15
# The number in a file's name has five digits.
MOST_PARTS = 100_000


class Part(NamedTuple):
    """The images from start to stop (exclusive) of the source."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """Everything that determines the bytes of a dataset, in addition to the source's own bytes."""

    fingerprint: str
    """The source's fingerprint."""
    policy: Policy
    formats: tuple[str, ...]
    part_bytes: int
    """Approximate number of source bytes in a part."""
    page_size: int
    """Bytes of a beton's page; also the most bytes that an image may take, in every format."""

    def header(self) -> dict[str, Any]:
        """The job as JSON values. A journal belongs to a job if its header holds the same."""
        return {**asdict(self), "policy": self.policy.decisive(), "formats": list(self.formats)}

    def folder(self, out: Path, name: str) -> Path:
        """The folder of the dataset in one format: `out` itself if that is the only format."""
        return out if len(self.formats) == 1 else out / name


def plan_parts(sizes: Sequence[int] | np.ndarray, part_bytes: int) -> list[Part]:
    """Cuts a source of images of these sizes into parts of about part_bytes."""
    ends = np.cumsum(np.asarray(sizes, np.int64))
    parts: list[Part] = []
    start = done = 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, done + part_bytes, side="right"))
        stop = min(max(stop, start + 1), start + PART_IMAGES)
        parts.append(Part(len(parts), start, stop))
        start, done = stop, int(ends[stop - 1])
    if len(parts) > MOST_PARTS:
        raise UserError(f"{len(parts):,} parts of {human(part_bytes)}: at most {MOST_PARTS:,}; "
                        "give a larger --shard-size")
    return parts


class PartWriter:
    """Writes one part: its files in the sharded formats, and its record.

    spool: also keep the images in a file for the beton, which is assembled after all parts are
    done.
    """

    def __init__(self, job: Job, out: Path, journal: Journal, part: Part, spool: bool) -> None:
        self.part = part
        self._journal = journal
        self._writers: dict[str, Writer] = {}
        self._paths: dict[str, tuple[Path, Path]] = {}
        self._rows: list[tuple[int, int, int, int, int, int, bytes]] = []
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._quarantine: list[tuple[int, str]] = []
        self._unreadable: list[int] = []
        self._reencoded: Counter[str] = Counter()
        self._notes = ImageNotes()
        self._spool: BinaryIO | None = None
        for name in job.formats:
            if name in SHARDED:
                form = TABLE[name]
                assert form.writer is not None
                path = job.folder(out, name) / part_file(name, part.number)
                self._paths[name] = partial_name(path), path
                self._writers[name] = form.writer(self._paths[name][0])
                self._places[name] = []
        if spool and "beton" in job.formats:
            self._paths["spool"] = partial_name(journal.spool(part.number)), journal.spool(
                part.number)
            self._spool = open(self._paths["spool"][0], "wb")

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, done: Done, label: int) -> None:
        """Adds the next image of the part. A bad one goes into the quarantine."""
        result = done.result
        if isinstance(result, BadImage):
            self._quarantine.append((done.i, str(result)))
            if done.unreadable:
                self._unreadable.append(done.i)
            return
        kind = RAW if result.raw else JPEG
        for name, writer in self._writers.items():
            self._places[name].append(writer.append(done.i, result, label))
        if self._spool is not None:
            self._spool.write(result.data)
        if result.reason:
            self._reencoded[result.reason] += 1
        self._notes.add(result)
        size = len(result.data)
        self._rows.append(
            (done.i, size, result.height, result.width, done.crc, kind, done.digest)
        )

    def finish(self, beton_end: int = -1) -> Record:
        """Makes the part's files whole and durable, then writes its record.

        The order matters: from the moment that the record exists, the part counts as done.
        """
        for writer in self._writers.values():
            writer.finish()
        if self._spool is not None:
            self._spool.flush()
            os.fsync(self._spool.fileno())
            self._spool.close()
        for partial, path in self._paths.values():
            if self._rows:
                os.replace(partial, path)
            else:  # no images: other libraries' readers fail on empty files
                partial.unlink()
                path.unlink(missing_ok=True)
        record = Record(
            number=self.part.number,
            samples=np.array(self._rows, SAMPLE),
            places={name: np.array(places, np.int64).reshape(-1, 2)
                    for name, places in self._places.items()},
            quarantine=self._quarantine,
            unreadable=self._unreadable,
            reencoded=dict(sorted(self._reencoded.items())),
            notes=self._notes,
            beton_end=beton_end,
            file_bytes={name: path.stat().st_size for name, (_, path) in self._paths.items()
                        if name in self._writers and self._rows},
        )
        self._journal.write(record)
        return record

    def close(self) -> None:
        """Closes the files and removes those that were not finished."""
        for writer in self._writers.values():
            writer.close()
        if self._spool is not None:
            self._spool.close()
        for partial, _ in self._paths.values():
            partial.unlink(missing_ok=True)


def write_part(
    source: Source, job: Job, out: Path, journal: Journal, part: Part, results: Iterable[Done]
) -> Record:
    """Writes one part by itself, as a shard of a job array or of a cluster does."""
    writer = PartWriter(job, out, journal, part, spool=True)
    try:
        for done in results:
            writer.add(done, int(source.labels[done.i]))
        return writer.finish()
    finally:
        writer.close()
