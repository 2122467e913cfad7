"""Reads the report that fastmoco bench --json wrote."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import Damaged, read_json, typed

MOST = 1e12  # images/s; a rate outside 1/MOST to MOST was not measured by bench


@dataclass(frozen=True)
class BenchFile:
    """The fields of a bench report that the report page shows."""

    rates: dict[str, float]
    """Images/s by stage; 0 for a stage that was not measured."""
    machine: str = ""
    binds: str = ""
    advice: str = ""
    recipe: str = ""
    size: int = 0
    batch: int = 0
    precision: str = ""
    cores: int = 0


def from_json(content: Any) -> BenchFile:
    """Convert parsed JSON to a report. Raises Damaged if it is not a bench report."""
    if not isinstance(content, dict):
        raise Damaged("not an object")
    rates = {}
    for row in typed(list[dict[str, Any]], content.get("stages"), "stages"):
        name = typed(str, row.get("name"), "stages.name")
        rates[name] = typed(float, row.get("images_per_s"), name)
        if rates[name] and not 1 / MOST < rates[name] < MOST:
            raise Damaged(f"{name} is not a rate")
    known = [f.name for f in dataclasses.fields(BenchFile) if f.name != "rates"]
    return typed(BenchFile, {"rates": rates, **{k: content[k] for k in known if k in content}})


def read_bench(path: Path) -> BenchFile:
    """Read a report from a file. Raises OSError, or Damaged if it is not a bench report."""
    return from_json(read_json(path))
