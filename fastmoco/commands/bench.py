"""The command bench: a row for each stage as soon as it is measured, then the whole report."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets

if TYPE_CHECKING:
    from fastmoco.measuring.bench import Report, Stage
    from fastmoco.recipe import Recipe
    from fastmoco.run_options import RunOptions


def bench(argv: list[str]) -> int:
    """fastmoco bench DATA"""
    from fastmoco.terminal.parse import BenchArgs, parse

    args = parse(BenchArgs, argv, "bench")
    from fastmoco.measuring.bench import compare, read_report
    from fastmoco.run_options import RunOptions

    options = RunOptions(
        device=args.device, threads=args.threads, engine=args.engine, compile=args.compile
    )
    saved = None if args.against is None else read_report(args.against)
    data = datasets.prepared(args.data, quiet=args.json)
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
    """Runs throughput.bench and prints its figures while they are measured, unless `quiet`.

    Each stage has a row after its first round. Ctrl-C and SIGTERM print the rounds so far and end
    the process as these signals do (KeyboardInterrupt, SystemExit with 143).
    """
    from fastmoco.measuring.bench import ROUNDS, bench
    from fastmoco.run_options import RunOptions
    from fastmoco.terminal import console

    options, rounds = options or RunOptions(), ROUNDS if rounds is None else rounds
    found: dict[str, Stage] = {}
    asked: list[int] = []

    def show(stage: Stage) -> None:
        if asked:
            raise _ending(asked[0])
        if not quiet and stage.name not in found:
            if not found:
                console.say(f"the first of {rounds} rounds, in images/s:")
            console.say(console.stage_row(stage))
        found[stage.name] = stage

    try:
        noted = noted_signals(asked, lambda: bool(found))
        with noted, console.progress("measuring", "stages") as tick:
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
def noted_signals(asked: list[int], is_measuring: Callable[[], bool]) -> Iterator[None]:
    """SIGTERM and Ctrl-C go into `asked`, to be obeyed between two stages: an exception that a
    handler raises is lost if it meets a destructor or a callback of a library. Before the first
    stage, and at the second signal, they raise at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1 or not is_measuring():
            raise _ending(number)

    before: dict[int, Any] = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(number: int) -> BaseException:
    """The exception by which a process ends as this signal ends it."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
