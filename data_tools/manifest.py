"""manifest.json: the content of a prepared dataset, its source and its settings.

A folder with a manifest is a complete dataset: prep writes it last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from data_tools.files import FileRecord, Sealed, atomic, sync_folder
from data_tools.quantities import human
from data_tools.safe_reading.json_file import Damaged, printable, read_json, typed
from data_tools.safe_reading.regular import special_kind

MANIFEST = "manifest.json"
# Its presence shows that a prep is at work in the folder, or was killed there.
UNFINISHED = "manifest.json.partial"
KIND = "data_tools dataset"
VERSION = 2
WARNING = "warning: "


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset. It has no dates and no paths of the machine, so that the same input gives
    the same bytes."""

    format: str
    """Format of the data files: beton, tfrecord, recordio or webdataset."""
    format_version: int
    data: list[str]
    """Names of the data files, in order."""
    files: dict[str, FileRecord]
    samples: int
    labelled: int
    """Number of samples with a label, which may be a number without a name."""
    classes: list[str]
    kept: int
    """Number of images stored without a change, byte for byte or as the same pixels."""
    reencoded: dict[str, int]
    """Number of re-encoded images, by reason."""
    quarantined: dict[str, int]
    """Number of files left out, by reason. quarantine.jsonl lists each with its path."""
    duplicates: int
    """Number of images equal to an earlier one. duplicates.jsonl lists each."""
    leaks: dict[str, int]
    """Number of images that are also in another dataset, by its name; listed there too."""
    ignored: int
    """Number of hidden and system files in the source."""
    notes: list[str]
    """Lines for the user: the source's (for example why there are no labels), then warnings about
    its images (see image_notes)."""
    largest: list[int]
    """Greatest height and greatest width in pixels, possibly of two images."""
    policy: dict[str, Any]
    part_bytes: int
    """Approximate bytes of the source per data file."""
    source: str
    """Name of the source."""
    source_kind: str
    source_fingerprint: str
    fingerprint: str
    """Hex digest of the images and labels: the same in every format."""
    versions: dict[str, str]
    """Versions of the libraries that decode and encode."""
    trimmed: dict[str, int] = field(default_factory=dict)
    """Number of JPEGs copied with a repaired end (see images/jpeg_end.py), by repair. Their pixels
    are the source's. Manifests of older releases lack this."""
    reused: bool = field(default=False, compare=False)
    """True if `prepare` found the dataset complete already. Not stored."""

    def to_dict(self) -> dict[str, Any]:
        """The content of manifest.json, without its digest."""
        values = dataclasses.asdict(self)
        del values["reused"]
        return {"kind": KIND, "version": VERSION, **values}

    def to_json(self) -> str:
        """The text of manifest.json."""
        values = self.to_dict()
        return json.dumps({**values, "digest": digest_of(values)}, indent=1) + "\n"


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a manifest's content."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the dataset in `folder`. Raises UserError if it is missing, was not written
    by prep, or holds an impossible value."""
    path = Path(folder) / MANIFEST
    try:
        values = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except Damaged as error:
        raise damaged(path, error) from None
    digest = values.pop("digest", None) if isinstance(values, dict) else None
    # Manifests of older releases have no digest.
    changed = digest is not None and digest != digest_of(values)
    if not isinstance(values, dict) or values.pop("kind", None) != KIND:
        raise UserError(f"{path}: not written by prep; {folder} is no prepared dataset")
    version = values.pop("version", None)
    if version != VERSION:
        raise UserError(f"{path}: version {version} is not {VERSION}, which this release reads; "
                        "run prep again with this release")
    values.pop("reused", None)  # it is not stored
    try:
        manifest = typed(Manifest, values)
        check(manifest)
        if changed:
            raise Damaged("its checksum differs")
    except Damaged as error:
        raise damaged(path, error) from None
    return manifest


def damaged(path: Path, why: object) -> UserError:
    """The error for a file of a dataset that is not as prep wrote it."""
    return UserError(f"{path}: damaged; remove {path.parent} and run prep again ({why})")


def check(manifest: Manifest) -> None:
    """Raises Damaged for values that have the right types but are impossible."""
    counts = {
        "samples": manifest.samples, "labelled": manifest.labelled, "kept": manifest.kept,
        "duplicates": manifest.duplicates, "ignored": manifest.ignored,
        "part_bytes": manifest.part_bytes, "format_version": manifest.format_version,
    }
    for name in ("reencoded", "quarantined", "leaks"):
        counts |= {f"{name}.{reason}": n for reason, n in getattr(manifest, name).items()}
    counts |= {f"files.{name}.bytes": file.bytes for name, file in manifest.files.items()}
    for name, count in counts.items():
        if count < 0:
            raise Damaged(f"{name} is below 0")
    for name in ("labelled", "kept", "duplicates"):
        if counts[name] > manifest.samples:
            raise Damaged(f"{name} is above samples")
    if len(manifest.largest) != 2 or not all(0 <= side < 2**31 for side in manifest.largest):
        raise Damaged("largest is not a height and a width")
    for name in manifest.files:
        # Every file is in the folder itself. With another name, a hostile manifest could make this
        # program read any file of the machine, and report on it.
        if name != os.path.basename(name) or name in ("", ".", "..") or not name.isprintable():
            raise Damaged(f"files: {printable(repr(name))} is no file in this folder")
    if not manifest.data or len(set(manifest.data)) < len(manifest.data):
        raise Damaged("data names no file, or one file twice")
    for name in manifest.data:
        if name not in manifest.files:
            raise Damaged(f"data: {printable(repr(name))} is not among the files")


def check_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Raises UserError unless every file has the size that the manifest records."""
    for name, file in manifest.files.items():
        path = Path(folder) / name
        try:
            size = path.stat().st_size
        except OSError:
            raise UserError(f"{path}: missing; remove {folder} and run prep again") from None
        if kind := special_kind(path):
            raise UserError(f"{path}: {kind}; remove {folder} and run prep again")
        if size != file.bytes:
            raise UserError(f"{path}: {'truncated' if size < file.bytes else 'changed'}: "
                            f"{size} bytes, not {file.bytes}; remove {folder} and run prep again")


def commit(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, which makes the folder a dataset, after all files that it lists."""
    with atomic(folder / MANIFEST, folder / (MANIFEST + ".new")) as partial:
        with Sealed(partial) as file:
            file.write(manifest.to_json().encode())
        sync_folder(folder)
    sync_folder(folder)


def summary(manifest: Manifest, warned: bool = False) -> list[str]:
    """The outcome of a preparation as a few lines of plain text.

    warned: True leaves out the warnings about images, if they were printed just before.
    """
    def listed(reasons: dict[str, int]) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())

    size = human(sum(manifest.files[name].bytes for name in manifest.data))
    height, width = manifest.largest
    unnamed = "labels without names" if manifest.labelled else "no labels"
    labels = f"{len(manifest.classes):,} classes" if manifest.classes else unnamed
    if 0 < manifest.labelled < manifest.samples:
        labels = f"{manifest.labelled:,} labelled, {labels}"
    files = "" if len(manifest.data) == 1 else f" in {len(manifest.data):,} files"
    lines = [f"{manifest.samples:,} images, {labels}, {size} of {manifest.format}{files}, "
             f"from {manifest.source} ({manifest.source_kind})"]
    if manifest.reused:
        lines[0] = "already prepared: " + lines[0]
    lines.append(f"stored as they came: {manifest.kept:,}")
    if manifest.trimmed:
        total = sum(manifest.trimmed.values())
        lines.append(f"copied, pixel for pixel: {total:,} ({listed(manifest.trimmed)})")
    if manifest.reencoded:
        total = sum(manifest.reencoded.values())
        lines.append(f"re-encoded: {total:,} ({listed(manifest.reencoded)})")
    if manifest.quarantined:
        total = sum(manifest.quarantined.values())
        lines.append(f"quarantined: {total:,} ({listed(manifest.quarantined)}); "
                     "each is named in quarantine.jsonl")
    if manifest.duplicates:
        lines.append(f"duplicates: {manifest.duplicates:,} equal an earlier image; "
                     "each is named in duplicates.jsonl")
    for other, count in manifest.leaks.items():
        lines.append(f"also in {other}: {count:,}; each is named in duplicates.jsonl")
    if manifest.ignored:
        lines.append(f"ignored: {manifest.ignored:,} hidden or system files")
    lines += [note for note in manifest.notes if not (warned and note.startswith(WARNING))]
    lines.append(f"greatest height {height:,}, greatest width {width:,} pixels")
    return lines
