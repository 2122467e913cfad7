"""What preparing would cost, before it is done: `prep --plan`.

Some hundred images are really prepared, and loaded, in each of a few ways; the whole follows from
what the source tells of the others, their sizes. Every figure is a prediction for this machine.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from data_tools.errors import UserError
from data_tools.formats import beton
from data_tools.image import BadImage
from data_tools.policy import Policy
from data_tools.prepare import page_size_for
from data_tools.sources import Source, open_source
from data_tools.store import INDEX_DTYPE, JPEG, RAW, MappedStore
from data_tools.workers import cores, work_through

Progress = Callable[[int, int], None]
Load = Callable[[MappedStore], float]
ROUNDS = 3
# A round prepares the sample again and again for about this long, but writes at most so much.
SECONDS, WRITTEN = 0.6, 400_000_000
# The sample grows until the bytes are known this well (95 %), or to so many images.
ERROR, MOST = 0.04, 1200
DISK_TEST = 64_000_000
# Ours: a ring of 4 batches of 256, two views of 224 pixels. FFCV's loader: see loader_memory.
BATCH, RING, VIEW, FFCV_SLOTS = 256, 4, 224, 5
# Bytes beside the image's own: a row and a place of a beton; a head, and what fills up blocks.
PER_IMAGE = {"beton": 48, "tfrecord": 175, "recordio": 34, "webdataset": 512 + 256 + 1024}
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Row:
    """One way to prepare the source, and what is predicted of it."""

    name: str
    flags: str
    """Of `fastmoco prep`."""
    bytes: int
    bytes_error: float
    """Half the width of the 95 % interval, as a share of the bytes; from the sample's spread."""
    prepare_rate: float
    """Images/s."""
    prepare_seconds: float
    """For all images; the disk may be what limits it."""
    load_rate: float
    """Images/s."""
    loader_bytes: int
    """Memory of this project's loader."""
    ffcv_bytes: int
    """Memory of the official FFCV loader, which fits its buffers to the largest sides."""
    quarantined: float
    """Share of the images."""


@dataclass(frozen=True)
class Plan:
    source: str
    images: int
    sampled: int
    loading: str
    """What load_rate is of."""
    disk_rate: float
    """Bytes/s that the output's disk took."""
    rows: list[Row]
    chosen: int
    """The row to take; -1: none does what was asked."""
    reason: str


def ways(policy: Policy) -> list[tuple[str, str, Policy]]:
    """(name, flags, policy) of the rows: from no change to the largest."""
    def way(name: str, flags: str, **changes: object) -> tuple[str, str, Policy]:
        return name, flags, dataclasses.replace(policy, **changes)  # type: ignore[arg-type]

    return [
        ("as given", "", policy),
        way("longer side 500", "--max-side 500", max_side=500),
        way("shorter side 256", "--short-side 256", short_side=256),
        way("shorter side 256, quality 75", "--short-side 256 --quality 75",
            short_side=256, quality=75),
        way("shorter side 160", "--short-side 160", short_side=160),
        way("shorter side 256, half raw", "--max-side 500 --short-side 256 --raw-fraction 0.5",
            max_side=500, short_side=256, raw_fraction=0.5),
        way("shorter side 256, raw", "--max-side 500 --short-side 256 --raw-fraction 1",
            max_side=500, short_side=256, raw_fraction=1.0),
    ]


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

    def __init__(self, name: str, flags: str, policy: Policy, folder: Path) -> None:
        self.name, self.flags, self.policy, self.folder = name, flags, policy, folder
        self.stored = np.empty(0)
        """Bytes of each sampled image, 0 where it is quarantined."""
        self.rates: list[float] = []
        self.loads: list[float] = []
        self.page_size = beton.PAGE
        self._file = 0

    def prepare(self, sample: Sample) -> MappedStore:
        """Prepares the sample into a beton, again and again; -> the last time's images."""
        self._file += 1
        path = self.folder / f"{self._file}.beton"
        self.page_size = page_size_for(sample, self.policy)
        images, elapsed = 0, 0.0
        while True:
            path.unlink(missing_ok=True)
            begun = time.perf_counter()
            writer, rows = self._write(path, sample)
            elapsed += time.perf_counter() - begun
            images += len(sample.ids)
            if elapsed >= SECONDS or self.stored.sum() * images / len(sample.ids) > WRITTEN:
                break
            writer.close()
        self.rates.append(images / elapsed)
        if not len(rows):
            writer.close()
            raise UserError(f"{sample.name}: none of {len(sample.ids):,} sampled images can be "
                            "prepared; run prep to see why")
        writer.finish(lambda: iter([rows]))
        return beton.open_beton(path)

    def _write(self, path: Path, sample: Sample) -> tuple[beton.BetonWriter, np.ndarray]:
        writer = beton.BetonWriter(path, len(sample.ids), self.page_size)
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
        return writer, rows[:good]


def plan(
    source: str | os.PathLike[str] | Source,
    policy: Policy | None = None,
    form: str = "beton",
    *,
    labels: str | os.PathLike[str] | None = None,
    sample: int = 300,
    load: Load | None = None,
    target_rate: float | None = None,
    disk: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Predicts what preparing `source` costs in each of a few ways, and chooses one.

    form: the output's format. sample: images to try, at least. load(store) -> images/s; without
    it the bare decode on all cores. target_rate: images/s that loading should reach; disk: bytes
    that the dataset may take. out: where it would lie: its disk is measured.
    progress(done, total): told how many trials are through.
    Raises UserError where the source can't be read or holds no image.
    """
    files = open_source(source, labels)
    base = next(p for p in (Path(out or ".").absolute(), *Path(out or ".").absolute().parents)
                if p.is_dir())
    scratch = tempfile.mkdtemp(prefix=".plan-", dir=base if os.access(base, os.W_OK) else None)
    try:
        return measure(files, policy or Policy(), form, sample, load, target_rate, disk,
                       Path(scratch), progress)
    finally:
        shutil.rmtree(scratch)
        files.close()


def measure(
    files: Source,
    policy: Policy,
    form: str,
    count: int,
    load: Load | None,
    target_rate: float | None,
    disk: int | None,
    scratch: Path,
    progress: Progress | None,
) -> Plan:
    disk_rate = write_rate(scratch / "test")
    trials: list[Trial] = []
    stores: list[MappedStore] = []
    sample = Sample(files, count)
    tried = ways(policy)
    for number, (name, flags, changed) in enumerate(tried):
        folder = scratch / str(number)
        folder.mkdir()
        trial = Trial(name, flags, changed, folder)
        store = trial.prepare(sample)
        while predicted_bytes(trial, files, sample, form)[1] > ERROR and (
            len(sample.ids) < min(MOST, len(files.keys))
        ):
            sample = Sample(files, 2 * len(sample.ids))
            for other in [*trials, trial]:
                store = other.prepare(sample)
        if any(np.array_equal(trial.stored, other.stored) for other in trials):
            continue  # nothing in the source is that large
        trials.append(trial)
        stores.append(store)
        trial.loads.append((load or decode_rate)(store))
        if progress is not None:
            progress(number + 1, ROUNDS * len(tried))
    for turn in range(1, ROUNDS):
        for number, trial in enumerate(trials):
            store = trial.prepare(sample)
            trial.loads.append((load or decode_rate)(store))
            if progress is not None:
                progress(len(tried) + (turn - 1) * len(trials) + number + 1,
                         len(tried) + (ROUNDS - 1) * len(trials))
    rows = [row_of(trial, store, files, sample, form, disk_rate)
            for trial, store in zip(trials, stores, strict=True)]
    chosen, reason = choose(rows, target_rate, disk)
    loading = "bare decode" if load is None else f"two {VIEW}-pixel views an image"
    return Plan(files.name, len(files.keys), len(sample.ids), f"{loading}, {cores()} threads",
                disk_rate, rows, chosen, reason)


def row_of(
    trial: Trial, store: MappedStore, files: Source, sample: Sample, form: str, disk_rate: float
) -> Row:
    total, error = predicted_bytes(trial, files, sample, form)
    rate = statistics.median(trial.rates)
    ours, ffcv = loader_memory(store)
    return Row(
        name=trial.name, flags=trial.flags, bytes=total, bytes_error=error, prepare_rate=rate,
        prepare_seconds=max(len(files.keys) / rate, total / disk_rate),
        load_rate=statistics.median(trial.loads), loader_bytes=ours, ffcv_bytes=ffcv,
        quarantined=float((trial.stored == 0).mean()),
    )  # fmt: skip


def predicted_bytes(
    trial: Trial, files: Source, sample: Sample, form: str
) -> tuple[int, float]:
    """Bytes on the disk, and their error (see Row), from the sample.

    Either by the ratio of stored to source bytes, which is 1 for what is copied, or by the mean of
    the stored; whichever scatters less. The sample is sorted by size, so neighbours are alike and
    their differences tell the scatter (systematic sampling).
    """
    n, images = len(sample.ids), len(files.keys)
    sizes, stored = sample.sizes.astype(float), trial.stored
    ratio = stored.sum() / max(sizes.sum(), 1)
    by_ratio = ratio * float(np.asarray(files.sizes, np.int64).sum())
    by_mean = float(stored.mean()) * images

    def scatter(values: np.ndarray) -> float:
        spread = np.sqrt((np.diff(values) ** 2).sum() / max(2 * (n - 1), 1))
        return float(1.96 * images * spread / np.sqrt(n) * np.sqrt(max(0, 1 - n / images)))

    pairs = [(scatter(stored - ratio * sizes), by_ratio), (scatter(stored), by_mean)]
    error, content = min(pairs)
    good = max(1, round(images * (stored > 0).mean()))
    total = content + good * PER_IMAGE[form]
    if form == "beton":
        # An image doesn't cross a page: half of one, weighed by size, is lost at each page's end.
        lost = float((stored**2).sum() / max(2 * stored.sum(), 1))
        pages = np.ceil(content / (trial.page_size - lost))
        total += pages * trial.page_size - content + trial.page_size / 2
    return round(total), error / max(content, 1)


def loader_memory(store: MappedStore) -> tuple[int, int]:
    """(ours, FFCV's): bytes that a training loader holds, batch 256, two views.

    FFCV's crop decoders hold (batches_ahead + 2) x batch x largest height x largest width x 3 bytes
    for each view (ffcv/fields/rgb_image.py and loader/epoch_iterator.py, release 1.0.2).
    """
    height, width = store.sizes.max(axis=0).tolist()
    pixels = int(store.sizes.astype(np.int64).prod(axis=1).max())
    ours = RING * BATCH * 2 * VIEW * VIEW * 3 + cores() * 2 * 3 * pixels
    return ours, FFCV_SLOTS * BATCH * height * width * 3 * 2


def choose(rows: Sequence[Row], target_rate: float | None, disk: int | None) -> tuple[int, str]:
    """The first row, so the least change, that does what is asked; -1 and what comes nearest."""
    def fits(row: Row) -> bool:
        return (target_rate is None or row.load_rate >= target_rate) and (
            disk is None or row.bytes <= disk)

    wish = " and ".join(text for text in (
        f"loads at least {target_rate:,.0f} images/s" if target_rate is not None else "",
        f"takes at most {human(disk)}" if disk is not None else "") if text)
    found = next((i for i, row in enumerate(rows) if fits(row)), -1)
    if wish and found >= 0:
        return found, f"the least change that {wish}"
    if wish:
        small = [row for row in rows if disk is None or row.bytes <= disk]
        best = max(small, key=lambda row: row.load_rate) if small else min(
            rows, key=lambda row: row.bytes)
        return -1, (f"nothing here {wish}; nearest is {best.name}: {best.load_rate:,.0f} images/s, "
                    f"{human(best.bytes)}")
    fastest = max(rows, key=lambda row: row.load_rate)
    times = fastest.load_rate / rows[0].load_rate
    return 0, ("nothing is lost" if times < 1.2 else
               f"nothing is lost; {fastest.name} would load {times:.1f} times as fast")


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
        while time.perf_counter() - begun < SECONDS:
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


def parse_size(text: str) -> int:
    """"200GB", "1.5 TB", "800GiB" in bytes. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    size = 0
    if match:
        number, unit, binary = match.groups()
        power = list(UNITS).index(unit.upper())
        size = round(float(number) * (1024**power if binary else UNITS[unit.upper()]))
    if size < 1:
        raise UserError(f"--disk {text}: give a size, such as 200GB or 1.5TB")
    return size


def human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit in ("B", "kB") else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def duration(seconds: float) -> str:
    steps = ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h"))
    divisor, unit = next((divisor, unit) for limit, divisor, unit in steps if seconds < limit)
    return f"{max(seconds / divisor, 0.1):,.1f} {unit}"


def lines(found: Plan) -> list[str]:
    """The plan for people."""
    heads = ("", "on disk", "+-", "prep img/s", "prep takes", "load img/s", "loader", "FFCV's")
    table = [heads] + [
        (row.name, human(row.bytes), f"{row.bytes_error:.0%}", f"{row.prepare_rate:,.0f}",
         duration(row.prepare_seconds), f"{row.load_rate:,.0f}", human(row.loader_bytes),
         human(row.ffcv_bytes))
        for row in found.rows
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    out = [f"{found.source}: predicted from {found.sampled:,} of {found.images:,} images, tried on "
           "this machine", f"loading: {found.loading}; disk: {human(found.disk_rate)}/s"]
    for name, *cells in table:
        right = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        out.append("  ".join([f"{name:<{widths[0]}}", *right]).rstrip())
    bad = found.rows[0].quarantined if found.rows else 0
    if bad:
        out.append(f"about {bad:.1%} of the images would be quarantined")
    if found.chosen < 0:
        return [*out, found.reason]
    row = found.rows[found.chosen]
    flags = f" {row.flags}" if row.flags else ""
    return [*out, f"choose: {row.name}: {found.reason}", f"  fastmoco prep SOURCE OUT{flags}"]

