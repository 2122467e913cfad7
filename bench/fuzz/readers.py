"""The table of all readers that are fuzzed."""

from __future__ import annotations

from bench.fuzz import dataset_readers, image_readers, run_readers, source_readers
from bench.fuzz.reader import Reader

READERS: list[Reader] = [*image_readers.READERS, *source_readers.READERS,
                         *dataset_readers.READERS, *run_readers.READERS]
