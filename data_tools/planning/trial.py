"""One way to prepare a source, tried on some of its images: their bytes, and how fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.images.prepare_image import BadImage
from data_tools.machine import cores
from data_tools.policy import Policy
from data_tools.preparation.workers import stored_raw, work_through
from data_tools.sources.source import Source
from data_tools.store import INDEX_DTYPE, JPEG, RAW, MappedStore

Load = Callable[[MappedStore], float]
# A timing lasts about so long, but writes at most so much.
SECONDS, WRITTEN = 0.6, 400_000_000
DISK_TEST = 64_000_000


class Sample:
    """Some images of a source, as a source: of every size as many as there are."""

    def __init__(self, source: Source, count: int) -> None:
        sizes = np.asarray(source.sizes, np.int64)
        order = np.argsort(sizes, kind="stable")
        count = min(count, len(order))
        self.ids = order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)]
        self.name, self.kind, self.fingerprint = source.name, source.kind, source.fingerprint
        self.classes, self.ignored, self.notes = source.classes, 0, source.notes
        self.keys = [source.keys[int(i)] for i in self.ids]
        self.sizes, self.labels = sizes[self.ids], source.labels[self.ids]
        self._source = source

    def read(self, i: int) -> bytes | np.ndarray:
        return self._source.read(int(self.ids[i]))

    def close(self) -> None:
        pass


class Trial:
    """One way, tried on the sample."""

    def __init__(
        self, name: str, flags: str, policy: Policy, page_size: int, folder: Path
    ) -> None:
        self.name, self.flags, self.policy = name, flags, policy
        self.page_size, self.folder = page_size, folder
        folder.mkdir()
        self.prepare_rates: list[float] = []
        self.load_rates: list[float] = []
        self._files = 0

    def measure_bytes(self, sample: Sample) -> None:
        """Prepares the sample once."""
        fraction = self.policy.raw_fraction
        self.raw = np.array([stored_raw(i, fraction) for i in range(len(sample.ids))])
        """Which are to be stored raw."""
        writer, self.rows = self._write(sample)
        writer.close()
        self._path.unlink()
        if not len(self.rows):
            raise UserError(f"{sample.name}: none of {len(sample.ids):,} sampled images can be "
                            "prepared; run prep to see why")

    def measure_rates(self, sample: Sample, load: Load) -> None:
        """Prepares the sample into a beton, again and again; then loads it."""
        images, elapsed = 0, 0.0
        while True:
            begun = time.perf_counter()
            writer, rows = self._write(sample)
            elapsed += time.perf_counter() - begun
            images += len(sample.ids)
            if elapsed >= SECONDS or self.stored.sum() * images / len(sample.ids) > WRITTEN:
                break
            writer.close()
            self._path.unlink()
        self.prepare_rates.append(images / elapsed)
        writer.finish(lambda: iter([rows]))
        self.load_rates.append(load(beton.open_beton(self._path)))
        self._path.unlink()

    def _write(self, sample: Sample) -> tuple[beton.BetonWriter, np.ndarray]:
        """-> the writer, and the rows of the images that were taken; sets `stored`."""
        self._files += 1
        self._path = self.folder / f"{self._files}.beton"
        writer = beton.BetonWriter(self._path, len(sample.ids), self.page_size)
        writer.go_on()
        stored = np.zeros(len(sample.ids))
        rows = np.zeros(len(sample.ids), INDEX_DTYPE)
        good = 0
        everything = [range(len(sample.ids))]
        for done in work_through(sample, everything, self.policy, self.page_size):
            if isinstance(done.result, BadImage):
                continue
            writer.append(done.result.data)
            stored[done.i] = rows["size"][good] = len(done.result.data)
            rows["height"][good], rows["width"][good] = done.result.height, done.result.width
            rows["kind"][good] = RAW if done.result.raw else JPEG
            good += 1
        writer.flush()
        self.stored = stored
        """Bytes of each sampled image, 0 where it is quarantined."""
        return writer, rows[:good]


def decode_rate(store: MappedStore) -> float:
    """Images/s of simplejpeg's exact decode on all cores."""
    def work(ids: np.ndarray) -> int:
        for i in ids.tolist():
            data = store.encoded(i)
            if store.kinds[i] == JPEG:
                simplejpeg.decode_jpeg(data)
            else:
                data.copy()
        return len(ids)

    chunks = np.array_split(np.arange(len(store)), min(len(store), 4 * cores()))
    begun, images = time.perf_counter(), 0
    with ThreadPoolExecutor(cores()) as pool:
        while not images or time.perf_counter() - begun < SECONDS:
            images += sum(pool.map(work, chunks))
    return images / (time.perf_counter() - begun)


def write_rate(path: Path) -> float:
    """Bytes/s that the disk takes for good."""
    block = np.random.default_rng(0).bytes(1 << 20)
    begun = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(DISK_TEST >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    return (DISK_TEST >> 20 << 20) / (time.perf_counter() - begun)
