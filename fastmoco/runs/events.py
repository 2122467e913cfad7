"""Events that a run reports, and their form as rows of JSON.

A listener (the console, metrics.jsonl, curves) is a callable that takes one event.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.safe_reading.json_file import Damaged, hints_of, typed
from fastmoco.recipe import Recipe


@dataclass(frozen=True)
class Started:
    """The run is set up; the first step follows."""

    recipe: Recipe
    samples: int
    steps_per_epoch: int
    first_step: int  # above 0 if the run was resumed
    device: str
    engine: str
    parameters: int
    out: str
    data: str  # the dataset, as an absolute path


@dataclass(frozen=True)
class Progress:
    """A log line. Means are over the steps since the last one."""

    step: int  # steps done since the start of the run
    steps: int  # planned for the whole run
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
    feature_std: float  # std of q, mean over dimensions, times sqrt(C): 1 spread out, 0 collapsed
    grad_norm: float
    memory: float  # peak so far in GB: of the device, or of the process on a CPU
    skipped: int  # steps that were not finite and moved no weight
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
    """A warning about the run's figures (runs.health): it appears, or it is over."""

    step: int
    name: str
    severity: Severity
    text: str  # the observation, and the remedy
    over: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Skipped:
    """A step that moved no weight, because its loss, keys or gradients were not finite."""

    step: int
    ids: list[int]
    keys: list[str]  # the samples' names in the dataset


@dataclass(frozen=True)
class Noted:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The run is complete, or was asked to stop."""

    step: int
    steps: int
    train_seconds: float
    finished: bool
    path: str


Event = Started | Progress | Evaluated | Judged | Saved | Skipped | Noted | Ended
Listener = Callable[[Event], None]


def to_row(event: Event) -> dict[str, Any]:
    """Convert an event to JSON values. Its kind is under "event"; a recipe becomes a dict."""
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


# Smallest and largest possible value of a number in an event, with room for rounding.
RANGES: dict[str, tuple[float, float]] = {
    "step": (0, 2**53), "steps": (0, 2**53), "skipped": (0, 2**53), "epoch": (0, 1e12),
    "knn": (0, 1), "loss": (0, 1e15), "chance": (0, 1e15), "pretext_accuracy": (0, 1),
    "queue_fill": (0, 1), "lr": (0, 1e15), "images_per_s": (0, 1e12), "data_wait": (-1, 2),
    "memory": (0, 1e12), "seconds": (0, 1e12), "train_seconds": (0, 1e12),
}
# Kinds by the name under "event" in a row. Started is not among them: run.json holds it.
KINDS: dict[str, Any] = {
    kind.__name__.lower(): kind for kind in (Progress, Evaluated, Judged, Skipped, Ended)
}


def check_row(row: Any) -> str:
    """Return the kind of event in a row (a key of KINDS); empty for a kind of another release.

    Fields may be missing or unknown, since another release may have written the row. Raises
    Damaged for a field that has the wrong type, or a value that it cannot have.
    """
    if isinstance(row, Damaged):
        raise row
    if not isinstance(row, dict) or not isinstance(row.get("event"), str):
        raise Damaged("not an event of a run")
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
    """Convert a row of to_row back to its event; None for an event of another release.

    Raises Damaged as check_row does.
    """
    name = check_row(row)
    if not name:
        return None
    try:
        return KINDS[name](**{k: v for k, v in row.items() if k != "event"})
    except TypeError:  # it has the fields of another release
        return None
