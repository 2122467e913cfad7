"""The table of the formats of prepared datasets. Add a format here.

All code that reads or writes any format looks it up in TABLE.
"""

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
    """A file that is being written, of a format that is cut into files."""

    def append(self, i: int, image: Prepared, label: int) -> tuple[int, int]: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Format:
    """A format, as far as other code must know it. Its module alone knows the layout of bytes."""

    recognises: Callable[[Path], bool]
    """True for a file of this format, by its first bytes."""
    scan: Callable[[Path, Tick | None], Rows]
    """Reads the index of a whole file, of any writer. progress(done, total): in bytes."""
    reread: Callable[[Path], np.ndarray]
    """Reads the index of a file that prep wrote, for verify: INDEX_DTYPE [N]."""
    suffix: str
    writer: Callable[[Path], Writer] | None
    """Writes one part of a dataset. None for a beton, which is one file for all parts."""


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
    """The name of a file's format, by its first bytes; None if it has none of these formats."""
    return next((name for name, form in TABLE.items() if form.recognises(path)), None)
