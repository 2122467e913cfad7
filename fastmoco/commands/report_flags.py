"""Flags of doctor, compare and report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastmoco.terminal.parse import positional


@dataclass(frozen=True)
class DoctorArgs:
    """Tell what this machine has, how fast it is, what a run would choose, what to install."""

    dir: Path = Path(".")
    """Folder on the disk that is to be tried: where datasets and runs will lie."""
    json: bool = False
    """Print the findings as JSON."""


@dataclass(frozen=True)
class CompareArgs:
    """Runs side by side: what differs in their recipes, and what came out; mean and standard
    deviation of runs that differ in their seed alone."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run directories."""
    json: bool = False
    """Print the comparison as JSON."""


@dataclass(frozen=True)
class ReportArgs:
    """Write one HTML page about a run: recipe, curves, throughput, views, neighbours, a map of
    features, evaluations. It needs no network and no other file.

    Tables of evaluations come from the JSON files in the run directory (fastmoco knn ... --json >
    RUN/knn.json), the bars of throughput from RUN/bench.json (fastmoco bench ... --json).
    """

    run: positional("RUN")  # type: ignore[valid-type]
    """Run directory."""
    out: Path | None = None
    """File to write [default: RUN/report.html]."""
    data: Path | None = None
    """Dataset for the pictures [default: the one that it was trained on]."""
    count: int = 1000
    """Images whose features are compared."""
    device: str = "auto"
    """cuda, cuda:N or cpu."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
