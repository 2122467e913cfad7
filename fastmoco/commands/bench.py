"""The command bench: a row for each stage as soon as it is measured, then the whole report."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets
from fastmoco.run_options import EngineName
from fastmoco.terminal.flags import FLAT, RecipeFlags, positional
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.measuring.bench import Report, Stage
    from fastmoco.recipe import Recipe
    from fastmoco.run_options import RunOptions


@dataclass(frozen=True)
class BenchArgs:
    """Measure images/s of every stage, alone and together, and say what to change."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)
    device: str = "auto"
    """cuda, cuda:N or cpu."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    engine: EngineName = "auto"
    """Decodes and crops: our threads, all images resident on the device, DALI, FFCV (betons)."""
    compile: bool = False
    """Compile encoders and augmentation."""
    rounds: int = 7
    """Interleaved rounds; medians are shown."""
    seconds: float = 1.0
    """Seconds of each stage in a round."""
    against: Path | None = None
    """A report saved with --json: name what has become slower, and exit with 1."""
    json: bool = False
    """Print the report as JSON."""


def bench(argv: list[str]) -> int:
    """fastmoco bench DATA"""
    args = parse(BenchArgs, argv, "bench")
    from fastmoco.measuring.bench import compare, read_report
    from fastmoco.run_options import RunOptions

    options = RunOptions(
        device=args.device, threads=args.threads, engine=args.engine, compile=args.compile
    )
    from fastmoco.terminal import console

    saved = None if args.against is None else read_report(args.against)
    data = datasets.prepared(args.data, quiet=args.json)
    report = measured(data, args.recipe.plain(), options, args.rounds, args.seconds, args.json)
    if args.json:
        print(shown_json(dataclasses.asdict(report)))
    slower = [] if saved is None else compare(report, saved)
    for line in slower:
        console.warn(f"slower: {line}")
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
            console.say(stage_row(stage))
        found[stage.name] = stage

    try:
        noted = noted_signals(asked, lambda: bool(found))
        with noted, console.progress("measuring", "stages") as tick:
            report = bench(data, recipe, options, rounds, seconds, None if quiet else tick, show)
    except (KeyboardInterrupt, SystemExit):
        if found and not quiet:
            console.say("stopped: the medians of the rounds so far")
            stage_table(found.values())
        raise
    if not quiet:
        print_report(report)
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


def stage_row(stage: Stage) -> str:
    """One stage of `fastmoco bench` as a line, while the others are still to come."""
    from fastmoco.terminal import console

    return f"  {stage.name:<31}{console.number(stage.images_per_s):>10}"


def stage_table(stages: Iterable[Stage]) -> None:
    """The stages of `fastmoco bench`, in images/s."""
    from fastmoco.terminal import console

    rows = [
        (s.name, *map(console.number, (s.images_per_s, s.per_core, s.least, s.most)))
        for s in stages
    ]
    console.table(("stage", "images/s", "per core", "least", "most"), rows)


def print_report(report: Report) -> None:
    """What `fastmoco bench` found."""
    from fastmoco.terminal import console

    console.say(
        f"{report.images:,} images of {report.mean_megapixels:.2f} megapixels and "
        f"{report.mean_kilobytes:.0f} kB on average; {report.recipe} at {report.size} px, "
        f"batch {report.batch}, {report.precision}"
    )
    console.say(f"on {report.machine}; engine {report.engine}")
    stage_table(report.stages)
    if any("decode" in bound.name for bound in report.bounds):
        share = report.rate("two views") / report.rate("decode")
        console.say(f"two views run at {share:.0%} of the decode bound")
    else:
        console.say("all images lie decoded in memory: no step reads or decodes")
    uses = ", ".join(f"{b.name} {console.share(b.share)}" for b in report.bounds)
    console.say(f"the whole uses {uses}")
    console.say(f"binds: {report.binds}")
    console.say(f"change: {report.advice}")
