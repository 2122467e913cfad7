"""A run's directory: checkpoint.pt, metrics.jsonl, skipped.jsonl, run.json.

--val adds checkpoint-best.pt, the weights with the best kNN; --keep adds checkpoint-STEP.pt at the
ends of the last epochs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.files import write_whole
from data_tools.safe_reading.json_file import Damaged
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import (
    Ended,
    Evaluated,
    Event,
    Judged,
    Progress,
    Skipped,
    Started,
    from_row,
    to_row,
)
from fastmoco.runs.lock import unwritable
from fastmoco.runs.metrics_file import Row, read_until
from fastmoco.system.versions import versions


class RunDir:
    """The paths of a run's files, and the listener that writes its events.

    A skipped step becomes a line of skipped.jsonl, any other event a line of metrics.jsonl.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.best = self.path / "checkpoint-best.pt"
        self.metrics = Appended(self.path / "metrics.jsonl")
        self.skipped = Appended(self.path / "skipped.jsonl")
        self.damaged: list[str] = []
        """After open: a line per file from which damaged rows were dropped."""
        if resume and not self.checkpoint.is_file():
            raise UserError(f"{self.checkpoint}: nothing to resume; start without --resume")
        if not resume and self.checkpoint.is_file():
            raise UserError(f"{self.path}: holds a run; go on with --resume, or give another --out")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; give a directory with --out")

    def open(self, resumed_at: int) -> list[Event]:
        """Make the directory and return the events of metrics.jsonl that a resumed run keeps.

        Drops the records of steps after the checkpoint, which will be written again, and damaged
        ones (see `damaged`). Raises UserError if the directory is not writable.
        """
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

    def _keep(self, path: Path, resumed_at: int) -> list[Row]:
        """Reduce a file to its rows up to a step; return them."""
        rows: list[Row] = []
        if resumed_at:
            rows, damaged = read_until(path, resumed_at)
            self.damaged += [damaged] if damaged else []
        if rows or path == self.metrics.path:
            write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        else:
            path.unlink(missing_ok=True)
        return rows

    def __call__(self, event: Event) -> None:
        """Write an event into its file. Raises UserError if run.json can't be written."""
        if isinstance(event, Started):
            content = to_row(event) | {"versions": versions()}
            del content["event"]
            file = self.path / "run.json"
            try:
                write_whole(file, json.dumps(content, indent=1).encode() + b"\n")
            except OSError as error:
                raise unwritable(error, file) from None
        elif isinstance(event, Progress | Evaluated | Judged | Skipped | Ended):
            log = self.skipped if isinstance(event, Skipped) else self.metrics
            log.write(json.dumps(to_row(event)).encode() + b"\n")
