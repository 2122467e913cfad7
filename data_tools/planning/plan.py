"""What preparing would cost, before it is done: `prep --plan`.

Some hundred images are really prepared, and loaded, in each of a few ways; the whole follows from
what the source tells of the others, their sizes. Every figure is a prediction for this machine.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.machine import cores
from data_tools.planning.predict import VIEW, loader_memory, predicted_bytes
from data_tools.planning.trial import Load, Sample, Trial, decode_rate, write_rate
from data_tools.policy import Policy
from data_tools.prepare import page_size_for
from data_tools.progress import Tick
from data_tools.quantities import human
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source

ROUNDS = 3
# The sample grows until the bytes are known this well (95 %), or to so many images.
ERROR, MOST = 0.04, 1200


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
    progress: Tick | None = None,
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
        disk_rate = write_rate(Path(scratch) / "test")
        trials, tried = try_ways(files, policy or Policy(), form, sample, load or decode_rate,
                                 Path(scratch), progress)
        rows = [row_of(trial, files, tried, form, disk_rate) for trial in trials]
    finally:
        shutil.rmtree(scratch)
        files.close()
    chosen, reason = choose(rows, target_rate, disk)
    loading = "bare decode" if load is None else f"two {VIEW}-pixel views an image"
    return Plan(files.name, len(files.keys), len(tried.ids), f"{loading}, {cores()} threads",
                disk_rate, rows, chosen, reason)


def try_ways(
    files: Source, policy: Policy, form: str, count: int, load: Load, scratch: Path,
    progress: Tick | None,
) -> tuple[list[Trial], Sample]:
    """Each way tried on the same images, as many as the bytes ask for; then timed, in rounds."""
    trials = [Trial(name, flags, changed, page_size_for(files, changed), scratch / str(number))
              for number, (name, flags, changed) in enumerate(ways(policy))]
    total = (1 + ROUNDS) * len(trials)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    sample = Sample(files, count)
    for trial in trials:
        trial.measure_bytes(sample)
        step()
    while len(sample.ids) < min(MOST, len(files.keys)) and (
        max(predicted_bytes(trial, files, sample, form)[1] for trial in trials) > ERROR
    ):
        sample = Sample(files, 2 * len(sample.ids))
        total += len(trials)
        for trial in trials:
            trial.measure_bytes(sample)
            step()
    different: list[Trial] = []
    for trial in trials:  # where nothing in the source is so large, two ways are one
        if not any(np.array_equal(trial.stored, other.stored) for other in different):
            different.append(trial)
    total -= ROUNDS * (len(trials) - len(different))
    for _ in range(ROUNDS):
        for trial in different:
            trial.measure_rates(sample, load)
            step()
    return different, sample


def row_of(trial: Trial, files: Source, sample: Sample, form: str, disk_rate: float) -> Row:
    total, error = predicted_bytes(trial, files, sample, form)
    rate = statistics.median(trial.prepare_rates)
    ours, ffcv = loader_memory(trial.rows)
    return Row(
        name=trial.name, flags=trial.flags, bytes=total, bytes_error=error, prepare_rate=rate,
        prepare_seconds=max(len(files.keys) / rate, total / disk_rate),
        load_rate=statistics.median(trial.load_rates), loader_bytes=ours, ffcv_bytes=ffcv,
        quarantined=float((trial.stored == 0).mean()),
    )


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
