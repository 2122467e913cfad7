"""Writes the index files that DALI takes beside TFRecord, RecordIO and WebDataset files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_tools.files import FileRecord, Sealed
from data_tools.formats import recordio, tfrecord, webdataset


def write_dali_indexes(
    name: str, folder: Path, data: Sequence[str], rows: Iterable[np.ndarray],
    numbers: Iterable[np.ndarray],
) -> dict[str, FileRecord]:
    """Writes one index per data file, but a single one for all files of RecordIO.

    name: the format. data: names of the data files in `folder`. rows, numbers: per data file, the
    INDEX_DTYPE rows of its images and their numbers in the source. Returns the records of the files
    for the manifest.
    """
    files: dict[str, FileRecord] = {}
    each = zip(data, rows, numbers, strict=True)
    if name == "recordio":
        first = base = 0
        with Sealed(folder / "train.idx") as index:
            for file, block, _ in each:
                index.write(recordio.dali_index(block, first, base).encode())
                first, base = first + len(block), base + (folder / file).stat().st_size
        return {"train.idx": index.record}
    for file, block, i in each:
        tar = name == "webdataset"
        text = webdataset.dali_index(block, i) if tar else tfrecord.dali_index(block)
        with Sealed(folder / f"{file}.idx") as index:
            index.write(text.encode())
        files[f"{file}.idx"] = index.record
    return files
