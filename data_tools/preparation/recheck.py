"""Checks the files of parts that a journal lists as done, before a preparation goes on.

Files of sharded formats are checked for their size, as open_store does; `verify` checks the images
in them. Images that the new run builds on are checked by their checksums: those in the spool, and
those in the growing beton, because they end up in one file with the new images.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from data_tools.formats.registry import SHARDED, part_file
from data_tools.machine import cores
from data_tools.preparation.assemble import GROWING, Assembly
from data_tools.preparation.journal import Journal, Record
from data_tools.preparation.parts import Job, Part
from data_tools.sources.source import Source

# Number of images that a thread checks per task.
CHUNK = 256


def has_its_files(record: Record, job: Job, out: Path) -> bool:
    """True if the files of a part exist and have the sizes in its record (old records have none).
    """
    if not len(record.samples):
        return True
    for name in job.formats:
        if name not in SHARDED:
            continue
        try:
            size = (job.folder(out, name) / part_file(name, record.number)).stat().st_size
        except OSError:
            return False
        if size != record.file_bytes.get(name, size) or not size:
            return False
    return True


def first_damaged(
    source: Source, job: Job, out: Path, journal: Journal, parts: Sequence[Part]
) -> int:
    """The number of the first part whose images in the growing beton have changed; -1 if none has.

    parts: all parts from the first one to the last one that the beton holds.
    """
    path = job.folder(out, "beton") / GROWING
    with (
        closing(Assembly(source, job, out, journal, parts)) as placed,
        ThreadPoolExecutor(cores()) as pool,
    ):
        assert placed.beton is not None
        handle = os.open(path, os.O_RDONLY)
        try:
            for part in parts:
                first = len(placed)
                samples = journal.read_whole(part.number).samples
                placed.take(Record(part.number, samples, {}, [], {}), held=True)
                pointers = np.array(placed.beton.pointers[first:], np.uint64)
                rows = list(zip(pointers, samples["size"], samples["crc"], strict=True))
                chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
                if not all(pool.map(lambda chunk: _holds(handle, chunk), chunks)):
                    return part.number
        except OSError:
            return part.number
        finally:
            os.close(handle)
    return -1


def _holds(handle: int, rows: Sequence[tuple[int, int, int]]) -> bool:
    """True if a file holds images with these (first byte, bytes, CRC-32)."""
    return all(
        zlib.crc32(os.pread(handle, int(size), int(start))) == int(crc) for start, size, crc in rows
    )
