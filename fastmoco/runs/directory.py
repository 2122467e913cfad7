"""A run's directory: checkpoint.pt, metrics.jsonl, skipped.jsonl, run.json.

With --val also checkpoint-best.pt, the weights of the best kNN; with --keep also checkpoint-STEP.pt
at the ends of the last epochs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, left_out, read_lines
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import (
    Ended,
    Evaluated,
    Event,
    Judged,
    Progress,
    Skipped,
    Started,
    check_row,
    from_row,
    to_row,
)
from fastmoco.runs.lock import unwritable
from fastmoco.system.versions import versions


class RunDir:
    """Made at the start of a run; as a listener it writes a line an event: skipped steps into
    skipped.jsonl, the rest into metrics.jsonl."""

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.best = self.path / "checkpoint-best.pt"
        self.metrics = Appended(self.path / "metrics.jsonl")
        self.skipped = Appended(self.path / "skipped.jsonl")
        self.damaged: list[str] = []
        """After open: a line on each file of which damaged rows were dropped."""
        if resume and not self.checkpoint.is_file():
            raise UserError(f"{self.checkpoint}: nothing to resume; start without --resume")
        if not resume and self.checkpoint.is_file():
            raise UserError(f"{self.path}: holds a run; go on with --resume, or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; give a directory with --out")

    def open(self, resumed_at: int) -> list[Event]:
        """Make the directory; drop records of steps that the checkpoint does not know, and damaged
        ones (see `damaged`); give those of metrics.jsonl that stay."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._keep(self.skipped.path, resumed_at)
            rows = self._keep(self.metrics.path, resumed_at)
        except OSError as error:
            raise unwritable(error, self.path) from None
        except Damaged as error:
            raise UserError(
                f"{self.metrics.path}: {error}; remove it, or give another --out"
            ) from None
        return [event for event in map(from_row, rows) if event is not None]

    def _keep(self, path: Path, resumed_at: int) -> list[dict]:
        """The rows of a file up to a step; the file holds no others afterwards."""
        kept, bad = [], []
        for row in read_lines(path) if resumed_at and path.exists() else ():
            try:
                if check_row(row) != "ended" and row["step"] <= resumed_at:
                    kept.append(row)
            except (Damaged, KeyError, TypeError) as error:  # other releases have other events
                bad.append(str(error))
        if bad:
            self.damaged.append(left_out(path, bad))
        if kept or path == self.metrics.path:
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(partial, path)
        else:
            path.unlink(missing_ok=True)
        return kept

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            content = to_row(event) | {"versions": versions()}
            del content["event"]
            partial = self.path / "run.json.partial"
            try:
                partial.write_text(json.dumps(content, indent=1) + "\n")
                os.replace(partial, self.path / "run.json")
            except OSError as error:
                raise unwritable(error, partial) from None
        elif isinstance(event, Progress | Evaluated | Judged | Skipped | Ended):
            file = self.skipped if isinstance(event, Skipped) else self.metrics
            file.write(json.dumps(to_row(event)).encode() + b"\n")
