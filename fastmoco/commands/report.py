"""fastmoco report: writes one HTML page about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_tools.quantities import human
from fastmoco.terminal.flags import positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Write one HTML page about a run: recipe, curves, throughput, views, neighbours, a map of the
    features, evaluations. The page needs no network and no other file.

    The tables of evaluations come from JSON files in the run directory (fastmoco knn ... --json >
    RUN/knn.json), and the throughput from RUN/bench.json (fastmoco bench ... --json).
    """

    run: positional("RUN")  # type: ignore[valid-type]
    """Run directory."""
    out: Path | None = None
    """File to write [default: RUN/report.html]."""
    data: Path | None = None
    """Dataset for the pictures [default: the training data of the run]."""
    count: int = 1000
    """Number of images whose features are compared."""
    device: str = "auto"
    """Device: auto, cuda, cuda:N or cpu. auto takes a GPU if there is one."""
    threads: int = 0
    """Number of decoding threads [default: one per core]."""


def run(argv: list[str]) -> None:
    """Run `fastmoco report RUN`."""
    args = parse(Args, argv, "report")
    from fastmoco.reporting.report import report
    from fastmoco.terminal import console

    with console.progress("features", "images") as tick:
        out, lacking = report(
            args.run, args.out, args.data, args.count, args.device, args.threads, tick
        )
    for line in lacking:
        console.say(f"left out: {line}")
    console.say(f"{out}: {human(out.stat().st_size)}")
