"""A run that was, as its directory tells it: run.json and metrics.jsonl."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from fastmoco.recipe import Recipe, from_dict

Row = dict[str, Any]
# Of a row of these events; one without is damaged, and left out.
NEEDED = {
    "progress": ("step", "epoch", "loss", "chance", "pretext_accuracy", "lr", "images_per_s"),
    "evaluated": ("step", "epoch", "knn"),
    "ended": ("step", "finished", "train_seconds"),
}


@dataclass(frozen=True)
class RunRecord:
    """What a run told, event by event; each row has the fields of its event (fastmoco.events)."""

    path: Path
    recipe: Recipe
    about: Row
    """run.json: device, engine, samples, steps_per_epoch, parameters, versions, data."""
    progress: list[Row]
    evaluated: list[Row]
    judged: list[Row]
    ended: Row | None
    """None while it runs, and after a kill."""

    @property
    def state(self) -> str:
        """done, stopped, or not ended: under way, or killed."""
        if self.ended is None:
            return "not ended"
        return "done" if self.ended["finished"] else "stopped"

    @property
    def step(self) -> int:
        """The last that it told of."""
        return max((row["step"] for row in self.told), default=0)

    @property
    def told(self) -> list[Row]:
        return [*self.progress, *self.evaluated, *([self.ended] if self.ended else [])]

    @property
    def epochs(self) -> float:
        return self.step / max(1, self.about.get("steps_per_epoch", 1))

    @property
    def loss(self) -> float | None:
        """The last log line's."""
        return self.progress[-1]["loss"] if self.progress else None

    @property
    def chance(self) -> float | None:
        """The loss of a guess."""
        return self.progress[-1]["chance"] if self.progress else None

    @property
    def best(self) -> Row | None:
        """The kNN measurement with the best top-1 after the first step."""
        trained = [row for row in self.evaluated if row["step"]]
        return max(trained, key=lambda row: row["knn"], default=None)

    @property
    def last(self) -> Row | None:
        """The last kNN measurement."""
        return self.evaluated[-1] if self.evaluated else None

    @property
    def images_per_s(self) -> float | None:
        """Median of the log lines'."""
        rates = [row["images_per_s"] for row in self.progress]
        return statistics.median(rates) if rates else None

    @property
    def train_seconds(self) -> float | None:
        """Without kNN and checkpoints; known once it has ended."""
        return self.ended["train_seconds"] if self.ended else None


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """The run in a directory. Raises UserError where there is none, or one of another version."""
    path = Path(path)
    try:
        about = json.loads((path / "run.json").read_text("utf-8"))
        recipe = from_dict(about.pop("recipe"))
    except OSError as error:
        raise UserError(
            f"{path}: no run here (run.json: {error.strerror}); give the --out of a train"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path / 'run.json'}: damaged, or of another version") from None
    rows: dict[str, list[Row]] = {}
    metrics = path / "metrics.jsonl"
    lines = metrics.read_text("utf-8", "replace").splitlines() if metrics.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
            if all(name in row for name in NEEDED.get(row["event"], ())):
                rows.setdefault(row["event"], []).append(row)
        except (ValueError, KeyError, TypeError):  # cut short by a kill
            continue
    return RunRecord(
        path, recipe, about, rows.get("progress", []), rows.get("evaluated", []),
        rows.get("judged", []), rows.get("ended", [None])[-1],  # type: ignore[list-item]
    )
