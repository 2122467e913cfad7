"""Sets up a training run: checks, opens and builds its parts, in the order that they need."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from data_tools.open import open_store
from data_tools.store import Store
from fastmoco.loading.dataset_stats import normalised
from fastmoco.loading.read_ahead import pick_order
from fastmoco.model.timm_trunk import notes as trunk_notes
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions, default_out
from fastmoco.runs.directory import RunDir
from fastmoco.runs.events import Listener, Noted, Started
from fastmoco.settings import queue_size
from fastmoco.system import versions
from fastmoco.system.device import pick_precision, same_bits
from fastmoco.system.hardware import describe, usable_memory
from fastmoco.training.budget import Budget, Plan, budget_seconds
from fastmoco.training.build import build_trained
from fastmoco.training.checks import check_parts
from fastmoco.training.clock import Clock
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.machine import Machine, prepare_machine
from fastmoco.training.metrics import Window
from fastmoco.training.pipeline import Pipeline, open_pipeline
from fastmoco.training.records import Records, open_records
from fastmoco.training.resume import find_checkpoint, not_to_the_bit, take_up, use_threads_of
from fastmoco.training.run import Run
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint

# Options that must be the same on all ranks, in addition to the recipe
TOGETHER = ("accumulate", "log_every", "budget", "until", "keep", "val", "init")


def start(
    data: str | os.PathLike[str], recipe: Recipe, options: RunOptions,
    listeners: Iterable[Listener], started: float, first_notes: Sequence[str] = (),
) -> Run:
    """Set up a run, and report its start.

    Nothing is written before everything is checked. first_notes are lines to report before those of
    this function. Raises UserError for all that cannot be trained.
    """
    # First what needs neither data nor device: a wrong flag is answered at once.
    options.check()
    limit = budget_seconds(options)
    if options.until:  # budget_seconds has counted its seconds from now, not from `started`
        started = time.monotonic()
    store = open_store(data)
    recipe.check(len(store))
    machine = prepare_machine(options, len(recipe.sizes))
    check_parts(recipe, machine.ranks, options.accumulate)
    # Before the checkpoint is read: its recipe, which must equal this one, has a settled precision.
    recipe = replace(recipe, precision=pick_precision(recipe.precision, machine.device))

    directory = RunDir(options.out or default_out(data, recipe), options.resume)
    saved = None
    if options.resume:
        saved = find_checkpoint(directory.checkpoint, recipe, store, machine.device)
        use_threads_of(saved, machine)
    else:  # a run to resume passed this when it was new
        refuse_queue(recipe, len(store), machine, options)
    recipe, recipe_notes = settle_recipe(recipe, store, saved)
    # Before anything is built: ranks that differ would wait for each other in the first exchange.
    agree(recipe, options, store, saved, machine)

    monitor = None
    if options.val and machine.first:  # kNN is measured on one rank; the others wait for it
        monitor = Monitor(store, options, recipe, machine.device)
    trained, init_note = build_trained(recipe, len(store), machine, options, saved)
    pipeline = open_pipeline(store, recipe, machine, options, saved)
    with pipeline.closed_on_error():
        made_by = bits_made_by(machine, options, pipeline)
        window = Window(pipeline.loader, recipe, machine.device, options.log_every, machine.ranks)
        step = 0 if saved is None else saved.step
        if saved is not None:
            take_up(saved, trained, window, directory.checkpoint)
        window.compare(step, trained.moco)  # all ranks start from the same model, or none does
        clock = open_clock(started, options, saved, budgeted=limit is not None)
        budget = open_budget(limit, clock, monitor, machine, recipe, options, pipeline)
        plan = first_plan(saved, recipe, pipeline, budgeted=limit is not None)

        records = Records(directory)  # without listeners: only rank 0 reports and writes
        if machine.first:
            checkpoints.refuse_full_disk(directory.checkpoint, trained.tensors(), options.keep)
            records = open_records(directory, step, options, listeners)
        run = Run(
            recipe, options, store, machine, trained, pipeline, window, monitor, records, made_by,
            clock, plan, budget, 1 if budget else options.log_every, step,
        )
        notes = [*first_notes, init_note, pipeline.note, *recipe_notes]
        announce(run, os.path.abspath(data), [*notes, *notes_on(run, saved), *directory.damaged])
        return run


def refuse_queue(recipe: Recipe, samples: int, machine: Machine, options: RunOptions) -> None:
    """Raise UserError if a new run's queue is too large for the dataset or for the device."""
    if recipe.mechanism == "queue":
        if not options.force:
            queue_size.refuse_large(recipe.K, samples, recipe.batch)
        queue_size.refuse_vast(recipe.K, recipe.dim, usable_memory(machine.device))


def settle_recipe(
    recipe: Recipe, store: Store, saved: Checkpoint | None
) -> tuple[Recipe, list[str | None]]:
    """Return the recipe with its order and statistics chosen, as in the checkpoint if there is
    one, and a line on each choice that needs one."""
    wanted = recipe.order if saved is None else saved.recipe.order
    order, order_note = pick_order(wanted, store)
    recipe = replace(recipe, order=order)
    recipe, stats_note = normalised(recipe, store, saved.recipe if saved is not None else None)
    return recipe, [order_note, stats_note]


def agree(
    recipe: Recipe, options: RunOptions, store: Store, saved: Checkpoint | None, machine: Machine
) -> None:
    """Raise UserError if the ranks were started with different commands, data or checkpoints."""
    chosen = {name: getattr(options, name) for name in TOGETHER}
    step = 0 if saved is None else saved.step
    machine.ranks.agree(
        vars(recipe) | chosen | {"dataset": store.fingerprint, "step": step}
    )


def bits_made_by(machine: Machine, options: RunOptions, pipeline: Pipeline) -> dict[str, str]:
    """Return everything that the bits depend on, in addition to the recipe and the data."""
    return versions.versions() | {
        "device": same_bits(machine.device),
        "augment": pipeline.form,
        "compile": str(options.compile),
        "engine": pipeline.opened.name,
        "ranks": str(machine.ranks.size),
        "pieces": str(options.accumulate),
    }


def open_clock(
    started: float, options: RunOptions, saved: Checkpoint | None, budgeted: bool
) -> Clock:
    """Return the run's clock, which goes on from the checkpoint's seconds.

    --budget is for the whole run, so earlier processes have spent a part of it. --until is a point
    in time, and a run without a limit spends nothing.
    """
    if saved is None:
        return Clock(started)
    spent = saved.clock["budget_seconds"] if budgeted and options.budget else 0.0
    return Clock(started, saved.clock["train_seconds"], spent)


def first_plan(
    saved: Checkpoint | None, recipe: Recipe, pipeline: Pipeline, budgeted: bool
) -> Plan:
    """Return the plan to start with: the checkpoint's, or all epochs of the recipe. With a budget
    a new run has no last step until its rate is known."""
    plan = Plan([(0, 0.0, 0)]) if saved is None else Plan(saved.plan)
    if not budgeted and not plan.steps:  # new, or stopped before its budget's rate was known
        return Plan([(0, 0.0, recipe.epochs * pipeline.loader.steps_per_epoch)])
    return plan


def open_budget(
    limit: tuple[float, str] | None, clock: Clock, monitor: Monitor | None, machine: Machine,
    recipe: Recipe, options: RunOptions, pipeline: Pipeline,
) -> Budget | None:
    """Return the budget of --budget or --until, if one is given."""
    if limit is None:
        return None
    seconds, text = limit
    # Rank 0's numbers for all: it alone measures kNN, and each rank read --until off its own clock.
    seconds, knn_every = machine.ranks.share(
        (seconds - clock.budget_before, monitor.every if monitor is not None else 0)
    )
    per_epoch = pipeline.loader.steps_per_epoch
    return Budget(seconds, text, recipe, per_epoch, clock.started, options, knn_every)


def notes_on(run: Run, saved: Checkpoint | None) -> list[str | None]:
    """Return lines on settings that have no effect here, and on what a resumed run differs in."""
    recipe = run.recipe
    sizes = recipe.progressive or (recipe.size,)
    notes: list[str | None] = [
        *trunk_notes(recipe, run.trained.moco.encoder_q),
        *(recipe.augmentation.for_resolution(s)[1] for s in sizes),
    ]
    if saved is not None:
        notes.append(not_to_the_bit(saved.versions, run.made_by))
        path = run.records.directory.checkpoint
        notes.append(f"{path}: {saved.note}" if saved.note else None)
    return notes


def announce(run: Run, data: str, notes: list[str | None]) -> None:
    """Report the start of the run, then each note."""
    run.records.tell(Started(
        run.recipe, len(run.store), run.per_epoch, run.step, describe(run.machine.device),
        run.pipeline.opened.line, sum(p.numel() for p in run.trained.moco.encoder_q.parameters()),
        str(run.records.directory.path), data,
    ))
    for line in notes:
        if line is not None:
            run.records.tell(Noted(line))
