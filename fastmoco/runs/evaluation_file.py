"""The results of fastmoco knn, linear and finetune, as their --json wrote them into a file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import Damaged, read_json, typed

Plain = str | int | float
# The types of a row's fields that we know; others may be any plain value.
FIELDS: dict[str, Any] = {
    "features": str, "name": str, "protocol": str, "k": int, "T": float, "rate": float,
    "images": int,
    "top1": float, "low": float, "high": float, "top5": float,
}
SCORE = ("top1", "low", "high", "top5")
# Least and most that can be true.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(SCORE, (0, 1)), "k": (1, 2**53), "T": (0, math.inf), "rate": (0, math.inf),
    "images": (0, 2**53), "step": (0, 2**53), "size": (0, 2**31),
}


@dataclass(frozen=True)
class Evaluation:
    """The content of such a file; of fields that an older release did not write, the defaults."""

    rows: list[dict[str, Plain]]
    """One per set of features; a score's fields (SCORE) are among the row's own."""
    protocol: str = ""
    step: int | None = None
    weights: str = ""
    """fastmoco.weights.checkpoint.trunk_digest of the evaluated checkpoint."""
    data: list[str] = field(default_factory=list)
    """Paths of the datasets: TRAIN, and VAL if there was one."""
    size: int = 0
    """Side of the views, in pixels."""


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in a JSON file. Raises OSError, or Damaged if it is none."""
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
    """Raises Damaged for a number that no evaluation of ours can have found."""
    least, most = RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int | float) and not least <= value <= most:
        raise Damaged(f"{where} is not from {least:g} to {most:g}")


def flat_rows(rows: Any) -> list[dict[str, Plain]]:
    """Rows, which finetune writes as an object by name, with their scores among their fields."""
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
