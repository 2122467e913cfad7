"""Puts finished parts, in order, into datasets: the beton's pages first, then the index, the keys,
quarantine.jsonl, duplicates.jsonl and the manifest.

Everything is streamed part by part from the journal's records. So memory does not grow with the
pixels, and it grows by only a few bytes per image.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.files import PARTIAL, FileRecord, Sealed
from data_tools.formats import beton
from data_tools.formats.registry import SHARDED, part_file
from data_tools.manifest import MANIFEST, Manifest, commit
from data_tools.preparation.dali_indexes import write_dali_indexes
from data_tools.preparation.duplicates import Other, Seen
from data_tools.preparation.image_notes import ImageNotes
from data_tools.preparation.journal import Journal, Record
from data_tools.preparation.label_notes import label_lines
from data_tools.preparation.parts import Job, Part, PartWriter
from data_tools.preparation.workers import Done
from data_tools.sources.source import Source
from data_tools.store import (
    DIGEST_BYTES,
    DIGESTS,
    INDEX,
    INDEX_DTYPE,
    JPEG,
    KEYS,
    RAW,
    escape_key,
    npy_header,
)

QUARANTINE, DUPLICATES = "quarantine.jsonl", "duplicates.jsonl"
# A beton grows in place, under this name until all its images are in it.
GROWING = beton.NAME + PARTIAL


class Assembly:
    """Puts parts together. They must come in order, whether an earlier run did them or this one."""

    def __init__(
        self, source: Source, job: Job, out: Path, journal: Journal, parts: Sequence[Part]
    ) -> None:
        self.source = source
        self.job = job
        self.out = out
        self.journal = journal
        self.parts = parts
        self._seen = {JPEG: Seen(), RAW: Seen()}
        self._first = array("q")
        self.beton: beton.BetonWriter | None = None
        if "beton" in job.formats:
            path = job.folder(out, "beton") / GROWING
            self.beton = beton.BetonWriter(path, len(source.keys), job.page_size)

    def __len__(self) -> int:
        return len(self._first)

    def go_on(self) -> None:
        """Cuts the beton off after the parts taken so far, and continues to write there.

        A killed run may have left half a part behind them.
        """
        if self.beton is not None:
            self.beton.go_on()

    def take(self, record: Record, held: bool) -> None:
        """Adds a finished part. held: the beton holds its images already; else they are appended
        from the part's spool file."""
        samples = record.samples
        same = [self._same_as(bytes(digest), int(kind))
                for digest, kind in zip(samples["digest"], samples["kind"], strict=True)]
        if self.beton is None or not len(samples):
            return
        if held:
            for size, same_as in zip(samples["size"], same, strict=True):
                self.beton.place(int(size), same_as)
            return
        with open(self.journal.spool(record.number), "rb") as spool:
            for size, same_as in zip(samples["size"], same, strict=True):
                self.beton.append(spool.read(int(size)), same_as)

    def add(self, writer: PartWriter, done: Done) -> None:
        """Adds the next image of the part that this process is writing."""
        before = len(writer)
        writer.add(done, int(self.source.labels[done.i]))
        if len(writer) > before and not isinstance(done.result, Exception):
            same_as = self._same_as(done.digest, int(done.result.raw))
            if self.beton is not None:
                self.beton.append(done.result.data, same_as)

    def finish_part(self, writer: PartWriter) -> Callable[[], None]:
        """Ends the part that this process is writing. Returns a call that makes it durable.

        The caller runs that call in another thread, so that the sync does not hold up the next
        part.
        """
        handle, end = (self.beton.flush(), self.beton.end) if self.beton else (-1, -1)

        def commit_part() -> None:
            try:
                # The beton first: a record must never name images that are not on the disk.
                if handle >= 0:
                    os.fsync(handle)
                writer.finish(end)
            finally:
                writer.close()

        return commit_part

    def close(self) -> None:
        if self.beton is not None:
            self.beton.close()

    def _same_as(self, digest: bytes, kind: int) -> int:
        """The number of an earlier image with the same stored bytes, or -1."""
        number = len(self._first)
        digest = digest.ljust(DIGEST_BYTES, b"\0")  # numpy's S dtype drops zeros at the end
        alike = self._seen[kind].first(digest, number)
        # An image that is equal in the source but stored in the other way (raw or JPEG) is a
        # duplicate too, though the two can't share their stored bytes.
        other = self._seen[1 - kind].find(digest)
        self._first.append(alike if other < 0 else min(alike, other))
        return alike if alike != number else -1

    # Called after the last part.

    def records(self) -> Iterator[Record]:
        return (self.journal.read_whole(part.number) for part in self.parts)

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """INDEX_DTYPE rows of all samples in one format, one part (so one file) at a time."""
        pointers = np.frombuffer(self.beton.pointers, "<u8") if self.beton else np.empty(0, "<u8")
        at = file = 0
        for record in self.records():
            samples = record.samples
            if not len(samples):
                continue
            rows = np.zeros(len(samples), INDEX_DTYPE)
            for column in ("size", "height", "width", "crc", "kind"):
                rows[column] = samples[column]
            rows["label"] = self.source.labels[samples["i"].astype(np.int64)]
            if name == "beton":
                rows["offset"] = pointers[at : at + len(rows)]
            else:
                rows["offset"], rows["kind"] = record.places[name].T
                rows["file"] = file
            at, file = at + len(rows), file + 1
            yield rows

    def finish(self, leaks: Sequence[Other] = ()) -> list[Manifest]:
        """Writes and commits the datasets. leaks: datasets to search for images of this one.

        Raises UserError if not one image could be stored.
        """
        if not len(self):
            key, reason = next(
                (self.source.keys[i], reason)
                for record in self.records() for i, reason in record.quarantine
            )
            raise UserError(f"{self.source.name}: no readable image in {len(self.source.keys):,} "
                            f"files; the first, {key}: {reason}")
        # If an earlier run was killed between two formats, the first has a manifest already. It
        # must go, or it would vouch for files that are about to be written again.
        for name in self.job.formats:
            (self.job.folder(self.out, name) / MANIFEST).unlink(missing_ok=True)
        if self.beton is not None:
            self.beton.finish(lambda: self.rows("beton"))
            folder = self.job.folder(self.out, "beton")
            os.replace(folder / GROWING, folder / beton.NAME)
        manifests = []
        for name in self.job.formats:
            folder = self.job.folder(self.out, name)
            manifests.append(self._describe(name, folder, leaks))
            commit(folder, manifests[-1])
        return manifests

    def _describe(self, name: str, folder: Path, leaks: Sequence[Other]) -> Manifest:
        """Writes all files of one dataset but its data files. Returns its manifest."""
        data = self._data_files(name)
        files = {file: FileRecord((folder / file).stat().st_size) for file in data}
        content = hashlib.sha256(json.dumps(self.source.classes).encode())
        height = width = labelled = 0
        with Sealed(folder / INDEX) as index:
            index.write(npy_header(INDEX_DTYPE, len(self)))
            for rows in self.rows(name):
                index.write(rows.tobytes())
                for column in ("size", "height", "width", "label", "crc"):
                    content.update(rows[column].tobytes())
                height, width = max(height, rows["height"].max()), max(width, rows["width"].max())
                labelled += int((rows["label"] >= 0).sum())
        files[INDEX] = index.record
        if name in SHARDED:
            numbers = (record.samples["i"] for record in self.records() if len(record.samples))
            files |= write_dali_indexes(name, folder, data, self.rows(name), numbers)
        found = self._lists(folder, files, leaks)
        kinds: Counter[str] = Counter()
        notes = ImageNotes()
        of_labels = label_lines(
            self.source, (record.samples["i"].astype(np.int64) for record in self.records()))
        for record in self.records():
            kinds.update(record.reencoded)
            notes.merge(record.notes)
        return Manifest(
            format=name,
            format_version=beton.VERSION if name == "beton" else 1,
            data=data,
            files=files,
            samples=len(self),
            labelled=labelled,
            classes=self.source.classes,
            kept=len(self) - kinds.total() - notes.trimmed.total(),
            trimmed=dict(sorted(notes.trimmed.items())),
            reencoded=dict(sorted(kinds.items())),
            quarantined=dict(sorted(found["quarantined"].items())),
            duplicates=found["duplicates"].total(),
            leaks=dict(found["leaks"]),
            ignored=self.source.ignored,
            notes=self.source.notes + of_labels + notes.lines(),
            largest=[int(height), int(width)],
            policy=self.job.policy.decisive(),
            part_bytes=self.job.part_bytes,
            source=self.source.name,
            source_kind=self.source.kind,
            source_fingerprint=self.source.fingerprint,
            fingerprint=content.hexdigest(),
            versions={library: version(library) for library in ("pillow", "simplejpeg")},
        )

    def _data_files(self, name: str) -> list[str]:
        if name == "beton":
            return [beton.NAME]
        return [part_file(name, record.number) for record in self.records() if len(record.samples)]

    def _lists(
        self, folder: Path, files: dict[str, FileRecord], leaks: Sequence[Other]
    ) -> dict[str, Counter[str]]:
        """Writes the keys, the digests, and the lists of quarantined images and of duplicates.

        Returns the counts of the last two: "quarantined" by reason, "duplicates", and "leaks" by
        the other dataset's name.
        """
        found: dict[str, Counter[str]] = {
            "quarantined": Counter(), "duplicates": Counter(), "leaks": Counter()
        }
        keys = self.source.keys
        numbers = np.concatenate([record.samples["i"] for record in self.records()])
        with (
            Sealed(folder / KEYS) as names,
            Sealed(folder / DIGESTS) as digests,
            Sealed(folder / QUARANTINE) as quarantine,
            Sealed(folder / DUPLICATES) as duplicates,
        ):
            digests.write(npy_header(np.dtype("u1"), len(self), DIGEST_BYTES))
            at = 0
            for record in self.records():
                digests.write(record.samples["digest"].tobytes())
                for i, digest in zip(record.samples["i"], record.samples["digest"], strict=True):
                    key = keys[int(i)]
                    names.write(escape_key(key))
                    if self._first[at] != at:
                        found["duplicates"]["in it"] += 1
                        same_as = keys[int(numbers[self._first[at]])]
                        duplicates.write_json({"key": key, "same_as": same_as})
                    for other in leaks:
                        there = other.key_of(bytes(digest).ljust(DIGEST_BYTES, b"\0"))
                        if there is not None:
                            found["leaks"][other.name] += 1
                            row = {"key": key, "same_as": there, "in": other.name}
                            duplicates.write_json(row)
                    at += 1
                for i, reason in record.quarantine:
                    found["quarantined"][reason.split(":", 1)[0]] += 1
                    size = int(self.source.sizes[i])
                    quarantine.write_json({"key": keys[i], "reason": reason, "size": size})
        for file in (names, digests, quarantine, duplicates):
            files[file.path.name] = file.record
        return found
