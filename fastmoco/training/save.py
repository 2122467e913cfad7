"""When a run is written down: its checkpoint, the copies that are kept, the weights of the best
kNN."""

from __future__ import annotations

import threading
import time

import torch

from fastmoco.runs.events import Saved
from fastmoco.training.clock import Clock
from fastmoco.training.run import Run
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint


def save(run: Run, clock: Clock) -> Checkpoint:
    """Write the checkpoint, on the first rank; off the clock. Raises UserError where the run has
    diverged, before anything is overwritten."""
    with clock.paused():
        for bad in run.window.skipped(run.step, run.store):  # a resumed run cannot know of them
            run.tell(bad)
        run.window.refuse_bad(run.step, run.moco)
        clock_fields = {
            "train_seconds": run.earlier + clock.seconds(),
            "budget_seconds": run.spent + time.monotonic() - run.begun,
        }
        state = Checkpoint(
            run.recipe, run.moco.state_dict(), run.optimizer.state_dict(), run.scaler.state_dict(),
            run.step, run.store.fingerprint, len(run.store), run.plan.lines, run.window.state(),
            torch.get_num_threads(), run.made_by, clock_fields, run.origin,
        )
        if run.first:
            path, keep = run.directory.checkpoint, run.options.keep
            checkpoints.save(state, path)
            run.tell(Saved(run.step, str(path)))
            if keep and run.step % run.per_epoch == 0:
                run.tell(Saved(run.step, str(checkpoints.keep(path, run.step, keep))))
        run.ranks.barrier()
    clock.mark()
    return state


def validate(run: Run, clock: Clock, stop: threading.Event) -> bool:
    """kNN where it is due, off the clock; False where a signal broke it off: it comes after
    --resume. All ranks give the same."""
    monitor, step = run.monitor, run.step
    due = monitor is not None and (step == 0 or monitor.due(step, run.per_epoch, run.plan.steps))
    if due and monitor is not None and step not in run.measured:
        with clock.paused():
            found = monitor(run.moco, step, run.per_epoch, stop)
            if found is not None:
                if step and found.knn > max((k for at, k in run.measured.items() if at), default=0):
                    save_best(run)  # before it is told: a kill then repeats both
                run.tell(found)
                run.measured[step] = found.knn
                if run.budget is not None:
                    run.budget.aside = found.seconds
    whole = not due or step in run.measured
    return bool(run.ranks.share(float(whole))) if run.options.val else True


def save_best(run: Run) -> None:
    """Write the weights alone."""
    weights = Checkpoint(
        run.recipe, run.moco.state_dict(), {}, {}, run.step, run.store.fingerprint,
        len(run.store), versions=run.made_by,
    )
    checkpoints.save(weights, run.directory.best)
    run.tell(Saved(run.step, str(run.directory.best)))
