"""Collects the figures of a dataset, for `fastmoco inspect`.

Counts, classes and sizes cover all images. Colours and kinds of JPEG come from a sample that is
evenly spread over them.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from data_tools.errors import UserError
from data_tools.formats.registry import format_of
from data_tools.images import codec
from data_tools.images.codec import quiet_pillow
from data_tools.images.prepare_image import BadImage, sniff_jpeg
from data_tools.inspection.verify import chosen
from data_tools.machine import cores
from data_tools.manifest import Manifest, damaged, read_manifest
from data_tools.open import datasets_in, open_store
from data_tools.preparation.assemble import QUARANTINE
from data_tools.preparation.duplicates import Seen, digests
from data_tools.progress import Tick
from data_tools.safe_reading.checksum import read_checked
from data_tools.safe_reading.json_file import Damaged, read_lines, typed
from data_tools.store import JPEG, OTHER, RAW, MappedStore, Store

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
# Files that prep did not write have no digests. They are hashed to find equal images, unless they
# hold more images than this.
MOST_HASHED = 200_000
# Number of keys that are shown per reason in the quarantine.
EXAMPLES = 3
# Enough for a third digit of the mean: images differ by about 0.15 from one another.
MOMENTS_OF = 2000
PROGRESSIVE = (0xC2, 0xCA)


@dataclass(frozen=True)
class Survey:
    """The figures. Lists of seven are the PERCENTILES: least, 5 %, 25 %, median, 75 %, 95 %, most.
    """

    path: str
    formats: list[str]
    files: int
    """Number of data files (of the first format)."""
    data_bytes: int
    samples: int
    unlabelled: int
    classes: dict[str, int]
    """Samples by class; by its number if the classes have no names."""
    height: list[float]
    width: list[float]
    shorter_side: list[float]
    aspect: list[float]
    """Width divided by height."""
    bytes: list[float]
    """Bytes of an image as it is stored."""
    megapixels: float
    """Millions of pixels in all images together."""
    kinds: dict[str, int]
    """Samples by how they are stored: JPEG, raw, other."""
    sampled: int
    """Number of images in the sample, from which the figures below come."""
    undecodable: int
    """Number of sampled images that do not decode. `verify` names them."""
    jpegs: dict[str, int]
    """Sampled JPEGs by their kind: baseline or progressive, and chroma sampling."""
    mean: list[float]
    """Mean of R, G and B, 0 to 1. Every sampled image has the same weight."""
    std: list[float]
    """Standard deviation of R, G and B, 0 to 1. Every sampled image has the same weight."""
    duplicates: int
    """Images equal to an earlier one; -1: not looked for."""
    leaks: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first keys in the quarantine, by reason."""
    kept: int = -1
    """Images stored as they came; -1: not known."""
    reencoded: dict[str, int] = field(default_factory=dict)
    trimmed: dict[str, int] = field(default_factory=dict)
    """JPEGs copied with the same pixels but not the same bytes, by the change (see Manifest)."""
    source: str = ""
    notes: list[str] = field(default_factory=list)


def survey(
    path: str | os.PathLike[str],
    sample: int = 500,
    workers: int = 0,
    progress: Tick | None = None,
) -> Survey:
    """Surveys a prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file.

    sample: number of images to decode. progress(done, total) is called with the number decoded so
    far. Raises UserError if the path can't be opened.
    """
    path = Path(path)
    store = open_store(path)
    folders = datasets_in(path) if path.is_dir() else []
    manifest = read_manifest(folders[0]) if folders else None
    height, width = store.sizes.T.astype(np.int64)
    known = (height > 0) & (width > 0)
    colours = look_at(store, chosen(len(store), sample), workers, progress)
    kinds = {"JPEG": JPEG, "raw": RAW, "other": OTHER}
    return Survey(
        path=str(path),
        formats=[read_manifest(f).format for f in folders] or [format_of(path) or ""],
        files=len(store.data),
        data_bytes=sum(file.stat().st_size for file in store.data),
        samples=len(store),
        unlabelled=int((store.labels < 0).sum()),
        classes=count_classes(store),
        height=percentiles(height[known]),
        width=percentiles(width[known]),
        shorter_side=percentiles(np.minimum(height, width)[known]),
        aspect=percentiles(width[known] / np.maximum(height[known], 1)),
        bytes=percentiles(store.lengths),
        megapixels=float((height * width).sum() / 1e6),
        kinds={name: int((store.kinds == kind).sum()) for name, kind in kinds.items()
               if (store.kinds == kind).any()},
        **colours,
        **history(folders[0] if folders else None, manifest, store),
    )


def percentiles(values: np.ndarray) -> list[float]:
    """The PERCENTILES of the values; empty if there are none."""
    if not len(values):
        return []
    return [round(float(value), 4) for value in np.percentile(values, PERCENTILES)]


def count_classes(store: MappedStore) -> dict[str, int]:
    labelled = store.labels[store.labels >= 0]
    numbers, found = np.unique(labelled, return_counts=True)
    counts = dict(zip(numbers.tolist(), found.tolist(), strict=True))
    if store.classes:
        return {name: counts.get(number, 0) for number, name in enumerate(store.classes)}
    return {str(number): count for number, count in counts.items()}


def history(folder: Path | None, manifest: Manifest | None, store: MappedStore) -> dict[str, Any]:
    """The Survey's fields on the preparation. Files that prep did not write only get the count of
    equal images."""
    if folder is None or manifest is None:
        return {"duplicates": count_duplicates(store)}
    examples: dict[str, list[str]] = {}
    sealed = manifest.files.get(QUARANTINE)
    if sealed is not None:
        read_checked(folder / QUARANTINE, sealed.sha256)
    for row in read_quarantine(folder / QUARANTINE):
        keys = examples.setdefault(row.reason.split(":", 1)[0], [])
        if len(keys) < EXAMPLES:
            keys.append(row.key)
    return {
        "duplicates": manifest.duplicates, "leaks": manifest.leaks,
        "quarantined": manifest.quarantined, "examples": examples, "kept": manifest.kept,
        "reencoded": manifest.reencoded, "trimmed": manifest.trimmed, "notes": manifest.notes,
        "source": f"{manifest.source} ({manifest.source_kind})",
    }  # fmt: skip


@dataclass(frozen=True)
class Quarantined:
    """One line of quarantine.jsonl."""

    key: str
    reason: str
    size: int
    """Bytes of the file; -1 if the source doesn't know."""


def read_quarantine(path: Path) -> list[Quarantined]:
    """The files that prep left out. Raises UserError if a line is damaged."""
    try:
        return [typed(Quarantined, row) for row in read_lines(path)]
    except (OSError, Damaged) as error:
        raise damaged(path, error) from None


def count_duplicates(store: MappedStore) -> int:
    if len(store) > MOST_HASHED:
        return -1
    seen = Seen()
    return sum(seen.first(digest, i) != i for i, digest in enumerate(digests(store)))


def look_at(
    store: Store, ids: np.ndarray, workers: int, progress: Tick | None
) -> dict[str, Any]:
    """The Survey's fields on the decoded images `ids`: colours and kinds of JPEG."""
    jpegs: Counter[str] = Counter()
    sums: list[np.ndarray] = []

    def look(i: int) -> tuple[str, np.ndarray | None]:
        try:
            return kind_of(store, i), moments(pixels_of(store, i))
        except (BadImage, ValueError):
            return "", None

    undecodable = 0
    with quiet_pillow(), ThreadPoolExecutor(workers or cores()) as pool:
        for done, (kind, found) in enumerate(pool.map(look, ids.tolist()), 1):
            if found is None:
                undecodable += 1
            else:
                sums.append(found)
                jpegs.update([kind] if kind else [])
            if progress is not None:
                progress(done, len(ids))
    mean, square = np.mean(sums, axis=0) if sums else np.full((2, 3), np.nan)
    return {
        "sampled": len(ids), "undecodable": undecodable, "jpegs": dict(jpegs.most_common()),
        "mean": mean.round(4).tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0)).round(4).tolist(),
    }  # fmt: skip


def mean_and_std(
    store: Store, sample: int = MOMENTS_OF, workers: int = 0
) -> tuple[list[float], list[float], int]:
    """Return mean and standard deviation of R, G and B, 0 to 1, and the number of images used.

    Every image has the same weight. Up to `sample` images are read, evenly spread, so the figures
    are the same for one dataset in any format. Raises UserError if none of them decodes.
    """
    found = look_at(store, chosen(len(store), sample), workers, None)
    used = found["sampled"] - found["undecodable"]
    if not used:
        raise UserError(f"{store.path}: none of {found['sampled']:,} sampled images decodes; "
                        "`fastmoco verify` says why")
    return found["mean"], found["std"], used


def kind_of(store: Store, i: int) -> str:
    """The kind of a JPEG, such as "baseline 4:2:0"; empty for other images."""
    if store.kinds[i] != JPEG:
        return ""
    header = sniff_jpeg(store.encoded(i).tobytes())
    process = "progressive" if header.frame in PROGRESSIVE else "baseline"
    if header.components == 1:
        return f"{process} grey"
    factors = simplejpeg.decode_jpeg_header(store.encoded(i))[3]
    return f"{process} {chroma(factors)}"


def chroma(name: str) -> str:
    """simplejpeg's "420" as 4:2:0."""
    return ":".join(name) if name.isdigit() else name


def pixels_of(store: Store, i: int) -> np.ndarray:
    """The pixels of image i, uint8 [H, W, 3] RGB. Raises BadImage or ValueError if it does not
    decode."""
    encoded = store.encoded(i)
    if store.kinds[i] == RAW:
        return encoded.reshape(*store.sizes[i].tolist(), 3)
    if store.kinds[i] == JPEG and sniff_jpeg(encoded.tobytes()).components != 4:
        return simplejpeg.decode_jpeg(encoded)
    with codec.open_image(encoded.tobytes()) as image:
        pixels = codec.decode(image, image.size).pixels
    return np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels


def moments(pixels: np.ndarray) -> np.ndarray:
    """The mean of each channel, and of its square, both of values from 0 to 1: float64 [2, 3]."""
    levels = np.arange(256) / 255
    counts = [np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(3)]
    shares = np.array(counts) / max(1, pixels.shape[0] * pixels.shape[1])
    return np.stack([shares @ levels, shares @ levels**2])
