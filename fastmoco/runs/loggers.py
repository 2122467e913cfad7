"""A run's curves where other programs draw them: TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import dataclasses
import io
import secrets
import time
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import Ended, Evaluated, Event, Progress, Started

GROUPS = {
    "train": ("loss", "chance", "pretext_accuracy", "queue_fill", "lr", "grad_norm", "skipped",
              "epoch"),
    "features": ("alignment", "uniformity", "feature_std"),
    "speed": ("images_per_s", "data_wait", "memory"),
}


def scalars(event: Event) -> dict[str, float]:
    """The event's points as group/name; empty for what is no measurement."""
    if isinstance(event, Progress):
        return {
            f"{group}/{name}": float(getattr(event, name))
            for group, names in GROUPS.items() for name in names
        }
    return {"kNN/top-1": event.knn} if isinstance(event, Evaluated) else {}


class TensorBoard:
    """A listener that writes TensorBoard's event files into a run's directory.

    Each start of a run has a file of its own. One that resumes begins with a mark by which
    TensorBoard drops what earlier files hold from that step on: SummaryWriter's purge_step. What
    was told at that very step has to be told again, since a kill may have come amid it. Written in
    place, by no thread: nothing here can change a run or outlive it.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        # a program that reads them takes the files in the order of their names
        before = [p.name.split(".")[3] for p in path.glob("events.out.tfevents.*.fastmoco")]
        begun = max([int(time.time()), *(int(t) + 1 for t in before if t.isdigit())])
        self.file = Appended(path / f"events.out.tfevents.{begun:010}.fastmoco")
        self._write(file_version="brain.Event:2")
        if before:
            from tensorboard.compat.proto.event_pb2 import SessionLog

            mark = SessionLog(status=SessionLog.START)
            self._write(step=resumed_at, session_log=mark)

    def __call__(self, event: Event) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=t, simple_value=v) for t, v in scalars(event).items()]
        if values and isinstance(event, Progress | Evaluated):
            self._write(step=event.step, summary=Summary(value=values))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Point
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        point = Point(wall_time=time.time(), **fields)
        RecordWriter(record).write(point.SerializeToString())
        self.file.write(record.getvalue())


class WeightsAndBiases:
    """A listener that sends curves and recipe to a Weights & Biases project.

    A resumed run goes on under the same id; of steps that were sent already the first points stay,
    which are the same. WANDB_MODE=offline keeps all on disk. Raises UserError where wandb is not
    installed or does not let us in.
    """

    def __init__(self, project: str, path: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--wandb needs the package wandb: pip install 'fastmoco[wandb]'"
            ) from None
        known = path / "wandb-id"
        if not known.exists():
            known.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project, id=known.read_text(), name=path.name, dir=path, resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"--wandb {project}: {error}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._run.config.update(dataclasses.asdict(event), allow_val_change=True)
        elif isinstance(event, Progress | Evaluated):
            self._run.log(scalars(event), step=event.step)
        elif isinstance(event, Ended):
            self._run.finish(exit_code=0)
