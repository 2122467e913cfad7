"""Reads a past run from its directory: run.json and metrics.jsonl."""

from __future__ import annotations

import dataclasses
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, read_json, typed
from fastmoco.recipe import Recipe, from_dict
from fastmoco.runs.metrics_file import Row, read_metrics


@dataclass(frozen=True)
class About:
    """run.json without the recipe. Fields that an older release did not write have defaults."""

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
    """The events of a run, by kind. A row has the fields of its event (runs.events)."""

    path: Path
    recipe: Recipe
    about: About
    progress: list[Row]
    evaluated: list[Row]
    judged: list[Row]
    ended: Row | None
    """None while the run trains, and after a kill."""
    damaged: str = ""
    """A line about damaged rows of metrics.jsonl, which are left out; empty if there are none."""

    @property
    def state(self) -> str:
        """"done", "stopped", or "not ended" (it still trains, or was killed)."""
        if self.ended is None:
            return "not ended"
        return "done" if self.ended["finished"] else "stopped"

    @property
    def step(self) -> int:
        """The last step that any event names."""
        ended = [self.ended] if self.ended else []
        return max((row["step"] for row in [*self.progress, *self.evaluated, *ended]), default=0)

    @property
    def epochs(self) -> float:
        return self.step / max(1, self.about.steps_per_epoch)

    @property
    def loss(self) -> float | None:
        """Loss of the last log line."""
        return self.progress[-1]["loss"] if self.progress else None

    @property
    def chance(self) -> float | None:
        """Loss of a guess."""
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
        """Median over the log lines."""
        rates = [row["images_per_s"] for row in self.progress]
        return statistics.median(rates) if rates else None

    @property
    def train_seconds(self) -> float | None:
        """Duration of the training without kNN and checkpoints; None until the run has ended."""
        return self.ended["train_seconds"] if self.ended else None


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read the run in a directory. Raises UserError if there is none or its run.json is damaged."""
    path = Path(path)
    recipe, about = read_about(path)
    rows, damaged = read_metrics(path / "metrics.jsonl")
    return RunRecord(
        path, recipe, about, rows["progress"], rows["evaluated"], rows["judged"],
        rows["ended"][-1] if rows["ended"] else None, damaged,
    )


def read_about(path: Path) -> tuple[Recipe, About]:
    """Read a run's run.json: its recipe and the rest.

    Raises UserError if there is none, or if a value in it is impossible.
    """
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
