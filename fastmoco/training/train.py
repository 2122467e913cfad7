"""Pre-training, from a prepared dataset to an encoder. The loop is run_through."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import closing

from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions, default_out
from fastmoco.runs.events import Ended, Listener, Noted
from fastmoco.runs.lock import own_run
from fastmoco.system.torchrun import as_one
from fastmoco.training.run import Run
from fastmoco.training.save import save, validate
from fastmoco.training.schedule import learning_rate
from fastmoco.training.setup import start
from fastmoco.training.step import training_step
from fastmoco.training.stopping import SAVE, STOP, Vote, asked_to_stop, wish_of
from fastmoco.weights.checkpoint import Checkpoint


@as_one
def train(
    data: str | os.PathLike[str],
    recipe: Recipe,
    options: RunOptions = RunOptions(),
    listeners: Iterable[Listener] = (),
    started: float | None = None,
) -> Checkpoint:
    """Pre-train an encoder by a recipe on a prepared dataset.

    Returns the last checkpoint, which is also stored in the run directory options.out. Each
    listener is called with every event (fastmoco.runs.events). A budget counts from `started`, a
    time.monotonic() [default: now]. Under torchrun this process is one of several ranks
    (fastmoco.system.ranks). SIGTERM and SIGINT stop the run early, with a checkpoint. Raises
    UserError for mistakes in the data, the recipe, the run directory or the budget.
    """
    started = time.monotonic() if started is None else started
    with own_run(options.out or default_out(data, recipe), options.resume) as notes:
        run = start(data, recipe, options, listeners, started, notes)
        with asked_to_stop() as stop, closing(run.pipeline):
            run_through(run, stop)
            seconds = run.clock.train_seconds()
            last = save(run)
        path = str(run.records.directory.checkpoint)
        run.records.tell(Ended(run.step, run.plan.steps, seconds, run.over, path))
    return last


def run_through(run: Run, stop: threading.Event) -> None:
    """Take all steps that are left, with the log lines, measurements and checkpoints between
    them; returns early if `stop` is set on any rank."""
    recipe, options, trained = run.recipe, run.options, run.trained
    run.clock.start()
    vote = Vote(run.machine.ranks)
    if not validate(run, stop):  # kNN at step 0, or one that a signal or a kill left out
        return
    for batch in run.batches():
        lr, due = set_learning_rate(run), run.logs_next
        out = training_step(
            trained.moco, trained.optimizer, trained.scaler, batch, recipe, options.accumulate,
            watch=due,
        )
        run.window.add(out.stats, batch.index)
        run.step += 1
        if due:
            log(run, lr)
        elif run.window.bad.full:  # log lines are far apart: no skipped step is forgotten
            report_skipped(run)
        save_due = run.clock.since_mark() > options.checkpoint_minutes * 60
        agreed = vote(wish_of(stop, save_due))
        # If the last step was skipped, wait for one that shows that training recovered.
        if agreed == SAVE and not run.over and not run.window.bad.in_a_row():
            save(run)
        if agreed == STOP:
            break
        if run.epoch_ended or run.over:
            if not validate(run, stop):
                break
            if options.keep and run.epoch_ended and not run.over:
                save(run)
    vote.end()


def set_learning_rate(run: Run) -> float:
    """Give the optimizer the learning rate of the next step, and return it."""
    lr = learning_rate(run.recipe, run.plan.done(run.step), run.per_epoch, run.plan.budgeted)
    for group in run.trained.optimizer.param_groups:
        group["lr"] = lr
    return lr


def report_skipped(run: Run) -> None:
    """Report the steps that were skipped since the last report; waits for the device."""
    for bad in run.window.skipped(run.step, run.store):
        run.records.tell(bad)


def log(run: Run, lr: float) -> None:
    """Report the steps since the last log line, and fit a budget's plan to their rate.

    Only here does the loop wait for the device. There is no line if all of these steps were
    skipped.
    """
    report_skipped(run)
    left = None if run.budget is None else run.budget.left()
    progress = run.window.read(run.step, run.plan, lr, run.clock, left)
    if progress is not None:
        run.records.tell(progress)
    run.window.compare_sometimes(run.step, run.trained.moco)
    if run.budget is None or progress is None:
        return
    share = run.machine.ranks.share
    each = share(run.recipe.batch / progress.images_per_s)
    run.log_every, line = run.budget.renew(run.plan, run.step, each, share)
    if line is not None:
        run.records.tell(Noted(line))
