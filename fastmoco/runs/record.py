"""A run that was, as its directory tells it: run.json and metrics.jsonl."""

from __future__ import annotations

import dataclasses
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, left_out, read_json, read_lines, typed
from fastmoco.recipe import Recipe, from_dict
from fastmoco.runs.events import KINDS, check_row

Row = dict[str, Any]
# A row of these events that lacks one of these fields is damaged, and left out.
NEEDED = {
    "progress": (
        "step", "epoch", "loss", "chance", "pretext_accuracy", "lr", "images_per_s", "data_wait",
    ),
    "evaluated": ("step", "epoch", "knn", "protocol"),
    "judged": ("step", "name", "text", "over"),
    "ended": ("step", "finished", "train_seconds"),
}


@dataclass(frozen=True)
class About:
    """run.json without the recipe; an older release may not have written all of it."""

    device: str = ""
    engine: str = ""
    data: str = ""
    """The dataset, as an absolute path."""
    samples: int = 0
    steps_per_epoch: int = 1
    parameters: int = 0
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """What a run told, event by event; each row has the fields of its event (runs.events)."""

    path: Path
    recipe: Recipe
    about: About
    progress: list[Row]
    evaluated: list[Row]
    judged: list[Row]
    ended: Row | None
    """None while it runs, and after a kill."""
    damaged: str = ""
    """A line on the rows of metrics.jsonl that are damaged and were left out; empty if none is."""

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
        return self.step / max(1, self.about.steps_per_epoch)

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
    """The run in a directory. Raises UserError if there is none, or if its run.json is damaged."""
    path = Path(path)
    recipe, about = read_about(path)
    rows, damaged = read_metrics(path / "metrics.jsonl")
    return RunRecord(
        path, recipe, about, rows["progress"], rows["evaluated"], rows["judged"],
        rows["ended"][-1] if rows["ended"] else None, damaged,
    )


def read_about(path: Path) -> tuple[Recipe, About]:
    """The recipe and the rest of a run's run.json. Raises UserError if there is none, or if it
    holds a value that no run.json of ours can hold."""
    file = path / "run.json"
    try:
        values = read_json(file)
        if not isinstance(values, dict):
            raise Damaged("not an object")
        recipe = from_dict(values.get("recipe"))
        recipe.check()
        known = {f.name for f in dataclasses.fields(About)}
        about = typed(About, {k: v for k, v in values.items() if k in known})
        if min(about.samples, about.steps_per_epoch, about.parameters) < 0:
            raise Damaged("a count is below 0")
    except OSError as error:
        raise UserError(
            f"{path}: no run here (run.json: {error.strerror}); give the --out of a train"
        ) from None
    except Damaged as error:
        raise UserError(f"{file}: damaged, or of another version ({error})") from None
    except UserError as error:
        raise UserError(f"{file}: its recipe cannot be one ({error})") from None
    return recipe, about


def read_metrics(path: Path) -> tuple[dict[str, list[Row]], str]:
    """The rows of a metrics.jsonl by event, and a line on those that are damaged, which are left
    out; empty if none is. A file that is missing has no rows."""
    rows: dict[str, list[Row]] = {name: [] for name in KINDS}
    bad = []
    try:
        for row in read_lines(path):
            try:
                name = check_row(row)
                for field in NEEDED.get(name, ()):
                    if row.get(field) is None:
                        raise Damaged(f"{field} is missing")
            except Damaged as error:
                bad.append(str(error))
                continue
            if name:
                rows[name].append(row)
    except FileNotFoundError:
        pass
    except (OSError, Damaged) as error:
        raise UserError(f"{path}: can't be read ({getattr(error, 'strerror', error)})") from None
    return rows, left_out(path, bad)
