"""What of a preparation is done: a folder of records, one for each part that is whole on the disk.

A record appears by rename after its part's files were synced. So whatever is in the journal counts,
and whatever isn't is done again.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import Interrupted
from data_tools.workers import DIGEST_BYTES

JOURNAL = "journal"
HEADER = "header.json"
STOPPED = "stopped"
PARTIAL = ".partial"

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
    """Numbers in the source of what was left out, and why."""
    reencoded: dict[str, int]
    """Images by the reason they were re-encoded."""
    unreadable: list[int] = field(default_factory=list)
    """Of those left out, the ones that the file system did not give: a later run tries them."""
    beton_end: int = -1
    """Where the beton ended after this part; -1: the part's images wait in the spool."""


def partial_name(path: Path) -> Path:
    """A name of its own: two processes, on any machines, that do the same part don't meet."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")


class Journal:
    """The journal in the folder of a dataset under way."""

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self.folder = out / JOURNAL
        self._header = json.dumps(header, sort_keys=True)

    def exists(self) -> bool:
        return (self.folder / HEADER).exists()

    def matches(self) -> bool:
        """Whether the journal that lies there is of this very job."""
        try:
            return (self.folder / HEADER).read_text("utf-8") == self._header
        except OSError:
            return False

    def begin(self) -> None:
        """Makes the journal, if it is not there."""
        self.folder.mkdir(exist_ok=True)
        if not self.matches():
            write_whole(self.folder / HEADER, self._header.encode())

    def stop_short(self, images: int) -> None:
        """Notes that a run gave up on a source of so many images, since it could not read them."""
        write_whole(self.folder / STOPPED, str(images).encode())

    def stopped_short(self) -> int:
        """The images that the source had when a run gave up on it; 0 if none did."""
        try:
            return int((self.folder / STOPPED).read_text())
        except (OSError, ValueError):
            return 0

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"

    def spool(self, number: int) -> Path:
        """The stored images of a part, one behind the other."""
        return self.folder / f"{number:05d}.images"

    def write(self, record: Record) -> None:
        text = {
            "quarantine": record.quarantine,
            "reencoded": record.reencoded,
            "unreadable": record.unreadable,
            "beton_end": record.beton_end,
        }
        buffer = io.BytesIO()
        arrays = {f"places_{name}": places for name, places in record.places.items()}
        arrays["samples"] = record.samples
        arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, **arrays)
        write_whole(self.path(record.number), buffer.getvalue())

    def read(self, number: int) -> Record | None:
        """The record of a part, or None where the part is not done."""
        try:
            with open(self.path(number), "rb") as file, np.load(file) as content:
                arrays = dict(content)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        text = json.loads(arrays.pop("text").tobytes())
        samples = arrays.pop("samples")
        places = {name.removeprefix("places_"): array for name, array in arrays.items()}
        quarantine = [(int(i), str(reason)) for i, reason in text["quarantine"]]
        return Record(
            number, samples, places, quarantine, text["reencoded"],
            [int(i) for i in text.get("unreadable", [])],  # journals of before have none
            text["beton_end"],
        )

    def read_whole(self, number: int) -> Record:
        """The record of a part that is done."""
        record = self.read(number)
        if record is None:
            raise Interrupted(f"{self.path(number)}: missing or damaged; run prep again, "
                              "which does this part anew")
        return record

    def done(self, parts: int) -> list[int]:
        """The numbers of the parts that have a record."""
        there = {entry.name for entry in os.scandir(self.folder)} if self.exists() else set()
        return [number for number in range(parts) if self.path(number).name in there]

    def remove(self) -> None:
        if self.folder.exists():
            # The header first: half a journal must not be taken for a whole one.
            (self.folder / HEADER).unlink(missing_ok=True)
            shutil.rmtree(self.folder)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is either all there or not at all."""
    partial = partial_name(path)
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
