"""What a run tells. Listeners (the console, metrics.jsonl, curves) are callables that take one
event."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.safe_reading.json_file import Damaged, hints_of, typed
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
    data: str  # the dataset, as an absolute path


@dataclass(frozen=True)
class Progress:
    """At log steps; means are over the steps since the last one."""

    step: int  # steps done, over the whole run
    steps: int  # of the whole run
    epoch: float
    loss: float
    chance: float  # ln(negatives + 1): the loss of a guess, twice that if symmetric
    pretext_accuracy: float  # share of queries nearest to their own key
    queue_fill: float  # share of the queue (or memory bank) that holds real keys
    lr: float
    images_per_s: float
    data_wait: float  # share of the time that steps waited for data
    seconds_left: float
    alignment: float  # mean of |q - k|^2: 0 is best, 2 unrelated
    uniformity: float  # log of the mean of exp(-2 |q_i - q_j|^2): -4 is spread out, 0 collapsed
    feature_std: float  # of q, mean over dimensions times sqrt(C): 1 is spread out, 0 collapsed
    grad_norm: float
    memory: float  # GB at the most so far: of the device, or of the process on a CPU
    skipped: int  # steps that were not finite, and moved no weight
    budget_left: float | None = None  # seconds until --budget or --until is up, less the reserve


@dataclass(frozen=True)
class Evaluated:
    """A kNN measurement."""

    step: int
    epoch: float
    knn: float  # top-1, 0..1
    protocol: str
    seconds: float


Severity = Literal["note", "warning", "alarm"]


@dataclass(frozen=True)
class Judged:
    """What a run's figures mean (runs.health): told when it begins, and when it is over."""

    step: int
    name: str
    severity: Severity
    text: str  # what is seen, and what to do
    over: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Skipped:
    """A step that moved nothing, since its loss, keys or gradients were not finite."""

    step: int
    ids: list[int]
    keys: list[str]  # the samples' names in the dataset


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


Event = Started | Progress | Evaluated | Judged | Saved | Skipped | Noted | Ended
Listener = Callable[[Event], None]


def to_row(event: Event) -> dict[str, Any]:
    """An event as JSON values, its kind under "event"; a recipe becomes a dict."""
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


# Least and most that can be true of a number of an event; wide enough for rounding.
RANGES: dict[str, tuple[float, float]] = {
    "step": (0, 2**53), "steps": (0, 2**53), "skipped": (0, 2**53), "epoch": (0, 1e12),
    "knn": (0, 1), "loss": (0, 1e15), "chance": (0, 1e15), "pretext_accuracy": (0, 1),
    "queue_fill": (0, 1), "lr": (0, 1e15), "images_per_s": (0, 1e12), "data_wait": (-1, 2),
    "memory": (0, 1e12), "seconds": (0, 1e12), "train_seconds": (0, 1e12),
}
# By the name under "event" in a row. Not Started: its recipe is read with run.json.
KINDS: dict[str, Any] = {
    kind.__name__.lower(): kind for kind in (Progress, Evaluated, Judged, Skipped, Ended)
}


def check_row(row: Any) -> str:
    """The kind of event in a row, a key of KINDS; empty for a kind that this release does not
    have. Raises Damaged for a field that has another type than in the event, or cannot be true.
    Fields may be missing or unknown: another release may have written the row."""
    if isinstance(row, Damaged):
        raise row
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        raise Damaged("no event of a run")
    kind = KINDS.get(row["event"])
    if kind is None:
        return ""
    hints = hints_of(kind)
    for name, value in row.items():
        if name in hints:
            typed(hints[name], value, name)
    for name in hints.keys() & row.keys() & RANGES.keys():
        least, most = RANGES[name]
        if not least <= row[name] <= most:
            raise Damaged(f"{name} is not from {least} to {most:g}")
    return row["event"]


def from_row(row: Any) -> Event | None:
    """The event that to_row gave; None for an event of another release. Raises Damaged as
    check_row does."""
    name = check_row(row)
    if not name:
        return None
    try:
        return KINDS[name](**{k: v for k, v in row.items() if k != "event"})
    except TypeError:  # fields of another release
        return None
