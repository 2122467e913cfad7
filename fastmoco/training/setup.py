"""What a training run is made of, checked, opened and built before its next step."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from data_tools.errors import UserError
from data_tools.machine import cores
from data_tools.open import open_store
from data_tools.store import Store
from fastmoco.augmentation.choose import augmentation
from fastmoco.loading.dataset_stats import normalised
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.engines.registry import open_engine
from fastmoco.loading.read_ahead import pick_order
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco, compile_parts, make_optimizer
from fastmoco.model.moco import MoCo
from fastmoco.model.timm_trunk import notes as trunk_notes
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions, default_out
from fastmoco.runs.directory import RunDir
from fastmoco.runs.dispatch import Dispatch
from fastmoco.runs.events import Evaluated, Event, Listener, Noted, Progress, Started
from fastmoco.runs.health import Watch
from fastmoco.runs.loggers import TensorBoard, WeightsAndBiases
from fastmoco.system import versions
from fastmoco.system.compiler import lacks_compiler, settle
from fastmoco.system.device import (
    choose_deterministic,
    grad_scaler,
    make_current,
    pick_device,
    pick_precision,
    same_bits,
)
from fastmoco.system.hardware import describe, usable_memory
from fastmoco.system.ranks import Ranks
from fastmoco.system.torchrun import join
from fastmoco.training.budget import Budget, Plan, budget_seconds
from fastmoco.training.checks import check_parts, refuse_large_queue, refuse_vast_keys
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.metrics import Window
from fastmoco.training.resume import not_to_the_bit, resumable
from fastmoco.training.run import Run
from fastmoco.training.warm_start import start_from
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.open import open_checkpoint

# What all ranks must have been given alike, besides the recipe
TOGETHER = ("accumulate", "log_every", "budget", "until", "keep", "val", "init")


def start(
    data: str | os.PathLike[str], recipe: Recipe, options: RunOptions,
    listeners: Iterable[Listener], begun: float, notes_first: Sequence[str] = (),
) -> Run:
    """Refuse what cannot be trained, build the rest, take up a checkpoint with --resume, tell.

    notes_first: lines to report before those of this function.
    """
    ranks = join()
    options.check()
    limit = budget_seconds(options)
    if options.until:  # what has passed until now is not in its seconds
        begun = time.monotonic()
    store = open_store(data)
    recipe.check(len(store))
    device = pick_device(options.device)
    make_current(device)
    check_parts(recipe, ranks, options.accumulate)
    choose_deterministic(device)
    recipe = dataclasses.replace(recipe, precision=pick_precision(recipe.precision, device))
    directory = RunDir(options.out or default_out(data, recipe), options.resume)
    saved = resumable(directory, recipe, store, device, ranks) if options.resume else None
    if saved is None:
        refuse_large_queue(recipe, len(store), options)
        refuse_vast_keys(recipe, usable_memory(device))
    recipe, notes = resolve(recipe, store, saved)
    ranks.agree(vars(recipe) | {name: getattr(options, name) for name in TOGETHER} | {
        "dataset": store.fingerprint, "step": 0 if saved is None else saved.step,
    })
    monitor = None
    if options.val and ranks.rank == 0:
        monitor = Monitor(store, options, recipe, device)
    moco, origin, init_note = build_model(recipe, store, device, ranks, options, saved)
    optimizer, scaler = make_optimizer(moco, recipe), grad_scaler(device, recipe.precision)
    engine, engine_name, how = same_engine(store, device, ranks, options, saved)
    loader = TrainLoader(store, recipe, engine, device, ranks)
    if options.compile or device.type == "cuda":
        settle(len(recipe.sizes))
    to_images, form, compile_note = augmentation(options, device)
    make_lean(moco, device, options)
    moco.distribute()
    made_by = versions.versions() | {
        "device": same_bits(device), "augment": form, "compile": str(options.compile),
        "engine": engine_name, "ranks": str(ranks.size), "pieces": str(options.accumulate),
    }
    run = Run(
        recipe, options, store, device, ranks, moco, optimizer, scaler, engine, loader, to_images,
        Window(loader, recipe, device, options.log_every, ranks), monitor, directory, made_by,
        origin, begun, whole_plan(recipe, loader),
    )
    if saved is not None:
        take_up(run, saved)
    run.window.compare(run.step, moco)
    plan_budget(run, saved, limit)
    sizes = recipe.progressive or (recipe.size,)
    notes = [
        *notes_first, init_note, compile_note, *notes, *trunk_notes(recipe, moco.encoder_q),
        *(recipe.augmentation.for_resolution(s)[1] for s in sizes),
    ]
    if saved is not None:
        notes.append(not_to_the_bit(saved.versions, made_by))
        notes.append(f"{directory.checkpoint}: {saved.note}" if saved.note else None)
    if run.first:
        checkpoints.refuse_full_disk(directory.checkpoint, held(run), options.keep)
    tell_start(run, os.path.abspath(data), how, notes, listeners)
    return run


def resolve(
    recipe: Recipe, store: Store, saved: Checkpoint | None
) -> tuple[Recipe, list[str | None]]:
    """The recipe with its order and statistics chosen, as the checkpoint has them, and why."""
    wanted = recipe.order if saved is None else saved.recipe.order
    order, order_note = pick_order(wanted, store)
    recipe = dataclasses.replace(recipe, order=order)
    recipe, stats_note = normalised(recipe, store, saved.recipe if saved is not None else None)
    return recipe, [order_note, stats_note]


def build_model(
    recipe: Recipe, store: Store, device: torch.device, ranks: Ranks, options: RunOptions,
    saved: Checkpoint | None,
) -> tuple[MoCo, str, str | None]:
    """The model on its device, what it began as, and a line on that where --init gave weights."""
    torch.manual_seed(recipe.seed)
    moco = build_moco(recipe, len(store), device, ranks, options.accumulate)
    origin, note = "" if saved is None else saved.origin, None
    if options.init and saved is None:
        weights = open_checkpoint(options.init, device)
        origin = note = start_from(moco, weights, recipe, options.init)
        note += f"; {weights.note}" if weights.note else ""
    return moco, origin, note


def held(run: Run) -> Iterator[torch.Tensor]:
    """The tensors of the run's checkpoints: the model's, and its parameters' momentum."""
    yield from run.moco.state_dict().values()
    for group in run.optimizer.param_groups:
        yield from group["params"]


def make_lean(moco: MoCo, device: torch.device, options: RunOptions) -> None:
    """Recomputed activations, compiled encoders, where they are asked for."""
    if options.activation_checkpointing:
        recompute_blocks(moco)
    if options.compile and lacks_compiler(device) is None:
        compile_parts(moco, options.cuda_graphs)


def same_engine(
    store: Store, device: torch.device, ranks: Ranks, options: RunOptions, saved: Checkpoint | None
) -> tuple[Engine, str, str]:
    """The engine, its name, and what it is: one for all ranks, where `auto` tries them out; after
    --resume that of the checkpoint, since the same bits take the same decoder."""
    wanted: str = options.engine
    if saved is not None and wanted == "auto":
        wanted = saved.versions.get("engine", wanted)
    threads = options.threads or max(1, cores() // ranks.here)
    opened = open_engine(wanted, store, threads, device) if ranks.rank == 0 else None
    wanted = ranks.share(wanted if opened is None else opened.name)
    return opened or open_engine(wanted, store, threads, device)


def whole_plan(recipe: Recipe, loader: TrainLoader) -> Plan:
    """All of the recipe's epochs."""
    return Plan([(0, 0.0, recipe.epochs * loader.steps_per_epoch)])


def take_up(run: Run, saved: Checkpoint) -> None:
    """Go on where a checkpoint was written. Raises UserError where it is not whole."""
    try:
        run.moco.load_state_dict(saved.moco)
        run.optimizer.load_state_dict(saved.optimizer)
        run.scaler.load_state_dict(saved.scaler)
        run.window.load(saved.window)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{run.directory.checkpoint}: holds a state that its own recipe does not fit "
            f"({said[:160]}): --init begins anew with its weights"
        ) from None
    run.plan = Plan(saved.plan)
    run.step, run.earlier = saved.step, saved.clock["train_seconds"]


def plan_budget(run: Run, saved: Checkpoint | None, limit: tuple[float, str] | None) -> None:
    """A plan that fits the seconds of --budget or --until, or will once the rate is known."""
    if limit is None:
        if not run.plan.steps:  # stopped before its budget's rate was known
            run.plan = whole_plan(run.recipe, run.loader)
        return
    if saved is None:
        run.plan = Plan([(0, 0.0, 0)])
    elif run.options.budget:
        run.spent = saved.clock["budget_seconds"]
    # rank 0's for all: it alone measures kNN, and --until is read off each rank's own clock
    seconds, knn_every = run.ranks.share(
        (limit[0] - run.spent, run.monitor.every if run.monitor is not None else 0)
    )
    run.budget = Budget(
        seconds, limit[1], run.recipe, run.per_epoch, run.begun, run.options, knn_every
    )


def tell_start(
    run: Run, data: str, how: str, notes: list[str | None], listeners: Iterable[Listener]
) -> None:
    """Open the run's records, and tell what begins."""
    if not run.first:
        return
    told = run.directory.open(resumed_at=run.step)
    run.measured = {e.step: e.knn for e in told if isinstance(e, Evaluated)}
    run.tell = telling(run, listeners, told)
    parameters = sum(p.numel() for p in run.moco.encoder_q.parameters())
    run.tell(Started(
        run.recipe, len(run.store), run.per_epoch, run.step, describe(run.device), how, parameters,
        str(run.directory.path), data,
    ))
    for line in [*notes, *run.directory.damaged]:
        if line is not None:
            run.tell(Noted(line))


def telling(run: Run, listeners: Iterable[Listener], told: list[Event]) -> Dispatch:
    """Where events go: the run's files, TensorBoard's, W&B's project, the listeners."""
    directory = run.directory
    board = TensorBoard(directory.path, run.step)
    drawn: list[Listener] = [board]
    if run.options.wandb:
        drawn.append(WeightsAndBiases(run.options.wandb, directory.path))
    for event in told:
        if isinstance(event, Evaluated | Progress) and event.step == run.step:
            for listener in drawn:
                listener(event)
    files = (directory.metrics, directory.skipped, board.file)
    return Dispatch([directory, *drawn, *listeners], Watch(told), files)
