"""The records of a run: its directory, and the listeners that its events go to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fastmoco.run_options import RunOptions
from fastmoco.runs.directory import RunDir
from fastmoco.runs.dispatch import Dispatch
from fastmoco.runs.events import Evaluated, Event, Listener, Progress
from fastmoco.runs.health import Watch
from fastmoco.runs.loggers import TensorBoard, WeightsAndBiases


def _silent(_event: Event) -> None:
    pass


@dataclass(frozen=True)
class Records:
    """The files and the listeners of a run."""

    directory: RunDir
    tell: Callable[[Event], None] = _silent
    """Sends an event to all listeners. Does nothing on all ranks but the first."""
    measured: dict[int, float] = field(default_factory=dict)
    """kNN accuracy by step, those of earlier processes included."""


def open_records(
    directory: RunDir, step: int, options: RunOptions, listeners: Iterable[Listener]
) -> Records:
    """Open the run's files at a step, and connect the listeners: the run's own files,
    TensorBoard's, Weights & Biases if asked for, and the given ones."""
    before = directory.open(resumed_at=step)
    board = TensorBoard(directory.path, step)
    curves: list[Listener] = [board]
    if options.wandb:
        curves.append(WeightsAndBiases(options.wandb, directory.path))
    # A kill at this very step may have come between our file and theirs: they get it again.
    for event in before:
        if isinstance(event, Evaluated | Progress) and event.step == step:
            for listener in curves:
                listener(event)
    files = (directory.metrics, directory.skipped, board.file)
    tell = Dispatch([directory, *curves, *listeners], Watch(before), files)
    return Records(directory, tell, {e.step: e.knn for e in before if isinstance(e, Evaluated)})
