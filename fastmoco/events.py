"""What a run tells. Listeners (the console, metrics.jsonl) are callables that take one event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastmoco.recipe import Recipe


@dataclass(frozen=True)
class Started:
    """Before the first step."""

    recipe: Recipe
    samples: int
    steps_per_epoch: int
    first_step: int  # above 0 where a run was resumed
    device: str
    engine: str
    parameters: int
    out: str


@dataclass(frozen=True)
class Progress:
    """At log steps; means are over the steps since the last one."""

    step: int  # steps done, over the whole run
    steps: int  # of the whole run
    epoch: float
    loss: float
    chance: float  # ln(K+1): the loss of a guess
    pretext_accuracy: float  # share of queries nearest to their own key
    queue_fill: float  # share of the queue that holds real keys
    lr: float
    images_per_s: float
    data_wait: float  # share of the time that steps waited for data
    seconds_left: float


@dataclass(frozen=True)
class Evaluated:
    """A kNN measurement."""

    step: int
    epoch: float
    knn: float  # top-1, 0..1
    protocol: str
    seconds: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Noted:
    """Something the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The run is over, or was asked to stop."""

    step: int
    steps: int
    train_seconds: float
    finished: bool
    path: str


Event = Started | Progress | Evaluated | Saved | Noted | Ended
Listener = Callable[[Event], None]
