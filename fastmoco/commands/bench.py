"""fastmoco bench: prints a row per stage as soon as it is measured, then the whole report."""

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
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets
from fastmoco.settings.verbs import BenchSettings
from fastmoco.terminal.flags import (
    FLAT,
    MODEL,
    SCHEDULE,
    VIEWS,
    Groups,
    RecipeFlags,
    positional,
)
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.measuring.bench import Report, Stage
    from fastmoco.recipe import Recipe
    from fastmoco.run_options import RunOptions


@dataclass(frozen=True)
class Args:
    """Measure the images/s of every stage, alone and together, and suggest what to change."""

    groups: ClassVar[Groups] = {
        "": ("recipe",),
        "measurement": ("rounds", "seconds", "against", "json"),
        "time and memory": ("device", "precision", "engine", "threads", "compile"),
        "data and views": VIEWS,
        "model and loss": MODEL,
        "schedule": SCHEDULE,
    }

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton (FFCV's file format)."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags.of)
    measuring: Annotated[BenchSettings, FLAT] = field(default_factory=BenchSettings)
    against: Path | None = None
    """Compare with a report saved with --json. If a stage is slower now, exit with 1."""
    json: bool = False
    """Print the report as JSON."""


def run(argv: list[str]) -> int:
    """Run `fastmoco bench DATA`."""
    args = parse(Args, argv, "bench")
    from fastmoco.measuring.bench import compare, read_report
    from fastmoco.run_options import RunOptions
    from fastmoco.terminal import console

    how = args.measuring
    options = RunOptions(
        device=how.device, threads=how.threads, engine=how.engine, compile=how.compile
    )
    saved = None if args.against is None else read_report(args.against)
    data = datasets.prepared(args.data, quiet=args.json)
    report = measured(data, args.recipe.plain(), options, how.rounds, how.seconds, args.json)
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
    """Run the benchmark and print its figures while they are measured, unless `quiet`.

    Each stage gets a row after its first round. Ctrl-C and SIGTERM print the medians so far and
    then end the process (KeyboardInterrupt, SystemExit with 143).
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
    """Append SIGTERM and Ctrl-C to `asked`, for the caller to obey between two stages.

    An exception from a signal handler is lost if a destructor or a library's callback is running.
    Before the first stage, and at the second signal, the handler raises at once.
    """
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
    """Return the exception that ends a process in the way this signal does."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def stage_row(stage: Stage) -> str:
    """Return one stage as a line, printed before the other stages are measured."""
    from fastmoco.terminal import console

    return f"  {stage.name:<31}{console.number(stage.images_per_s):>10}"


def stage_table(stages: Iterable[Stage]) -> None:
    """Print the stages in images/s."""
    from fastmoco.terminal import console

    rows = [
        (s.name, *map(console.number, (s.images_per_s, s.per_core, s.least, s.most)))
        for s in stages
    ]
    console.table(("stage", "images/s", "per core", "least", "most"), rows)


def print_report(report: Report) -> None:
    """Print the report of `fastmoco bench`."""
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
        console.say("all images are decoded in memory: no step reads or decodes")
    uses = ", ".join(f"{b.name} {console.share(b.share)}" for b in report.bounds)
    console.say(f"the whole uses {uses}")
    console.say(f"binds: {report.binds}")
    console.say(f"change: {report.advice}")
