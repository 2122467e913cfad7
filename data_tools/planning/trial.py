"""Tries one way to prepare a source on some of its images: measures their bytes and the rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.images import codec
from data_tools.images.prepare_image import BadImage
from data_tools.policy import Policy
from data_tools.preparation.workers import Done, stored_raw, work_through
from data_tools.sources.source import Source
from data_tools.store import INDEX_DTYPE, JPEG, RAW, Store
from data_tools.subset import Subset

Load = Callable[[Store], float]
# Each timing lasts about SECONDS, but writes at most WRITTEN bytes.
SECONDS, WRITTEN = 0.6, 400_000_000


class Sample:
    """Some images of a source, as a source of their own, evenly spread over all file sizes."""

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
        self._decodes: dict[int, bool] = {}

    def read(self, i: int) -> bytes | np.ndarray:
        return self._source.read(int(self.ids[i]))

    def close(self) -> None:
        pass

    def decodes(self, done: Done) -> bool:
        """False if image `done.i` is stored as a copy of a JPEG whose pixel data is damaged.

        prep copies such a JPEG, unless it is given --check decode; but no loader can decode it.
        """
        result = done.result
        if isinstance(result, BadImage) or result.reason or result.raw:
            return True  # not a copy
        if done.i not in self._decodes:
            try:
                codec.check_jpeg(result.data)
                self._decodes[done.i] = True
            except BadImage:
                self._decodes[done.i] = False
        return self._decodes[done.i]


class Trial:
    """One way to prepare a source, tried on a sample of it."""

    raw: np.ndarray
    """bool [n]: True for each sampled image that the policy stores raw."""
    stored: np.ndarray
    """float64 [n]: bytes that each sampled image takes; 0 if it is quarantined."""
    damaged: np.ndarray
    """bool [n]: True for each image that prep stores although its pixels can't be decoded."""
    rows: np.ndarray
    """INDEX_DTYPE, one row per stored image, without its place in the file."""

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
        """Prepares the sample once. Raises UserError if none of its images can be used."""
        fraction = self.policy.raw_fraction
        self.raw = np.array([stored_raw(i, fraction) for i in range(len(sample.ids))])
        damaged = np.zeros(len(sample.ids), np.bool_)

        def look(done: Done) -> None:
            damaged[done.i] = not sample.decodes(done)

        writer, self.rows = self._write(sample, look)
        writer.close()
        self._path.unlink()
        self.damaged = damaged
        if not len(self.rows):
            raise UserError(f"{sample.name}: none of {len(sample.ids):,} sampled images can be "
                            "prepared; run prep to see why")
        if damaged[self.stored > 0].all():
            raise UserError(f"{sample.name}: none of {len(sample.ids):,} sampled images can be "
                            "decoded; run prep with --check decode to see why")

    def measure_rates(self, sample: Sample, load: Load) -> None:
        """Prepares the sample into a beton several times, then loads the last of them."""
        images, elapsed = 0, 0.0
        while True:
            started = time.perf_counter()
            writer, rows = self._write(sample)
            elapsed += time.perf_counter() - started
            images += len(sample.ids)
            if elapsed >= SECONDS or self.stored.sum() * images / len(sample.ids) > WRITTEN:
                break
            writer.close()
            self._path.unlink()
        self.prepare_rates.append(images / elapsed)
        writer.finish(lambda: iter([rows]))
        store: Store = beton.open_beton(self._path)
        damaged = self.damaged[self.stored > 0]
        if damaged.any():  # a loader would stop at the first of these
            store = Subset(store, np.flatnonzero(~damaged))
        self.load_rates.append(load(store))
        self._path.unlink()

    def _write(
        self, sample: Sample, look: Callable[[Done], None] | None = None
    ) -> tuple[beton.BetonWriter, np.ndarray]:
        """Prepares the sample into a new beton, and sets `stored`. look(done) sees each image.

        Returns the writer, which is still open, and the rows of the stored images.
        """
        self._files += 1
        self._path = self.folder / f"{self._files}.beton"
        writer = beton.BetonWriter(self._path, len(sample.ids), self.page_size)
        writer.go_on()
        stored = np.zeros(len(sample.ids))
        rows = np.zeros(len(sample.ids), INDEX_DTYPE)
        good = 0
        everything = [range(len(sample.ids))]
        for done in work_through(sample, everything, self.policy, self.page_size):
            if look is not None:
                look(done)
            if isinstance(done.result, BadImage):
                continue
            writer.append(done.result.data)
            stored[done.i] = rows["size"][good] = len(done.result.data)
            rows["height"][good], rows["width"][good] = done.result.height, done.result.width
            rows["kind"][good] = RAW if done.result.raw else JPEG
            good += 1
        writer.flush()
        self.stored = stored
        return writer, rows[:good]
