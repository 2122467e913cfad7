"""train, bench and views: the verbs that take a recipe."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from data_tools.errors import UserError
from data_tools.quantities import parse_size
from fastmoco.measuring import bench as benching
from fastmoco.measuring import dry_run as dry_runs
from fastmoco.recipe import Augmentation, Recipe
from fastmoco.reporting import views as contact_sheets
from fastmoco.run_options import RunOptions, default_out
from fastmoco.runs.events import Listener
from fastmoco.settings.verbs import BenchSettings
from fastmoco.training import train as training
from fastmoco.verbs.inputs import Data, PathLike, dataset, recipe_of, store
from fastmoco.verbs.keywords import fields_in, takes
from fastmoco.weights.checkpoint import Checkpoint, load


@overload
def train(data: Data, recipe: Recipe | str = "moco-v2", options: RunOptions | None = None, *,
          dry_run: Literal[True], **flags: Any) -> dry_runs.DryRun: ...
@overload
def train(data: Data, recipe: Recipe | str = "moco-v2", options: RunOptions | None = None,
          **flags: Any) -> Checkpoint: ...


@takes(recipe=Recipe, options=RunOptions)
def train(
    data: Data,
    recipe: Recipe | str = "moco-v2",
    options: RunOptions | None = None,
    *,
    listeners: Iterable[Listener] = (),
    dry_run: bool = False,
    memory: str = "",
    augmentation: Augmentation | str | None = None,
    **flags: Any,
) -> Checkpoint | dry_runs.DryRun:
    """Pre-train an encoder with MoCo (arXiv 1911.05722, 2003.04297).

    Arguments:
        data: prepared dataset, folder of images (prepared into the cache first), beton, or an open
            store. No labels are needed.
        recipe: fastmoco.MOCO_V1, MOCO_V2, MOCO_CIFAR, another Recipe, or the name of one, such as
            "moco-cifar-mini". With `resume`, training uses the run's own recipe.
        options: a RunOptions. Its fields can also be given as keywords.
        listeners: functions that are called with each event of the run, for example [print].
        dry_run: train nothing. Predict the memory part by part, the largest batch, and settings
            that fit the dataset.
        memory: with `dry_run`, the memory that a step may take, such as "8GB" [default: that of
            the device].
        augmentation: the recipe's augmentation, or the name of one: v1, v2 or cifar.
        **flags: fields of Recipe and RunOptions, which change those of `recipe` and `options`.

    Returns the last checkpoint, which is also in the run directory; or the predictions.

    Stops early, with a checkpoint, at SIGTERM and Ctrl-C. Call again with resume=True to continue
    to the same bits. Raises UserError for data, a recipe, a run directory or a time budget that
    cannot be used.

    Example:
        checkpoint = fastmoco.train("prepared/train", fastmoco.MOCO_V2, epochs=100, out="runs/a")
    """
    begun = time.monotonic()  # a budget includes the preparing
    changes = {"augmentation": augmentation, **flags}
    options = dataclasses.replace(options or RunOptions(), **fields_in(RunOptions, flags))
    if dry_run:
        room = parse_size(memory, "--memory") if memory else None
        return dry_runs.dry_run(recipe_of(recipe, changes), store(data), options, room)
    if memory:
        raise UserError("--memory goes with --dry-run")
    if not options.out:  # named after the given path, not after a cache
        path = data if isinstance(data, str | os.PathLike) else data.path
        options = dataclasses.replace(options, out=default_out(path, recipe_of(recipe, {})))
    recipe = recipe_of(load(options.out).recipe if options.resume else recipe, changes)
    if options.val:
        options = dataclasses.replace(options, val=str(dataset(options.val)))
    return training.train(dataset(data), recipe, options, listeners, begun)


@dataclass(frozen=True)
class Measurement(BenchSettings):
    """Settings of `bench`, and a report to compare with."""

    against: str | os.PathLike[str] | None = None
    """Report that `fastmoco bench --json` saved. Each stage that is slower than there gives a
    RuntimeWarning."""


@takes(Measurement, recipe=Recipe)
def bench(
    data: Data,
    recipe: Recipe | str = "moco-v2",
    augmentation: Augmentation | str | None = None,
    **flags: Any,
) -> benching.Report:
    """Measure the images/s of every stage of training, alone and together.

    Arguments:
        data: prepared dataset, folder of images (prepared into the cache first), or beton.
        recipe: a Recipe, or the name of one.
        augmentation: the recipe's augmentation, or the name of one: v1, v2 or cifar.
        **flags: fields of Measurement, and of Recipe, which change those of `recipe`.

    Returns the report: `stages` with their rates, `binds` (the slowest part) and `advice`.

    Raises UserError for data or a recipe that cannot be used.

    Example:
        print(fastmoco.bench("prepared/train").advice)
    """
    how = Measurement(**fields_in(Measurement, flags))
    saved = None if how.against is None else benching.read_report(how.against)
    options = RunOptions(
        device=how.device, threads=how.threads, engine=how.engine, compile=how.compile
    )
    changes = {"augmentation": augmentation, **flags}
    report = benching.bench(
        dataset(data), recipe_of(recipe, changes), options, how.rounds, how.seconds
    )
    for line in [] if saved is None else benching.compare(report, saved):
        warnings.warn(f"slower: {line}", RuntimeWarning, stacklevel=3)
    return report


@takes(recipe=Recipe)
def views(
    data: Data,
    out: PathLike = "views.png",
    count: int = 24,
    epoch: int = 0,
    recipe: Recipe | str = "moco-v2",
    augmentation: Augmentation | str | None = None,
    **flags: Any,
) -> list[int]:
    """Draw a contact sheet: source images with their two windows, and the views q and k.

    Arguments:
        data: prepared dataset, folder of images (prepared into the cache first), or beton.
        out: image file to write: .png, .jpg or .webp.
        count: number of images on the sheet.
        epoch: epoch whose random draws are shown.
        recipe: a Recipe, or the name of one.
        augmentation: the recipe's augmentation, or the name of one: v1, v2 or cifar.
        **flags: fields of Recipe, which change those of `recipe`.

    Returns the numbers of the drawn images in the dataset.

    Raises UserError for data that is not there, or a file that cannot be written.

    Example:
        fastmoco.views("prepared/train", "views.png", augmentation="v2")
    """
    changed = recipe_of(recipe, {"augmentation": augmentation, **flags})
    return contact_sheets.views(dataset(data), Path(out), changed, count, epoch)
