"""A run's directory: checkpoint.pt, metrics.jsonl, run.json.

With --val also checkpoint-best.pt, the weights of the best kNN; with --keep also checkpoint-STEP.pt
at the ends of the last epochs.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from data_tools.errors import UserError
from fastmoco.checkpoint import versions
from fastmoco.events import Ended, Evaluated, Event, Progress, Skipped, Started
from fastmoco.recipe import Recipe, to_dict


def default_out(data: str | os.PathLike[str], recipe: Recipe) -> str:
    """Where a run goes that names no directory: runs/DATA-RECIPE."""
    path = Path(data).resolve()
    return f"runs/{path.name if path.is_dir() else path.stem}-{recipe.name}"


class RunDir:
    """Made at the start of a run; as a listener it writes metrics.jsonl, a line an event."""

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.best = self.path / "checkpoint-best.pt"
        self.metrics = self.path / "metrics.jsonl"
        if resume and not self.checkpoint.is_file():
            raise UserError(f"{self.checkpoint}: nothing to resume; start without --resume")
        if not resume and self.checkpoint.is_file():
            raise UserError(f"{self.path}: holds a run; go on with --resume, or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; give a directory with --out")

    def open(self, resumed_at: int) -> None:
        """Make the directory; drop metrics of steps that the checkpoint does not know."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        kept = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if row["step"] <= resumed_at and resumed_at > 0 and row["event"] != "ended":
                kept.append(line + "\n")
        partial = self.metrics.with_name("metrics.jsonl.partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.metrics)

    def best_knn(self) -> float:
        """The best kNN so far (0..1) after the first step, by metrics.jsonl; 0 where none was
        measured."""
        rows = map(json.loads, self.metrics.read_text().splitlines())
        return max((r["knn"] for r in rows if r["event"] == "evaluated" and r["step"]), default=0.0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            content = {
                **dataclasses.asdict(event),
                "recipe": to_dict(event.recipe),
                "versions": versions(),
            }
            partial = self.path / "run.json.partial"
            partial.write_text(json.dumps(content, indent=1) + "\n")
            os.replace(partial, self.path / "run.json")
        elif isinstance(event, Skipped):
            with open(self.path / "skipped.jsonl", "a") as file:
                file.write(json.dumps(dataclasses.asdict(event)) + "\n")
        elif isinstance(event, Progress | Evaluated | Ended):
            row = {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}
            with open(self.metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
