"""The formats of prepared datasets, one row each: everyone who reads or writes them asks here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data_tools.formats import beton, recordio, tfrecord, webdataset
from data_tools.images.prepare_image import Prepared
from data_tools.progress import Tick

Rows = tuple[np.ndarray, list[str]]  # INDEX_DTYPE [N], and the classes if the file names them


class Writer(Protocol):
    """One file of a format that is cut into files."""

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Format:
    """All that other code must know of a format; how its bytes are laid out is the module's own."""

    recognises: Callable[[Path], bool]
    """Whether a file is of this format, by its first bytes."""
    scan: Callable[[Path, Tick | None], Rows]
    """Reads the index of a whole file, whoever wrote it."""
    reread: Callable[[Path], np.ndarray]
    """The same for a file that prep wrote: INDEX_DTYPE [N], for verify."""
    suffix: str
    writer: Callable[[Path], Writer] | None
    """Writes one part of a dataset; None for a beton, which is one file."""


TABLE = {
    "beton": Format(
        beton.is_beton, lambda path, _tick: (beton.rows_of(path), []), beton.rows_of,
        ".beton", None,
    ),
    "tfrecord": Format(
        tfrecord.is_tfrecord, tfrecord.scan, lambda path: tfrecord.scan(path)[0],
        tfrecord.SUFFIX, tfrecord.Writer,
    ),
    "recordio": Format(
        recordio.is_recordio, recordio.scan, lambda path: recordio.scan(path)[0],
        recordio.SUFFIX, recordio.Writer,
    ),
    "webdataset": Format(
        webdataset.is_webdataset, webdataset.scan,
        lambda path: webdataset.read_shard(path, as_written=True).rows,
        webdataset.SUFFIX, webdataset.Writer,
    ),
}
FORMATS = tuple(TABLE)
# Formats that are cut into one file per part.
SHARDED = tuple(name for name, form in TABLE.items() if form.writer is not None)


def part_file(name: str, number: int) -> str:
    """The name of a part's file in a sharded format."""
    return f"train-{number:05d}{TABLE[name].suffix}"


def format_of(path: Path) -> str | None:
    """The format of a file, by its first bytes; None if it is none of ours."""
    return next((name for name, form in TABLE.items() if form.recognises(path)), None)
