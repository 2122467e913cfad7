"""The journal of a preparation: a folder of records, one for each part that is whole on the disk.

A record appears by rename, after the files of its part were synced. So a part with a record is
done, and any other part is done again. Header and records carry checksums: a damaged one counts as
missing. A record's checksum also covers the job. So a record counts even if the header is lost, and
a record of another job never counts.

The release before kept records without checksums, as .npz under a header without one. Its journals
can still be resumed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import Interrupted
from data_tools.files import write_whole
from data_tools.preparation.image_notes import ImageNotes
from data_tools.safe_reading.checksum import sealed, unsealed
from data_tools.safe_reading.limits import refuse
from data_tools.safe_reading.regular import open_binary, read_all
from data_tools.store import DIGEST_BYTES

JOURNAL = "journal"
HEADER = "header.json"
STOPPED = "stopped"
SUFFIX, OLD_SUFFIX = ".record", ".npz"

# One stored image; its label is the source's.
SAMPLE = np.dtype(
    [
        ("i", "<u8"),  # its number in the source
        ("size", "<u8"),  # bytes stored
        ("height", "<i4"),
        ("width", "<i4"),
        ("crc", "<u4"),  # of the bytes stored
        ("kind", "u1"),
        ("digest", f"S{DIGEST_BYTES}"),  # of the source's bytes
    ]
)


@dataclass
class Record:
    """One part that is done."""

    number: int
    samples: np.ndarray
    """SAMPLE [n], in the source's order."""
    places: dict[str, np.ndarray]
    """By sharded format: int64 [n, 2], the offset of each image in the part's file and its kind."""
    quarantine: list[tuple[int, str]]
    """(number in the source, reason) of each image that was left out."""
    reencoded: dict[str, int]
    """Images by the reason they were re-encoded."""
    notes: ImageNotes = field(default_factory=ImageNotes)
    """Counts for the notes that prep prints on the images."""
    unreadable: list[int] = field(default_factory=list)
    """Numbers of the images left out because the file system failed; a later run tries them
    again."""
    beton_end: int = -1
    """Size of the beton after this part; -1 if the part's images wait in the spool."""
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Size of the part's file by sharded format; empty in records of the release before."""


class Journal:
    """The journal in the folder of a dataset that is being prepared."""

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self.folder = out / JOURNAL
        self._job = json.dumps(header, sort_keys=True)

    def exists(self) -> bool:
        return (self.folder / HEADER).exists()

    def matches(self) -> bool:
        """True if the journal on the disk belongs to this job."""
        return self._header() in (with_sum(self._job), self._job.encode())

    def is_old(self) -> bool:
        """True if it belongs to this job and the release before, without checksums, started it."""
        return self._header() == self._job.encode()

    def is_damaged(self) -> bool:
        """True if there is a header, but its bytes are no job with its checksum."""
        header = self._header()
        job, _, rest = header.partition(b"\n")
        try:
            json.loads(job)
        except ValueError:
            return self.exists()
        return header not in (job, with_sum(job.decode()))

    def _header(self) -> bytes:
        try:
            return read_all(self.folder / HEADER)
        except OSError:
            return b""

    def begin(self) -> None:
        """Makes the journal if there is none."""
        self.folder.mkdir(exist_ok=True)
        if not self.matches():
            write_whole(self.folder / HEADER, with_sum(self._job))

    def stop_short(self, images: int) -> None:
        """Notes that a run gave up because it could not read its source, which had `images` images.

        The next run compares: if the source has shrunk, the images did not come back.
        """
        write_whole(self.folder / STOPPED, str(images).encode())

    def stopped_short(self) -> int:
        """The number of images of the source when a run gave up on it; 0 if none did."""
        try:
            return int(read_all(self.folder / STOPPED))
        except (OSError, ValueError):
            return 0

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}{SUFFIX}"

    def spool(self, number: int) -> Path:
        """The file with the stored images of a part, one after another.

        Parts that are done by themselves wait there for the beton, which grows in order.
        """
        return self.folder / f"{number:05d}.images"

    def write(self, record: Record) -> None:
        text = {
            "quarantine": record.quarantine,
            "reencoded": record.reencoded,
            "notes": record.notes.to_json(),
            "unreadable": record.unreadable,
            "beton_end": record.beton_end,
            "file_bytes": record.file_bytes,
        }
        buffer = io.BytesIO()
        arrays = {f"places_{name}": places for name, places in record.places.items()}
        arrays["samples"] = record.samples
        arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, **arrays)
        data = sealed(buffer.getvalue(), self._identity(record.number))
        write_whole(self.path(record.number), data)

    def _identity(self, number: int) -> str:
        return f"part {number} of {self._job}"

    def read(self, number: int) -> Record | None:
        """The record of a part, or None if the part is not done or its record is damaged."""
        try:
            content = unsealed(read_all(self.path(number)), self._identity(number))
        except FileNotFoundError:
            return self._read_old(number)
        except OSError as error:
            refuse(error)  # too few file handles, say: the record is fine and must stay
            return None
        return None if content is None else parse_record(number, content)

    def _read_old(self, number: int) -> Record | None:
        """The record that the release before wrote, which has no checksum to compare."""
        if not self.is_old():
            return None
        try:
            return parse_record(number, read_all(self.path(number).with_suffix(OLD_SUFFIX)))
        except Exception as error:  # a damaged file makes numpy, zipfile and json raise many types
            refuse(error)
            return None

    def drop(self, number: int) -> None:
        """Removes the record of a part, which then counts as not done."""
        for suffix in (SUFFIX, OLD_SUFFIX):
            self.path(number).with_suffix(suffix).unlink(missing_ok=True)

    def holds_spool(self, record: Record) -> bool:
        """True if the spooled images of a part have the checksums that its record holds."""
        try:
            with open_binary(self.spool(record.number)) as spool:
                rows = zip(record.samples["size"], record.samples["crc"], strict=True)
                whole = all(zlib.crc32(spool.read(int(size))) == int(crc) for size, crc in rows)
                return whole and not spool.read(1)
        except OSError as error:
            refuse(error)
            return False

    def read_whole(self, number: int) -> Record:
        """The record of a part that is done. Raises Interrupted if it is missing or damaged."""
        record = self.read(number)
        if record is None:
            raise Interrupted(f"{self.path(number)}: missing or damaged; run prep again, "
                              "which does this part again")
        return record

    def done(self, parts: int) -> list[int]:
        """The numbers of the parts that have a record."""
        there = {entry.name for entry in os.scandir(self.folder)} if self.exists() else set()
        suffixes = (SUFFIX, OLD_SUFFIX) if self.is_old() else (SUFFIX,)
        return [number for number in range(parts)
                if any(f"{number:05d}{suffix}" in there for suffix in suffixes)]

    def remove(self) -> None:
        if self.folder.exists():
            # The header first: if this is killed half-way, no run takes the rest for a journal.
            (self.folder / HEADER).unlink(missing_ok=True)
            shutil.rmtree(self.folder)


def with_sum(job: str) -> bytes:
    """The header of a job: one line with the job, and one with its SHA-256 in hexadecimal."""
    return f"{job}\n{hashlib.sha256(job.encode()).hexdigest()}\n".encode()


def parse_record(number: int, content: bytes) -> Record:
    """The record in the bytes of an .npz. Raises ValueError, KeyError or OSError for others."""
    with np.load(io.BytesIO(content)) as opened:
        arrays = dict(opened)
    text = json.loads(arrays.pop("text").tobytes())
    samples = arrays.pop("samples")
    if samples.dtype != SAMPLE:
        raise ValueError("not the samples of a part")
    places = {name.removeprefix("places_"): array for name, array in arrays.items()}
    quarantine = [(int(i), str(reason)) for i, reason in text["quarantine"]]
    notes = ImageNotes.from_json(text.get("notes", {}))
    return Record(
        number, samples, places, quarantine, text["reencoded"], notes,
        [int(i) for i in text.get("unreadable", [])],  # older records have none
        text["beton_end"],
        text.get("file_bytes", {}),
    )
