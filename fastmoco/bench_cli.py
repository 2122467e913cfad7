"""The command bench: a row for each stage as soon as it is measured, then the whole report."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from data_tools.json_file import shown_json
from fastmoco import data_cli

if TYPE_CHECKING:
    from fastmoco.recipe import Recipe
    from fastmoco.run_options import RunOptions
    from fastmoco.throughput import Report, Stage


def bench(argv: list[str]) -> int:
    """fastmoco bench DATA"""
    from fastmoco.flags import BenchArgs, parse

    args = parse(BenchArgs, argv, "bench")
    from fastmoco.run_options import RunOptions
    from fastmoco.throughput import compare, read_report

    options = RunOptions(
        device=args.device, threads=args.threads, engine=args.engine, compile=args.compile
    )
    saved = None if args.against is None else read_report(args.against)
    data = data_cli.prepared(args.data, quiet=args.json)
    report = measured(data, args.recipe.plain(), options, args.rounds, args.seconds, args.json)
    if args.json:
        print(shown_json(dataclasses.asdict(report)))
    slower = [] if saved is None else compare(report, saved)
    for line in slower:
        print(f"slower: {line}", file=sys.stderr)
    return 1 if slower else 0


def measured(
    data: str | os.PathLike[str], recipe: Recipe, options: RunOptions | None = None,
    rounds: int | None = None, seconds: float = 1.0, quiet: bool = False,
) -> Report:
    """What throughput.bench measures, printed while it is measured unless `quiet`.

    Each stage has a row after its first round. Ctrl-C and SIGTERM print the rounds so far and end
    the process as these signals do (KeyboardInterrupt, SystemExit with 143).
    """
    from fastmoco import console
    from fastmoco.run_options import RunOptions
    from fastmoco.throughput import ROUNDS, bench

    options, rounds = options or RunOptions(), ROUNDS if rounds is None else rounds
    found: dict[str, Stage] = {}

    def show(stage: Stage) -> None:
        if not quiet and stage.name not in found:
            if not found:
                console.say(f"the first of {rounds} rounds, in images/s:")
            console.say(console.stage_row(stage))
        found[stage.name] = stage

    try:
        with sigterm_raises(), console.progress("measuring", "stages") as tick:
            report = bench(data, recipe, options, rounds, seconds, None if quiet else tick, show)
    except (KeyboardInterrupt, SystemExit):
        if found and not quiet:
            console.say("stopped: the medians of the rounds so far")
            console.stage_table(found.values())
        raise
    if not quiet:
        console.print_report(report)
    return report


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit with 143, so that what is open is closed and told."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before: Any = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
