"""Pre-training, from a prepared dataset to an encoder: one function, read top to bottom."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable

import torch

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.store import Store
from data_tools.workers import cores
from fastmoco import checkpoint as checkpoints
from fastmoco.batch import Batch, Prepared
from fastmoco.budget import Budget, Plan, budget_seconds
from fastmoco.checkpoint import Checkpoint
from fastmoco.compiling import augmentation, lacks_compiler
from fastmoco.curves import TensorBoard, WeightsAndBiases
from fastmoco.device import (
    DTYPES,
    choose_deterministic,
    describe,
    grad_scaler,
    make_current,
    one_ahead,
    pick_device,
    pick_precision,
)
from fastmoco.distributed import GO_ON, SAVE, STOP, Ranks, Vote, as_one, check_parts, join
from fastmoco.engines import open_engine
from fastmoco.events import Ended, Evaluated, Event, Listener, Noted, Progress, Saved, Started
from fastmoco.health import Watch
from fastmoco.interop import open_checkpoint, start_from
from fastmoco.loader import TrainLoader
from fastmoco.moco import build_moco, compile_parts, make_optimizer
from fastmoco.monitor import Monitor
from fastmoco.normalise import normalised
from fastmoco.progress import Clock, Window
from fastmoco.read_ahead import pick_order
from fastmoco.recipe import Recipe, RunOptions, fields_of, most_keys
from fastmoco.recompute import recompute_blocks
from fastmoco.run_dir import RunDir, default_out
from fastmoco.schedule import learning_rate
from fastmoco.step import training_step
from fastmoco.stopping import asked_to_stop
from fastmoco.telling import Telling
from fastmoco.timm_trunk import notes as trunk_notes


@as_one
def train(
    data: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    listeners: Iterable[Listener] = (),
    begun: float | None = None,
) -> Checkpoint:
    """Pre-train by a recipe on a prepared dataset; returns the last checkpoint, also on disk.

    A budget counts from `begun`, a time.monotonic(), or from now. Under torchrun this is one of the
    ranks (fastmoco.distributed). Stops early, with a checkpoint, at SIGTERM or SIGINT. Raises
    UserError for what the user can mend: data, recipe, run directory, budget.
    """
    begun = time.monotonic() if begun is None else begun
    ranks = join()
    options.check()
    budget_seconds(options)
    store = open_store(data)
    recipe.check(len(store))
    device = pick_device(options.device)
    make_current(device)
    check_parts(recipe, ranks, options.accumulate)
    choose_deterministic(device)
    recipe = dataclasses.replace(recipe, precision=pick_precision(recipe.precision, device))
    run = RunDir(options.out or default_out(data, recipe), options.resume)
    saved = resumable(run, recipe, store, device, ranks) if options.resume else None
    if saved is None:
        refuse_large_queue(recipe, len(store), options)
    wanted_order = recipe.order if saved is None else saved.recipe.order
    order, order_note = pick_order(wanted_order, store)
    recipe = dataclasses.replace(recipe, order=order)
    recipe, stats_note = normalised(recipe, store, saved.recipe if saved is not None else None)
    together = ("accumulate", "log_every", "budget", "until", "keep", "val", "init")
    ranks.agree(vars(recipe) | {name: getattr(options, name) for name in together} | {
        "dataset": store.fingerprint, "step": 0 if saved is None else saved.step,
    })
    first = ranks.rank == 0
    monitor = Monitor(store, options, recipe, device) if options.val and first else None
    torch.manual_seed(recipe.seed)
    moco = build_moco(recipe, len(store), device, ranks, options.accumulate)
    origin, init_note = "" if saved is None else saved.origin, None
    if options.init and saved is None:
        weights = open_checkpoint(options.init, device)
        origin = init_note = start_from(moco, weights, recipe, options.init)
    optimizer = make_optimizer(moco, recipe)
    scaler = grad_scaler(device, recipe.precision)
    wanted: str = options.engine
    if saved is not None and wanted == "auto":  # the same bits take the same decoder
        wanted = saved.versions.get("engine", wanted)
    threads = options.threads or max(1, cores() // ranks.here)
    opened = open_engine(wanted, store, threads, device) if first else None
    wanted = ranks.share(wanted if opened is None else opened.name)  # where auto tried them out
    engine, engine_name, how = opened or open_engine(wanted, store, threads, device)
    loader = TrainLoader(store, recipe, engine, device, ranks)
    per_epoch = loader.steps_per_epoch
    window = Window(loader, recipe, device, options.log_every, ranks)
    to_images, form, note = augmentation(options, device)
    if options.activation_checkpointing:
        recompute_blocks(moco)
    if options.compile and lacks_compiler(device) is None:
        compile_parts(moco, options.cuda_graphs)
    moco.distribute()

    dtype = DTYPES[recipe.precision]
    plan, step, earlier = Plan([(0, 0.0, recipe.epochs * per_epoch)]), 0, 0.0
    time_limit = budget_seconds(options)
    if saved is not None:
        moco.load_state_dict(saved.moco)
        optimizer.load_state_dict(saved.optimizer)
        scaler.load_state_dict(saved.scaler)
        window.load(saved.window)
        plan = Plan(saved.plan)
        step, earlier = saved.step, saved.clock["train_seconds"]
        if not plan.steps and time_limit is None:  # stopped before its budget's rate was known
            plan = Plan([(0, 0.0, recipe.epochs * per_epoch)])
    window.compare(step, moco)
    budget, spent = None, 0.0
    if time_limit is not None:
        spent = saved.clock["budget_seconds"] if saved is not None and options.budget else 0.0
        every = monitor.every if monitor is not None else 0
        budget = Budget(
            time_limit[0] - spent, time_limit[1], recipe, per_epoch, begun, options, every
        )
        if saved is None:
            plan = Plan([(0, 0.0, 0)])  # until the rate is known
    told = run.open(resumed_at=step) if first else []
    tell = telling(run, listeners, told, step, options) if first else silent
    measured = {e.step: e.knn for e in told if isinstance(e, Evaluated)}
    parameters = sum(p.numel() for p in moco.encoder_q.parameters())
    tell(Started(
        recipe, len(store), per_epoch, step, describe(device), how, parameters, str(run.path),
        os.path.abspath(data),
    ))
    trunk_lines = trunk_notes(recipe, moco.encoder_q)
    for line in (init_note, note, order_note, stats_note, *trunk_lines, *sizes_notes(recipe)):
        if line is not None:
            tell(Noted(line))
    made_by = checkpoints.versions() | {
        "device": device.type, "augment": form, "compile": str(options.compile),
        "engine": engine_name, "ranks": str(ranks.size), "pieces": str(options.accumulate),
    }
    if saved is not None and saved.versions != made_by:
        differ = [
            f"{name} was {saved.versions.get(name)}, is {value}"
            for name, value in made_by.items() if saved.versions.get(name) != value
        ]
        tell(Noted(f"not to the same bits as before: {', '.join(differ)}"))

    def save() -> Checkpoint:
        for bad in window.skipped(step, store):  # a resumed run cannot know of them any more
            tell(bad)
        window.refuse_bad(step, moco)
        clock_fields = {
            "train_seconds": earlier + clock.seconds(),
            "budget_seconds": spent + time.monotonic() - begun,
        }
        state = Checkpoint(
            recipe, moco.state_dict(), optimizer.state_dict(), scaler.state_dict(), step,
            store.fingerprint, len(store), plan.lines, window.state(), torch.get_num_threads(),
            made_by, clock_fields, origin,
        )
        if first:
            checkpoints.save(state, run.checkpoint)
            tell(Saved(step, str(run.checkpoint)))
            if options.keep and step % per_epoch == 0:
                kept = checkpoints.keep(run.checkpoint, step, options.keep)
                tell(Saved(step, str(kept)))
        ranks.barrier()
        return state

    def evaluate() -> bool:
        """kNN where it is due; False where a signal broke it off: it comes after --resume."""
        due = monitor is not None and (step == 0 or monitor.due(step, per_epoch, plan.steps))
        if due and monitor is not None and step not in measured:
            with clock.paused():
                found = monitor(moco, step, per_epoch, stop)
                if found is not None:
                    best = max((knn for at, knn in measured.items() if at), default=0.0)
                    if step and found.knn > best:  # before it is told: a kill then repeats both
                        weights = Checkpoint(
                            recipe, moco.state_dict(), {}, {}, step, store.fingerprint, len(store),
                            versions=made_by,
                        )
                        checkpoints.save(weights, run.best)
                        tell(Saved(step, str(run.best)))
                    tell(found)
                    measured[step] = found.knn
                    if budget is not None:
                        budget.aside = found.seconds
        whole = not due or step in measured
        return bool(ranks.share(float(whole))) if options.val else True

    def prepare(batch: Batch) -> Prepared:
        assert batch.colour is not None
        images = to_images(batch.views, batch.colour, recipe.augmentation_at(size), dtype)
        return batch.prepared(images)

    with Clock() as clock, asked_to_stop() as stop:
        vote, wish, log_every = Vote(ranks), GO_ON, 1 if budget else options.log_every
        try:
            if not evaluate():  # at step 0, or what a signal or a kill left out
                wish = STOP
            while (step != plan.steps or not plan.steps) and wish != STOP:
                epoch = step // per_epoch
                size = recipe.size_at(plan.done(epoch * per_epoch))
                batches = loader.epoch(epoch, step % per_epoch, size)
                for batch in one_ahead(batches, prepare, device):
                    lr = learning_rate(recipe, plan.done(step), per_epoch, plan.budgeted)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    im_q, im_k = batch.images
                    due = (step + 1) % log_every == 0 or step + 1 == plan.steps
                    out = training_step(
                        moco, optimizer, scaler, im_q, im_k, batch, recipe, options.accumulate,
                        watch=due,
                    )
                    window.add(out.stats, batch.index)
                    step += 1
                    if due:
                        for bad in window.skipped(step, store):  # the one wait for the device
                            tell(bad)
                        left = None if budget is None else budget.left()
                        now = window.read(step, plan, lr, clock, left)
                        tell(now)
                        window.compare_sometimes(step, moco)
                        if budget is not None:
                            each = ranks.share(recipe.batch / now.images_per_s)
                            log_every, line = budget.renew(plan, step, each, ranks.share)
                            if line is not None:
                                tell(Noted(line))
                    late = clock.since_mark() > options.checkpoint_minutes * 60
                    wish = vote(STOP if stop.is_set() else SAVE if late else GO_ON)
                    # right after a skipped step it waits for one that tells how things stand
                    if wish == SAVE and step != plan.steps and not window.bad.in_a_row():
                        with clock.paused():
                            save()
                        clock.mark()
                    if wish == STOP or step == plan.steps:
                        break
                if wish != STOP and not evaluate():
                    wish = STOP
                if wish != STOP and options.keep and step != plan.steps:
                    with clock.paused():
                        save()
                    clock.mark()
            seconds = earlier + clock.seconds()
            with clock.paused():
                last = save()
            vote.end()
        finally:
            engine.close()
    tell(Ended(step, plan.steps, seconds, step == plan.steps, str(run.checkpoint)))
    return last


def telling(
    run: RunDir, listeners: Iterable[Listener], told: list[Event], step: int, options: RunOptions
) -> Telling:
    """Where rank 0's events go: the run's files, TensorBoard's, W&B's project, the listeners."""
    board = TensorBoard(run.path, step)
    drawn: list[Listener] = [board]
    if options.wandb:
        drawn.append(WeightsAndBiases(options.wandb, run.path))
    for event in told:
        if isinstance(event, Evaluated | Progress) and event.step == step:
            for listener in drawn:
                listener(event)
    files = (run.metrics, run.skipped, board.file)
    return Telling([run, *drawn, *listeners], Watch(told), files)


def silent(_event: Event) -> None:
    """What the other ranks tell."""


def resumable(
    run: RunDir, recipe: Recipe, store: Store, device: torch.device, ranks: Ranks
) -> Checkpoint:
    """The run's checkpoint; UserError where it belongs to another recipe or dataset."""
    saved = checkpoints.load(run.checkpoint, device)
    if not saved.optimizer:
        raise UserError(f"{run.checkpoint}: holds weights alone, which cannot be resumed from")
    recipe, _ = normalised(recipe, store, saved.recipe)
    trained = fields_of(saved.recipe)
    for name, ours in fields_of(recipe).items():
        theirs = trained[name]
        if ours != theirs and not (name == "order" and "auto" in (ours, theirs)):
            raise UserError(
                f"{run.checkpoint}: trained with {name} {theirs}, not {ours}; resume with "
                f"the same recipe, or start another run with --out"
            )
    if saved.dataset != store.fingerprint:
        raise UserError(
            f"{run.checkpoint}: trained on another dataset than {store.path}; resume on the same "
            f"one, or start another run with --out"
        )
    if device.type == "cpu" and saved.versions.get("ranks") == str(ranks.size):
        torch.set_num_threads(saved.threads)
    return saved


def refuse_large_queue(recipe: Recipe, samples: int, options: RunOptions) -> None:
    """UserError where the negatives would be older keys of the same images."""
    if recipe.mechanism == "queue" and recipe.K > samples and not options.force:
        raise UserError(
            f"--K {recipe.K} is larger than the dataset ({samples} images): the negatives would "
            f"hold older keys of the same images; use --K {most_keys(samples, recipe.batch)} or "
            f"less, or --force"
        )


def sizes_notes(recipe: Recipe) -> list[str | None]:
    """What the resolution changes, a line a size."""
    return [recipe.augmentation.for_resolution(s)[1] for s in recipe.progressive or (recipe.size,)]
