"""Pre-training, from a prepared dataset to an encoder: the loop, read top to bottom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions, default_out
from fastmoco.runs.events import Ended, Listener, Noted
from fastmoco.runs.lock import own_run
from fastmoco.system.ranks import GO_ON, SAVE, STOP
from fastmoco.system.streams import one_ahead
from fastmoco.system.torchrun import as_one
from fastmoco.training.clock import Clock
from fastmoco.training.run import Run
from fastmoco.training.save import save, validate
from fastmoco.training.schedule import learning_rate
from fastmoco.training.setup import start
from fastmoco.training.step import training_step
from fastmoco.training.stopping import Vote, asked_to_stop
from fastmoco.weights.checkpoint import Checkpoint


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
    ranks (fastmoco.system.ranks). Stops early, with a checkpoint, at SIGTERM or SIGINT. Raises
    UserError for what the user can mend: data, recipe, run directory, budget.
    """
    begun = time.monotonic() if begun is None else begun
    with own_run(options.out or default_out(data, recipe), options.resume) as notes:
        return run_through(start(data, recipe, options, listeners, begun, notes))


def run_through(run: Run) -> Checkpoint:
    """All steps that are left, with the log lines, measurements and checkpoints between them."""
    recipe, options = run.recipe, run.options
    with Clock() as clock, asked_to_stop() as stop:
        vote, log_every = Vote(run.ranks), 1 if run.budget else options.log_every
        try:
            # kNN at step 0, or what a signal or a kill left out
            wish = GO_ON if validate(run, clock, stop) else STOP
            while wish != STOP and not run.over:
                epoch, first_step = divmod(run.step, run.per_epoch)
                size = recipe.size_at(run.plan.done(run.step))
                batches = run.loader.epoch(epoch, first_step, size)
                for batch in one_ahead(batches, run.prepared(size), run.device):
                    done = run.plan.done(run.step)
                    lr = learning_rate(recipe, done, run.per_epoch, run.plan.budgeted)
                    for group in run.optimizer.param_groups:
                        group["lr"] = lr
                    due = (run.step + 1) % log_every == 0 or run.step + 1 == run.plan.steps
                    out = training_step(
                        run.moco, run.optimizer, run.scaler, batch, recipe,
                        options.accumulate, watch=due,
                    )
                    run.window.add(out.stats, batch.index)
                    run.step += 1
                    if due:
                        log_every = log(run, lr, clock, log_every)
                    elif run.window.bad.full:  # lines are far apart: no skipped step is forgotten
                        tell_skipped(run)
                    late = clock.since_mark() > options.checkpoint_minutes * 60
                    wish = vote(STOP if stop.is_set() else SAVE if late else GO_ON)
                    # right after a skipped step it waits for one that tells how things stand
                    if wish == SAVE and not run.over and not run.window.bad.in_a_row():
                        save(run, clock)
                    if wish == STOP or run.over:
                        break
                    if recipe.size_at(run.plan.done(run.step)) != size:
                        break  # the rest of the epoch is for views of the next side
                if wish != STOP and not validate(run, clock, stop):
                    wish = STOP
                at_end = run.step % run.per_epoch == 0
                if wish != STOP and options.keep and at_end and not run.over:
                    save(run, clock)
            seconds = run.earlier + clock.seconds()
            last = save(run, clock)
            vote.end()
        finally:
            run.engine.close()
    run.tell(Ended(run.step, run.plan.steps, seconds, run.over, str(run.directory.checkpoint)))
    return last


def tell_skipped(run: Run) -> None:
    """Report the steps that were skipped since the last time; waits for the device."""
    for bad in run.window.skipped(run.step, run.store):
        run.tell(bad)


def log(run: Run, lr: float, clock: Clock, log_every: int) -> int:
    """A line on the steps since the last one, the one wait for the device, and a budget's new plan;
    how many steps there are from one line to the next. No line where all of them were skipped."""
    tell_skipped(run)
    left = None if run.budget is None else run.budget.left()
    progress = run.window.read(run.step, run.plan, lr, clock, left)
    if progress is not None:
        run.tell(progress)
    run.window.compare_sometimes(run.step, run.moco)
    if run.budget is None or progress is None:
        return log_every
    each = run.ranks.share(run.recipe.batch / progress.images_per_s)
    log_every, line = run.budget.renew(run.plan, run.step, each, run.ranks.share)
    if line is not None:
        run.tell(Noted(line))
    return log_every
