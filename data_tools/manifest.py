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
from data_tools.files import FileRecord, Sealed, atomic, sync_folder
from data_tools.quantities import human
from data_tools.safe_reading.json_file import Damaged, printable, read_json, typed
from data_tools.safe_reading.regular import special_kind

MANIFEST = "manifest.json"
# The mark of a run that is under way or was killed.
UNFINISHED = "manifest.json.partial"
KIND = "data_tools dataset"
VERSION = 2
WARNING = "warning: "


@dataclass(frozen=True)
class Manifest:
    """A prepared dataset. Holds no dates or paths of the machine: same input, same bytes."""

    format: str
    """The data files': beton, tfrecord, recordio or webdataset."""
    format_version: int
    data: list[str]
    """The data files' names, in order."""
    files: dict[str, FileRecord]
    samples: int
    labelled: int
    """Samples with a label; maybe a number without a name."""
    classes: list[str]
    kept: int
    """Images stored as they came, byte for byte or as the same array of pixels."""
    reencoded: dict[str, int]
    """Images by the reason they were re-encoded."""
    quarantined: dict[str, int]
    """Files left out, by reason; each with its path is in quarantine.jsonl."""
    duplicates: int
    """Images equal to an earlier one, each named in duplicates.jsonl."""
    leaks: dict[str, int]
    """Images that are also in other datasets, by the name of these; named there too."""
    ignored: int
    """Hidden and system files."""
    notes: list[str]
    """What the source had to say (for example why there are no labels), then warnings of its
    images (see image_notes)."""
    largest: list[int]
    """The greatest height and the greatest width, in pixels, maybe of two images."""
    policy: dict[str, Any]
    part_bytes: int
    """About the bytes of the source that went into each file."""
    source: str
    """The source's name."""
    source_kind: str
    source_fingerprint: str
    fingerprint: str
    """Hex digest of the images and labels: the same in every format."""
    versions: dict[str, str]
    """Of the libraries that decode and encode."""
    trimmed: dict[str, int] = field(default_factory=dict)
    """JPEGs copied without bytes that no decoder reads, or with the missing end marker, by which
    it was. Their pixels are the source's. Manifests of before have none."""
    reused: bool = field(default=False, compare=False)
    """True where `prepare` found the dataset already there. Not stored."""

    def to_dict(self) -> dict[str, Any]:
        """The content of manifest.json, without its digest."""
        values = dataclasses.asdict(self)
        del values["reused"]
        return {"kind": KIND, "version": VERSION, **values}

    def to_json(self) -> str:
        values = self.to_dict()
        return json.dumps({**values, "digest": digest_of(values)}, indent=1) + "\n"


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a manifest's content."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the dataset in `folder`. Raises UserError if it is missing, not ours, or
    holds a value that no manifest of ours can hold."""
    path = Path(folder) / MANIFEST
    try:
        values = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    except Damaged as error:
        raise damaged(path, error) from None
    digest = values.pop("digest", None) if isinstance(values, dict) else None
    changed = digest is not None and digest != digest_of(values)  # older ones have none
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
    """The error for a file of a dataset that does not hold what prep wrote."""
    return UserError(f"{path}: damaged; remove {path.parent} and run prep again ({why})")


def check(manifest: Manifest) -> None:
    """Raises Damaged for values that have the right types and cannot be true."""
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
        # Every file lies in the folder itself. Another name would let a manifest of others make us
        # read, and report on, any file of this machine.
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
