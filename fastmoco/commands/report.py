"""fastmoco report: one page about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_tools.quantities import human
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse


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


def report(argv: list[str]) -> None:
    """fastmoco report RUN"""
    args = parse(ReportArgs, argv, "report")
    from fastmoco.reporting.report import report
    from fastmoco.terminal import console

    with console.progress("features", "images") as tick:
        out, lacking = report(
            args.run, args.out, args.data, args.count, args.device, args.threads, tick
        )
    for line in lacking:
        console.say(f"left out: {line}")
    console.say(f"{out}: {human(out.stat().st_size)}")
