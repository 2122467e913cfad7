"""Tables of the evaluations and of the bench report that --json wrote into a run's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import Damaged
from fastmoco.runs.bench_file import read_bench
from fastmoco.runs.evaluation_file import SCORE, read_evaluation

BENCH = "bench.json"
WHOLE = "two views + augmentation + step"
OURS = ("run.json", BENCH)
SHARES = (*SCORE, "held_out")


@dataclass(frozen=True)
class Table:
    """An evaluation as text, with a row per set of features."""

    title: str
    headers: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Bar:
    """A stage: its start and its length, in milliseconds per image."""

    name: str
    start: float
    length: float


@dataclass(frozen=True)
class Waterfall:
    """The stages of a step, one after another, and the time of the whole step."""

    stages: list[Bar]
    together: float
    overlap: bool
    """Whether loading and the device's work overlap."""
    machine: str
    binds: str
    advice: str


def tables(folder: Path) -> tuple[list[Table], list[str]]:
    """Read the evaluations in a directory, by file name.

    Also returns a line about each JSON file that is not an evaluation.
    """
    found, strange = [], []
    for path in sorted(folder.glob("*.json")):
        if path.name in OURS:
            continue
        try:
            content = read_evaluation(path)
        except (OSError, Damaged) as error:
            strange.append(
                f"{path.name}: not an output of fastmoco knn, linear or finetune --json ({error})"
            )
            continue
        headers = list(dict.fromkeys(name for row in content.rows for name in row))
        notes = [path.stem, content.protocol]
        if content.step is not None:
            notes.append(f"step {content.step:,}")
        text = [[cell(name, row.get(name)) for name in headers] for row in content.rows]
        title = "; ".join(str(n) for n in notes if n)
        found.append(Table(title, [h.replace("_", " ") for h in headers], text))
    return found, strange


def cell(name: str, value: Any) -> str:
    """A value of an evaluation as text; shares of 1 in percent."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1%}" if name in SHARES else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def waterfall(folder: Path) -> Waterfall | None:
    """Read the stages from RUN/bench.json; None if there is no such report of bench."""
    try:
        saved = read_bench(folder / BENCH)
    except (OSError, Damaged):
        return None
    each = {name: 1e3 / rate for name, rate in saved.rates.items() if rate}
    if not {"decode", "two views", "augmentation alone", "step alone", WHOLE} <= each.keys():
        return None
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
        bars, each[WHOLE], "copy" in each, saved.machine, saved.binds, saved.advice,
    )
