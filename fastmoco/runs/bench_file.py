"""A report of fastmoco bench, as its --json wrote it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.safe_reading.json_file import Damaged, read_json, typed

MOST = 1e12  # images/s that a stage may claim; least: one in 30,000 years


@dataclass(frozen=True)
class BenchFile:
    """The part of such a report that is read back."""

    rates: dict[str, float]
    """Images/s by stage; above 0, or 0 for a stage that was not measured."""
    machine: str = ""
    binds: str = ""
    advice: str = ""
    recipe: str = ""
    size: int = 0
    batch: int = 0
    precision: str = ""
    cores: int = 0


def from_json(content: Any) -> BenchFile:
    """The report in parsed JSON. Raises Damaged if it is none."""
    if not isinstance(content, dict):
        raise Damaged("not an object")
    rates = {}
    for row in typed(list[dict[str, Any]], content.get("stages"), "stages"):
        name = typed(str, row.get("name"), "stages.name")
        rates[name] = typed(float, row.get("images_per_s"), name)
        if rates[name] and not 1 / MOST < rates[name] < MOST:
            raise Damaged(f"{name} is no rate")
    known = [f.name for f in dataclasses.fields(BenchFile) if f.name != "rates"]
    return typed(BenchFile, {"rates": rates, **{k: content[k] for k in known if k in content}})


def read_bench(path: Path) -> BenchFile:
    """The report in a file. Raises OSError, or Damaged if it is none."""
    return from_json(read_json(path))
