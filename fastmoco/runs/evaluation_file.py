"""Reads the results that fastmoco knn, linear and finetune printed with --json."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import Damaged, read_json, typed

Plain = str | int | float
# Types of a row's known fields. Other fields may hold any plain value.
FIELDS: dict[str, Any] = {
    "features": str, "name": str, "protocol": str, "k": int, "T": float, "rate": float,
    "images": int,
    "top1": float, "low": float, "high": float, "top5": float,
}
SCORE = ("top1", "low", "high", "top5")
# Smallest and largest possible value.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(SCORE, (0, 1)), "k": (1, 2**53), "T": (0, math.inf), "rate": (0, math.inf),
    "images": (0, 2**53), "step": (0, 2**53), "size": (0, 2**31),
}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. Fields that an older release did not write have their defaults."""

    rows: list[dict[str, Plain]]
    """One row per set of features; it has the fields of its score (SCORE) as its own."""
    protocol: str = ""
    step: int | None = None
    weights: str = ""
    """Hash of the evaluated trunk: fastmoco.weights.checkpoint.trunk_digest."""
    data: list[str] = field(default_factory=list)
    """Paths of the datasets: TRAIN, then VAL if there was one."""
    size: int = 0
    """Side of the views, in pixels."""


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation from a file. Raises OSError, or Damaged if it is not an evaluation."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise Damaged("not an object")
    known = [f.name for f in dataclasses.fields(Evaluation) if f.name != "rows"]
    about = {name: content[name] for name in known if name in content}
    found = typed(Evaluation, {**about, "rows": flat_rows(content.get("rows"))})
    for name in ("step", "size"):
        check_range(name, getattr(found, name), name)
    if not any(found.rows):
        raise Damaged("no rows")
    return found


def check_range(name: str, value: Any, where: str) -> None:
    """Raise Damaged for a number outside the possible range of this field."""
    least, most = RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int | float) and not least <= value <= most:
        raise Damaged(f"{where} is not from {least:g} to {most:g}")


def flat_rows(rows: Any) -> list[dict[str, Plain]]:
    """Flatten rows: each gets the fields of its score as its own.

    finetune writes an object with a row by name; knn and linear write a list.
    """
    if isinstance(rows, dict):
        rows = [{"name": name, **typed(dict[str, Any], row, name)} for name, row in rows.items()]
    out = []
    for number, row in enumerate(typed(list[dict[str, Any]], rows, "rows")):
        score = row.get("score")
        inner = {k: score[k] for k in SCORE if k in score} if isinstance(score, dict) else {}
        found = {}
        for name, value in (row | inner).items():
            if name in FIELDS and value is not None:
                found[name] = typed(FIELDS[name], value, f"rows[{number}].{name}")
                check_range(name, value, f"rows[{number}].{name}")
            elif isinstance(value, float) and not math.isfinite(value):
                continue
            elif isinstance(value, str | int | float):
                found[name] = typed(bool | int | float | str, value, f"rows[{number}].{name}")
        out.append(found)
    return out
