"""Reads metrics.jsonl and skipped.jsonl: a row per event of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, left_out, read_lines
from fastmoco.runs.events import KINDS, check_row

Row = dict[str, Any]
# A row without one of these fields is damaged. Others may be missing: older releases lack some.
NEEDED = {
    "progress": (
        "step", "epoch", "loss", "chance", "pretext_accuracy", "lr", "images_per_s", "data_wait",
    ),
    "evaluated": ("step", "epoch", "knn", "protocol"),
    "judged": ("step", "name", "text", "over"),
    "ended": ("step", "finished", "train_seconds"),
}


def read_rows(path: Path) -> Iterator[tuple[str, Row] | Damaged]:
    """Yield (kind, row) per line, or a Damaged in place of a damaged line.

    The kind is empty for an event of another release. Raises OSError, or Damaged if `path` is not
    a regular file.
    """
    for row in read_lines(path):
        try:
            yield check_row(row), row
        except Damaged as error:
            yield error


def read_metrics(path: Path) -> tuple[dict[str, list[Row]], str]:
    """Read the rows of a metrics.jsonl by kind, without the damaged ones.

    Also returns a line about the damaged rows, empty if there are none. A missing file has no
    rows. Raises UserError if the file can't be read.
    """
    rows: dict[str, list[Row]] = {name: [] for name in KINDS}
    bad = []
    try:
        for found in read_rows(path):
            if isinstance(found, Damaged):
                bad.append(str(found))
                continue
            kind, row = found
            missing = [name for name in NEEDED.get(kind, ()) if row.get(name) is None]
            if missing:
                bad.append(f"{missing[0]} is missing")
            elif kind:
                rows[kind].append(row)
    except FileNotFoundError:
        pass
    except (OSError, Damaged) as error:
        raise UserError(f"{path}: can't be read ({getattr(error, 'strerror', error)})") from None
    return rows, left_out(path, bad)


def read_until(path: Path, step: int) -> tuple[list[Row], str]:
    """Read the rows up to a step, in order, of all kinds but "ended".

    Also returns a line about the damaged rows, as read_metrics does. A missing file has no rows.
    Raises OSError, or Damaged if `path` is not a regular file.
    """
    rows, bad = [], []
    for found in read_rows(path) if path.exists() else ():
        if isinstance(found, Damaged):
            bad.append(str(found))
            continue
        kind, row = found
        try:
            if kind != "ended" and row["step"] <= step:
                rows.append(row)
        except (KeyError, TypeError) as error:  # an event of another release
            bad.append(str(error))
    return rows, left_out(path, bad)
