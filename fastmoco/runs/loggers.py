"""Writes a run's curves for other programs: TensorBoard's event files, Weights & Biases."""

from __future__ import annotations

import dataclasses
import io
import secrets
import time
from pathlib import Path
from typing import Any

from data_tools.errors import UserError, one_line
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import Ended, Evaluated, Event, Progress, Started

GROUPS = {
    "train": ("loss", "chance", "pretext_accuracy", "queue_fill", "lr", "grad_norm", "skipped",
              "epoch"),
    "features": ("alignment", "uniformity", "feature_std"),
    "speed": ("images_per_s", "data_wait", "memory"),
}


def scalars(event: Event) -> dict[str, float]:
    """Return the event's values by "group/name"; empty if the event is not a measurement."""
    if isinstance(event, Progress):
        return {
            f"{group}/{name}": float(getattr(event, name))
            for group, names in GROUPS.items() for name in names
        }
    return {"kNN/top-1": event.knn} if isinstance(event, Evaluated) else {}


class TensorBoard:
    """A listener that writes TensorBoard's event files into a run's directory.

    Each start of a run writes a new file. The file of a resumed run starts with SessionLog.START,
    at which TensorBoard drops the points of earlier files from that step on (SummaryWriter's
    purge_step). The points of that very step are written again, since a kill may have cut them
    short. There is no writer thread, so nothing here can outlive a run.
    """

    def __init__(self, path: Path, resumed_at: int) -> None:
        # TensorBoard reads the files in the order of their names: a later start needs a later name.
        before = [p.name.split(".")[3] for p in path.glob("events.out.tfevents.*.fastmoco")]
        started = max([int(time.time()), *(int(t) + 1 for t in before if t.isdigit())])
        self.file = Appended(path / f"events.out.tfevents.{started:010}.fastmoco")
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

    A resumed run continues under the same id. wandb ignores steps that were sent before, whose
    values are the same. WANDB_MODE=offline keeps everything on disk. Raises UserError if wandb is
    not installed or the login fails.
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
                f"--wandb {project}: {one_line(error)}; log in with `wandb login`, "
                f"or set WANDB_MODE=offline"
            ) from None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._run.config.update(dataclasses.asdict(event), allow_val_change=True)
        elif isinstance(event, Progress | Evaluated):
            self._run.log(scalars(event), step=event.step)
        elif isinstance(event, Ended):
            self._run.finish(exit_code=0)
