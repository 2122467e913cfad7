"""What lies in a run's directory besides: evaluations and a bench report, as their commands' --json
wrote them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = "bench.json"
OURS = ("run.json", BENCH)
# Of a score, what a table has room for.
SCORE = ("top1", "low", "high", "top5")
SHARES = (*SCORE, "held_out")


@dataclass(frozen=True)
class Table:
    """An evaluation."""

    title: str
    headers: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Bar:
    """A stage: where it begins and how long it takes, milliseconds an image."""

    name: str
    start: float
    length: float


@dataclass(frozen=True)
class Waterfall:
    """The stages of a step, one after another, and what the whole takes."""

    stages: list[Bar]
    together: float
    overlap: bool
    """Whether loading runs beside the device's work."""
    machine: str
    binds: str
    advice: str


def tables(folder: Path) -> tuple[list[Table], list[str]]:
    """The evaluations in a directory, by file name; and a line on each JSON file that is none."""
    found, strange = [], []
    for path in sorted(folder.glob("*.json")):
        if path.name in OURS:
            continue
        try:
            content = json.loads(path.read_text("utf-8"))
            rows = [flat(row) for row in listed(content["rows"])]
            headers = list(dict.fromkeys(name for row in rows for name in row))
            if not headers:
                raise ValueError("no rows")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            strange.append(f"{path.name}: no output of fastmoco knn, linear or finetune --json")
            continue
        notes = [path.stem, content.get("protocol", "")]
        if "step" in content:
            notes.append(f"step {content['step']:,}")
        text = [[cell(name, row.get(name)) for name in headers] for row in rows]
        title = "; ".join(str(n) for n in notes if n)
        found.append(Table(title, [h.replace("_", " ") for h in headers], text))
    return found, strange


def listed(rows: Any) -> list[dict[str, Any]]:
    """Rows as a list; those that are named take their name along."""
    if isinstance(rows, dict):
        return [{"name": name, **row} for name, row in rows.items()]
    return list(rows)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row's plain values, and of the score in it what a table shows."""
    out = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
    inner = row.get("score")
    if isinstance(inner, dict):
        out |= {k: inner[k] for k in SCORE if inner.get(k) is not None}
    return out


def cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1%}" if name in SHARES else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def waterfall(folder: Path) -> Waterfall | None:
    """The stages that bench measured, from RUN/bench.json; None where that is not there or no
    report of bench."""
    try:
        saved = json.loads((folder / BENCH).read_text("utf-8"))
        rate = {row["name"]: float(row["images_per_s"]) for row in saved["stages"]}
        each = {name: 1e3 / r for name, r in rate.items()}
        lengths = {
            "decode": each["decode"],
            "both crops": max(0.0, each["two views"] - each["decode"]),
            "copy to the device": each.get("copy", 0.0),
            "augmentation": each["augmentation alone"],
            "step": each["step alone"],
        }
        bars, start = [], 0.0
        for name, length in lengths.items():
            if length or name != "copy to the device":
                bars.append(Bar(name, start, length))
                start += length
        return Waterfall(
            bars, each["two views + augmentation + step"], "copy" in each, str(saved["machine"]),
            str(saved["binds"]), str(saved["advice"]),
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
