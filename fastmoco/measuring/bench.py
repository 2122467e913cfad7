"""Images a second, stage by stage, what binds, and what to change."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.preparation import workers
from data_tools.progress import Tick
from data_tools.safe_reading.json_file import Damaged, parse
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco.loading.engines.registry import open_engine
from fastmoco.measuring import roofline
from fastmoco.measuring.roofline import Bound, Change
from fastmoco.measuring.stages import Stages, read_rates
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.runs.bench_file import from_json
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import describe, peak_memory

ROUNDS = 7  # interleaved; the medians are shown
ALLOWED = 1 / 6  # that a stage may fall behind a saved report, relative to decode
SAME = ("recipe", "size", "batch", "precision", "cores")
UNSTEADY = ("read, from disk", "read, in memory", "decode")


@dataclass(frozen=True)
class Stage:
    """One row: images/s as the median of the rounds, with the least and the most."""

    name: str
    images_per_s: float
    least: float
    most: float
    per_core: float


Show = Callable[[Stage], None]


@dataclass(frozen=True)
class Report:
    """What `fastmoco bench` shows."""

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
    device_memory: int  # bytes at the most; 0 on the CPU

    def rate(self, name: str) -> float:
        """Images/s of a stage."""
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
    """Measure the stages alone and together, interleaved, `seconds` each in every round.

    `show` is called with a stage after each of its rounds: the figures so far. On the CPU the batch
    is 64 at the most, so that a large encoder can be measured at all.
    """
    if rounds < 1 or not 0 < seconds < math.inf:
        raise UserError(f"--rounds {rounds} --seconds {seconds}: give 1 or more, and above 0")
    options.check()
    recipe.check()
    store = open_store(data)
    device = pick_device(options.device)
    batch = min(recipe.batch, len(store)) if device.type == "cuda" else min(recipe.batch, 64)
    recipe = dataclasses.replace(
        recipe, batch=batch, bn_splits=math.gcd(recipe.bn_splits, batch),
        K=max(recipe.K, batch), precision=pick_precision(recipe.precision, device),
        augmentation=recipe.augmentation.for_resolution(recipe.size)[0],
    )
    # A small dataset is gone round often enough for the pipeline to run full.
    laps = -(-64 * batch // len(store))
    many = Subset(store, np.tile(np.arange(len(store)), laps))
    threads = options.threads or workers.cores()
    found: dict[str, list[float]] = {}

    def note(name: str, rate: float) -> None:
        found.setdefault(name, []).append(rate)
        if show is not None:
            show(stage_of(name, found[name], threads))

    for stage, rate in zip(UNSTEADY, read_rates(store, threads, seconds), strict=False):
        note(stage, rate)
    engine, name, how = open_engine(options.engine, many, options.threads, device)
    try:
        stages = Stages(many, recipe, options, device, engine)
        interleaved(stages, rounds, seconds, note, tick)
    finally:
        engine.close()
    cores = engine.threads
    rows = [stage_of(stage, rates, cores) for stage, rates in found.items()]
    rate_of = {row.name: row.images_per_s for row in rows}
    overlap = device.type == "cuda"
    can = pick_precision("auto", device) == "bfloat16"
    costs = roofline.without_decoding(rate_of) if name == "resident" else rate_of
    changes = roofline.changes(costs, store, recipe, overlap, cores, can)
    return Report(
        data=str(data),
        images=len(store),
        mean_kilobytes=float(np.mean([len(store.encoded(i)) for i in sample(store)])) / 1e3,
        mean_megapixels=float(store.sizes.astype(np.float64).prod(axis=1).mean()) / 1e6,
        machine=describe(device),
        cores=cores,
        engine=how,
        recipe=recipe.name,
        size=recipe.size,
        batch=batch,
        precision=recipe.precision,
        stages=rows,
        bounds=roofline.bounds(costs, overlap),
        binds=roofline.binds(costs, overlap),
        advice=roofline.advice(changes, rate_of),
        changes=changes,
        device_memory=peak_memory(device),
    )


def stage_of(name: str, rates: Sequence[float], cores: int) -> Stage:
    """The row of a stage whose rounds gave these images/s."""
    median = statistics.median(rates)
    return Stage(name, median, min(rates), max(rates), median / cores)


def interleaved(
    stages: Stages, rounds: int, seconds: float, note: Callable[[str, float], None],
    tick: Tick | None,
) -> None:
    """Runs all stages once per round, so that what slows the machine for a while slows them all.

    note(name, images/s) is called after each stage of each round.
    """
    stages.warm_up()
    for i in range(rounds):
        for j, (name, run) in enumerate(stages.runs.items()):
            note(name, run(seconds))
            if tick is not None:
                tick(i * len(stages.runs) + j + 1, rounds * len(stages.runs))


def sample(store: Store, count: int = 1000) -> Iterator[int]:
    """At most so many samples, evenly spread."""
    return iter(range(0, len(store), max(1, len(store) // count)))


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report that was saved with --json. Raises UserError for any other file."""
    try:
        with open(path, "rb") as file:  # not read_json: it may be a pipe, from jq for one
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
    """The stages that are slower than in a saved report (read_report): a line each.

    A stage's rate counts as a multiple of its run's decode, which the hour and the load of a
    machine move as well, and may fall by a sixth. Raises UserError for a report of another recipe,
    size, batch, precision or number of cores.
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
