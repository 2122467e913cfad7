"""Predicts the cost of preparing a source: `prep --plan`.

Some hundred images are really prepared and loaded, in each of a few ways. The sizes of all files in
the source scale these measurements up. Every figure is a prediction for this machine.
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
from data_tools.planning.rates import decode_rate, write_rate
from data_tools.planning.trial import Load, Sample, Trial
from data_tools.policy import Policy
from data_tools.prepare import page_size_for
from data_tools.progress import Tick
from data_tools.quantities import human
from data_tools.sources.registry import open_source
from data_tools.sources.source import Source
from data_tools.store import Store

ROUNDS = 3
# The sample grows until the bytes are known to this share (95 %), or to MOST images.
ERROR, MOST = 0.04, 1200


@dataclass(frozen=True)
class Row:
    """One way to prepare the source, and the predictions for it."""

    name: str
    flags: str
    """Flags of `fastmoco prep`."""
    bytes: int
    bytes_error: float
    """Half the width of the 95 % interval as a share of `bytes`, from the spread of the sample."""
    prepare_rate: float
    """Images/s."""
    prepare_seconds: float
    """Seconds for all images. The disk may limit it."""
    load_rate: float
    """Images/s."""
    loader_bytes: int
    """Bytes of memory of this project's loader."""
    ffcv_bytes: int
    """Bytes of memory of the official FFCV loader, whose buffers fit the largest sides."""
    quarantined: float
    """Share of the images that prep quarantines."""
    undecodable: float = 0.0
    """Share of the images that prep stores although their pixels can't be decoded."""


@dataclass(frozen=True)
class Target:
    """Requirements that the chosen way must meet. None: no requirement."""

    rate: float | None = None
    """Images/s that loading must reach."""
    bytes: int | None = None
    """Most bytes that the dataset may take on the disk."""


@dataclass(frozen=True)
class Plan:
    """Predictions for each way to prepare a source, and the way to choose."""

    source: str
    images: int
    sampled: int
    loading: str
    """The work that load_rate measures, in words."""
    disk_rate: float
    """Bytes/s that the disk of the output wrote."""
    rows: list[Row]
    chosen: int
    """Index of the row to take; -1 if none meets the target."""
    reason: str


def ways(policy: Policy) -> list[tuple[str, str, Policy]]:
    """Return (name, flags, policy) of each row, from no change to the largest."""
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
    sample: int = 300,
    load: Load | None = None,
    target: Target | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Tick | None = None,
) -> Plan:
    """Predict the cost of preparing `source` in each of a few ways, and choose one.

    form: format of the output. sample: least number of images to try. load(store) -> images/s
    [default: the bare decode on all cores]. target: requirements for the choice. out: future place
    of the dataset, whose disk is measured. progress(done, total): called after every trial.
    Raises UserError if the source cannot be read or holds no image. Closes the source.
    """
    target = target or Target()
    files = open_source(source)
    base = next(p for p in (Path(out or ".").absolute(), *Path(out or ".").absolute().parents)
                if p.is_dir())
    scratch = tempfile.mkdtemp(prefix=".plan-", dir=base if os.access(base, os.W_OK) else None)
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            disk_rate = write_rate(file.fileno())
        trials, tried = try_ways(files, policy or Policy(), form, sample, load or bare_decode,
                                 Path(scratch), progress)
        rows = [row_of(trial, files, tried, form, disk_rate) for trial in trials]
    finally:
        shutil.rmtree(scratch)
        files.close()
    chosen, reason = choose(rows, target)
    loading = "bare decode" if load is None else f"two {VIEW}-pixel views per image"
    return Plan(files.name, len(files.keys), len(tried.ids), f"{loading}, {cores()} threads",
                disk_rate, rows, chosen, reason)


def bare_decode(store: Store) -> float:
    """Images/s of the decode alone, in random order: a sample is sorted by size."""
    order = np.random.default_rng(0).permutation(len(store))
    return decode_rate(store, order.tolist(), cores())


def try_ways(
    files: Source, policy: Policy, form: str, count: int, load: Load, scratch: Path,
    progress: Tick | None,
) -> tuple[list[Trial], Sample]:
    """Try each way on the same images, until the bytes are known well enough; then measure its
    rates, in alternating rounds."""
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
    for trial in trials:  # two ways are the same if no image of the source is that large
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
        quarantined=float((trial.stored == 0).mean()), undecodable=float(trial.damaged.mean()),
    )


def choose(rows: Sequence[Row], target: Target) -> tuple[int, str]:
    """Return the first row, which has the least change, that meets the target, and the reason;
    -1 and the nearest way if none does."""
    def fits(row: Row) -> bool:
        return (target.rate is None or row.load_rate >= target.rate) and (
            target.bytes is None or row.bytes <= target.bytes)

    wish = " and ".join(text for text in (
        f"loads at least {target.rate:,.0f} images/s" if target.rate is not None else "",
        f"takes at most {human(target.bytes)}" if target.bytes is not None else "") if text)
    found = next((i for i, row in enumerate(rows) if fits(row)), -1)
    if wish and found >= 0:
        return found, f"the least change that {wish}"
    if wish:
        small = [row for row in rows if target.bytes is None or row.bytes <= target.bytes]
        best = max(small, key=lambda row: row.load_rate) if small else min(
            rows, key=lambda row: row.bytes)
        return -1, (f"nothing here {wish}; nearest is {best.name}: {best.load_rate:,.0f} images/s, "
                    f"{human(best.bytes)}")
    fastest = max(rows, key=lambda row: row.load_rate)
    times = fastest.load_rate / rows[0].load_rate
    return 0, ("nothing is lost" if times < 1.2 else
               f"nothing is lost; {fastest.name} would load {times:.1f} times as fast")
