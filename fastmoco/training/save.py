"""Writes a run's checkpoints: the last one, copies at epoch ends, the weights of the best kNN."""

from __future__ import annotations

import threading

import torch

from fastmoco.runs.events import Saved
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.run import Run
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint


def save(run: Run) -> Checkpoint:
    """Write the checkpoint, on the first rank; the clock is paused.

    Raises UserError if the run has diverged, before anything is overwritten.
    """
    trained, records, ranks = run.trained, run.records, run.machine.ranks
    with run.clock.paused():
        # The checkpoint does not contain them, so a resumed run could not report them.
        for bad in run.window.skipped(run.step, run.store):
            records.tell(bad)
        run.window.refuse_bad(run.step, trained.moco)
        seconds = {
            "train_seconds": run.clock.train_seconds(),
            "budget_seconds": run.clock.budget_seconds(),
        }
        state = Checkpoint(
            run.recipe, trained.moco.state_dict(), trained.optimizer.state_dict(),
            trained.scaler.state_dict(), run.step, run.store.fingerprint, len(run.store),
            run.plan.lines, run.window.state(), torch.get_num_threads(), run.made_by, seconds,
            trained.origin,
        )
        if run.machine.first:
            path, keep = records.directory.checkpoint, run.options.keep
            checkpoints.save(state, path)
            records.tell(Saved(run.step, str(path)))
            if keep and run.epoch_ended:
                records.tell(Saved(run.step, str(checkpoints.keep(path, run.step, keep))))
        # No rank goes on before the file is there: a kill of one would leave the others ahead.
        ranks.barrier()
    run.clock.mark()
    return state


def validate(run: Run, stop: threading.Event) -> bool:
    """Measure kNN if it is due; the clock is paused.

    Returns False, on all ranks, if a signal broke it off: the run measures it after --resume.
    """
    if not run.options.val:
        return True
    monitor, step, measured = run.monitor, run.step, run.records.measured
    due = monitor is not None and (step == 0 or monitor.due(step, run.per_epoch, run.plan.steps))
    if monitor is not None and due and step not in measured:
        with run.clock.paused():
            measure(run, monitor, stop)
    # Rank 0 alone has a monitor. The others wait here, and stop with it.
    return bool(run.machine.ranks.share(float(not due or step in measured)))


def measure(run: Run, monitor: Monitor, stop: threading.Event) -> None:
    """Measure kNN, save the weights if they are the best so far, and report it."""
    step, measured = run.step, run.records.measured
    found = monitor(run.trained.moco, step, run.per_epoch, stop)
    if found is None:
        return
    # Step 0 has random weights: they are never the best. The weights are saved before the report,
    # because a run that is killed between the two then repeats both.
    if step and found.knn > max((k for at, k in measured.items() if at), default=0):
        save_best(run)
    run.records.tell(found)
    measured[step] = found.knn
    if run.budget is not None:
        run.budget.aside = found.seconds


def save_best(run: Run) -> None:
    """Write the weights alone, without the optimizer's state."""
    weights = Checkpoint(
        run.recipe, run.trained.moco.state_dict(), {}, {}, run.step, run.store.fingerprint,
        len(run.store), versions=run.made_by,
    )
    path = run.records.directory.best
    checkpoints.save(weights, path)
    run.records.tell(Saved(run.step, str(path)))
