"""What was prepared, from what, and how: manifest.json, the mark that a dataset is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.errors import UserError

MANIFEST = "manifest.json"
# Also the mark of a run that is under way or was killed: it is renamed to MANIFEST as the last act.
UNFINISHED = "manifest.json.partial"
KIND = "data_tools dataset"
VERSION = 1


@dataclass(frozen=True)
class FileRecord:
    """One file of a dataset."""

    bytes: int
    sha256: list[list[Any]]
    """[length, hex digest] of the file's consecutive ranges. A beton has two: its head, which holds
    the metadata and is known last, and the rest, which is hashed while it is written."""


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset. Holds no dates or paths of the machine: same input, same bytes."""

    format: str
    """The data file's format, "beton"."""
    format_version: int
    data: str
    """The data file's name."""
    files: dict[str, FileRecord]
    samples: int
    classes: list[str]
    kept: int
    """Images copied byte for byte."""
    reencoded: dict[str, int]
    """Images by the reason they were re-encoded."""
    quarantined: dict[str, int]
    """Files left out, by reason; each with its path is in quarantine.jsonl."""
    ignored: int
    """Hidden and system files."""
    stray: str
    """Where images lie in folders but not all: the first that doesn't, so that none is labelled."""
    largest: list[int]
    """The greatest height and the greatest width, in pixels, maybe of two images."""
    policy: dict[str, Any]
    source: str
    """The source's name."""
    source_fingerprint: str
    versions: dict[str, str]
    """Of the libraries that decode and encode."""
    reused: bool = field(default=False, compare=False)
    """True where `prepare` found the dataset already there. Not stored."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of the data file's checksums: the same for the same images in one order."""
        return hashlib.sha256(json.dumps(self.files[self.data].sha256).encode()).hexdigest()

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        del values["reused"]
        return json.dumps({"kind": KIND, "version": VERSION, **values}, indent=1) + "\n"


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the dataset in `folder`. Raises UserError if it is missing or not ours."""
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path}: damaged; remove {folder} and run prep again") from None
    if not isinstance(values, dict) or values.pop("kind", None) != KIND:
        raise UserError(f"{path}: not written by prep; {folder} is no prepared dataset")
    version = values.pop("version", None)
    if version != VERSION:
        raise UserError(f"{path}: version {version} is not {VERSION}, which this release reads; "
                        "run prep again with this release")
    try:
        values["files"] = {name: FileRecord(**file) for name, file in values["files"].items()}
        manifest = Manifest(**values)
        _ = manifest.files[manifest.data]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: damaged; remove {folder} and run prep again") from None
    return manifest


def check_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Raises UserError unless every file has the size that the manifest records."""
    for name, file in manifest.files.items():
        path = Path(folder) / name
        try:
            size = path.stat().st_size
        except OSError:
            raise UserError(f"{path}: missing; remove {folder} and run prep again") from None
        if size != file.bytes:
            raise UserError(f"{path}: {'truncated' if size < file.bytes else 'changed'}: "
                            f"{size} bytes, not {file.bytes}; remove {folder} and run prep again")


def write_durably(path: Path, data: bytes) -> FileRecord:
    """Writes a small file and waits until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(len(data), [[len(data), hashlib.sha256(data).hexdigest()]])


def commit(folder: Path, manifest: Manifest) -> None:
    """Makes the dataset count: the manifest appears whole, after all that it speaks of."""
    write_durably(folder / UNFINISHED, manifest.to_json().encode())
    sync_folder(folder)
    os.replace(folder / UNFINISHED, folder / MANIFEST)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def summary(manifest: Manifest) -> str:
    """What a preparation did, as a few lines of plain text."""
    def listed(reasons: dict[str, int]) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())

    size = manifest.files[manifest.data].bytes / 1e6
    height, width = manifest.largest
    labels = f"{len(manifest.classes):,} classes" if manifest.classes else "no labels"
    lines = [f"{manifest.samples:,} images, {labels}, {size:,.1f} MB, from {manifest.source}"]
    if manifest.reused:
        lines[0] = "already prepared: " + lines[0]
    lines.append(f"copied byte for byte: {manifest.kept:,}")
    if manifest.reencoded:
        total = sum(manifest.reencoded.values())
        lines.append(f"re-encoded: {total:,} ({listed(manifest.reencoded)})")
    if manifest.quarantined:
        total = sum(manifest.quarantined.values())
        lines.append(f"quarantined: {total:,} ({listed(manifest.quarantined)}); "
                     "each is named in quarantine.jsonl")
    if manifest.ignored:
        lines.append(f"ignored: {manifest.ignored:,} hidden or system files")
    if manifest.stray:
        lines.append(f"no labels, because {manifest.stray} lies beside the folders of the others")
    lines.append(f"greatest height {height:,}, greatest width {width:,} pixels")
    return "\n".join(lines)
