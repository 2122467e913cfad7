"""Measures images per second of each stage of training, the bottleneck, and the best change."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.preparation import workers
from data_tools.progress import Tick
from data_tools.safe_reading.json_file import Damaged, parse
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco.loading.engines.registry import Opened, open_engine
from fastmoco.loading.read_ahead import pick_order
from fastmoco.measuring import roofline
from fastmoco.measuring.roofline import Bound, Change
from fastmoco.measuring.stages import Stages, read_rates
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.runs.bench_file import from_json
from fastmoco.settings.verbs import BenchSettings
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import describe, peak_memory

ROUNDS = BenchSettings.rounds
CPU_BATCH = 64  # images at most
ALLOWED = 1 / 6  # by which a stage, as a multiple of decode, may be slower than a saved report
SAME = ("recipe", "size", "batch", "precision", "cores")
UNSTEADY = ("read, from disk", "read, in memory", "decode")


@dataclass(frozen=True)
class Stage:
    """A row of the report: images/s of a stage, as median, minimum and maximum of the rounds."""

    name: str
    images_per_s: float
    least: float
    most: float
    per_core: float


Show = Callable[[Stage], None]


@dataclass(frozen=True)
class Report:
    """Result of `fastmoco bench`."""

    data: str
    images: int
    mean_kilobytes: float
    mean_megapixels: float
    machine: str
    cores: int
    engine: str
    recipe: str
    size: int
    batch: int
    precision: str
    stages: list[Stage]
    bounds: list[Bound]
    binds: str
    advice: str
    changes: list[Change]
    device_memory: int
    """Peak memory of the device in bytes, 0 on the CPU."""

    def rate(self, name: str) -> float:
        """Return the images/s of a stage."""
        return next(s.images_per_s for s in self.stages if s.name == name)


def bench(
    data: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    rounds: int = ROUNDS,
    seconds: float = 1.0,
    tick: Tick | None = None,
    show: Show | None = None,
) -> Report:
    """Measure the stages of training, alone and together, for `seconds` each in every round.

    show(stage) is called after each measurement, with the rounds of that stage so far. On the CPU
    the batch is 64 at most, so that a large encoder can be measured at all. Raises UserError for
    settings that cannot run.
    """
    if rounds < 1 or not 0 < seconds < math.inf:
        raise UserError(f"--rounds {rounds} --seconds {seconds}: give 1 or more, and above 0")
    options.check()
    recipe.check()
    store = open_store(data)
    device = pick_device(options.device)
    recipe = measurable(recipe, store, device)
    threads = options.threads or workers.cores()
    found: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        found.setdefault(name, []).append(rate)
        if show is not None:
            show(stage_of(name, found[name], threads))

    # Before anything maps the files: pages that are mapped stay in memory.
    for stage, rate in zip(UNSTEADY, read_rates(store, threads, seconds), strict=False):
        note(stage, rate)
    many = repeated(store, 64 * recipe.batch)
    opened = open_engine(options.engine, many, options.threads, device)
    try:
        stages = Stages(many, recipe, options, device, opened.engine)
        interleaved(stages, rounds, seconds, note, tick)
    finally:
        opened.engine.close()
    rows = [stage_of(stage, rates, opened.engine.threads) for stage, rates in found.items()]
    return report_of(str(data), store, recipe, device, opened, rows)


def measurable(recipe: Recipe, store: Store, device: torch.device) -> Recipe:
    """Return the recipe as it is measured: a batch that the dataset and a CPU can take, and the
    settled order, precision and augmentation."""
    most = len(store) if device.type == "cuda" else CPU_BATCH
    batch = min(recipe.batch, most)
    return dataclasses.replace(
        recipe, batch=batch, bn_splits=math.gcd(recipe.bn_splits, batch),
        order=pick_order(recipe.order, store)[0],
        precision=pick_precision(recipe.precision, device),
        augmentation=recipe.augmentation_at(recipe.size),
    )


def repeated(store: Store, images: int) -> Subset:
    """Return the store repeated until it has this many images: with a handful of batches per epoch
    the pipeline would never run full."""
    laps = -(-images // len(store))
    return Subset(store, np.tile(np.arange(len(store)), laps))


def report_of(
    data: str, store: Store, recipe: Recipe, device: torch.device, opened: Opened,
    rows: list[Stage],
) -> Report:
    """Return the report on measured stages, with the bounds and the advice that follow from them.
    """
    rate_of = {row.name: row.images_per_s for row in rows}
    overlap = device.type == "cuda"
    can_bfloat16 = pick_precision("auto", device) == "bfloat16"
    cores = opened.engine.threads
    costs = roofline.without_decoding(rate_of) if opened.name == "resident" else rate_of
    changes = roofline.changes(costs, store, recipe, overlap, cores, can_bfloat16)
    return Report(
        data=data,
        images=len(store),
        mean_kilobytes=float(np.mean([len(store.encoded(i)) for i in sample(store)])) / 1e3,
        mean_megapixels=float(store.sizes.astype(np.float64).prod(axis=1).mean()) / 1e6,
        machine=describe(device),
        cores=cores,
        engine=opened.line,
        recipe=recipe.name,
        size=recipe.size,
        batch=recipe.batch,
        precision=recipe.precision,
        stages=rows,
        bounds=roofline.bounds(costs, overlap),
        binds=roofline.binds(costs, overlap),
        advice=roofline.advice(changes, rate_of),
        changes=changes,
        device_memory=peak_memory(device),
    )


def stage_of(name: str, rates: Sequence[float], cores: int) -> Stage:
    """Return the row of a stage with these images/s in its rounds."""
    median = statistics.median(rates)
    return Stage(name, median, min(rates), max(rates), median / cores)


def interleaved(
    stages: Stages, rounds: int, seconds: float, note: Callable[[str, float], None],
    tick: Tick | None,
) -> None:
    """Run all stages once per round, so that a slow minute of the machine slows them all.

    note(name, images/s) is called after each stage of each round.
    """
    stages.warm_up()
    for i in range(rounds):
        for j, (name, run) in enumerate(stages.runs.items()):
            note(name, run(seconds))
            if tick is not None:
                tick(i * len(stages.runs) + j + 1, rounds * len(stages.runs))


def sample(store: Store, count: int = 1000) -> Iterator[int]:
    """Return about `count` sample ids, evenly spread over the store."""
    return iter(range(0, len(store), max(1, len(store) // count)))


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a report that was saved with --json. Raises UserError for any other file."""
    try:
        with open(path, "rb") as file:  # not read_json: a pipe works too
            saved = from_json(parse(file.read()))
        return {"path": str(path), "rates": saved.rates, "decode": saved.rates["decode"]} | {
            name: getattr(saved, name) for name in SAME
        }
    except (OSError, Damaged, KeyError) as error:
        why = f"no stage {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"--against {path}: not a report of fastmoco bench --json ({why})"
        ) from None


def compare(report: Report, saved: dict[str, Any]) -> list[str]:
    """Return a line on each stage that is slower than in a saved report (read_report).

    Rates are compared as multiples of decode in the same run, because the load of a machine slows
    both. They may fall by a sixth. Raises UserError for a report of another recipe, size, batch,
    precision or number of cores.
    """
    for name in SAME:
        if saved[name] != getattr(report, name):
            raise UserError(
                f"--against {saved['path']}: measured with {name} {saved[name]}, not "
                f"{getattr(report, name)}"
            )
    lines = []
    for stage in report.stages:
        then = saved["rates"].get(stage.name, 0.0)
        if stage.name in UNSTEADY or not then:
            continue
        ratio = stage.images_per_s / report.rate("decode") * saved["decode"] / then
        if ratio < 1 - ALLOWED:
            lines.append(
                f"{stage.name}: {ratio:.2f} of what {saved['path']} has, as multiples of decode "
                f"({stage.images_per_s:,.0f} images/s now, {then:,.0f} then)"
            )
    return lines
