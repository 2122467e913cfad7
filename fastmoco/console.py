"""What people see; rich is imported here and in panel.py alone. Plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from fastmoco.sizing import DryRun
    from fastmoco.throughput import Report

screen = Console(highlight=False, soft_wrap=True)
PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal


def say(text: str) -> None:
    """One line for people, as it is (no markup)."""
    screen.print(text, markup=False)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A (done, total) callback that shows rate and time left."""
    begun = time.monotonic()
    if screen.is_terminal:
        rate = TextColumn("{task.fields[rate]}")
        bar = Progress(
            TextColumn(title), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(),
            console=screen, transient=True,
        )
        with bar:
            task = bar.add_task(title, total=None, rate="")

            def show(done: int, total: int) -> None:
                speed = done / max(time.monotonic() - begun, 1e-9)
                bar.update(task, completed=done, total=total, rate=f"{speed:,.0f} {unit}/s")

            yield show
        return
    shown = begun

    def line(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= PLAIN_EVERY:
            shown = now
            speed = done / (now - begun)
            say(
                f"{title}: {done:,} of {total:,}, {speed:,.0f} {unit}/s, "
                f"{duration((total - done) / speed)} left"
            )

    yield line


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table; numbers to the right."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, header in enumerate(headers):
        grid.add_column(on_one_line(header), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(on_one_line, row))
    Console(highlight=False, width=None if screen.is_terminal else 240).print(grid, markup=False)


def on_one_line(text: str) -> str:
    """A cell as the terminal shows it, so that its width is known: what the encoding lacks and
    what moves the cursor, in the name of a class for one, is escaped."""
    shown = text.encode(screen.encoding, "backslashreplace").decode(screen.encoding)
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in shown)


def duration(seconds: float) -> str:
    """4 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def print_report(report: Report) -> None:
    """What `fastmoco bench` found."""
    say(
        f"{report.images:,} images of {report.mean_megapixels:.2f} megapixels and "
        f"{report.mean_kilobytes:.0f} kB on average; {report.recipe} at {report.size} px, "
        f"batch {report.batch}, {report.precision}"
    )
    say(f"on {report.machine}; engine {report.engine}")
    table(
        ("stage", "images/s", "per core", "least", "most"),
        [
            (s.name, *(_number(v) for v in (s.images_per_s, s.per_core, s.least, s.most)))
            for s in report.stages
        ],
    )
    if any("decode" in bound.name for bound in report.bounds):
        share = report.rate("two views") / report.rate("decode")
        say(f"two views run at {share:.0%} of the decode bound")
    else:
        say("all images lie decoded in memory: no step reads or decodes")
    say("the whole uses " + ", ".join(f"{b.name} {_share(b.share)}" for b in report.bounds))
    say(f"binds: {report.binds}")
    say(f"change: {report.advice}")


def print_dry_run(found: DryRun) -> None:
    """What `fastmoco train --dry-run` found."""
    e = found.estimate
    say(f"a step of {e.batch:,} images on {found.device}, {found.precision}, where it takes most:")
    rows = [(p.name, f"{p.bytes / 1e6:,.1f}", p.source) for p in e.parts]
    table(("part", "MB", ""), [*rows, ("all", f"{e.bytes / 1e6:,.1f}", "")])
    if found.room is not None:
        fits = "no batch fits" if found.largest is None else (
            f"the largest batch that fits is {found.largest.batch:,} "
            f"({found.largest.bytes / 1e9:.2f} GB)"
        )
        say(f"of {found.room / 1e9:.2f} GB: {fits}")
    say(f"what might follow the dataset of {found.samples:,} images:")
    for a in found.advice:
        same = "is right" if a.now == a.suggested else f"{a.now:g}; {a.suggested:g} might be better"
        say(f"  {a.setting} {same}: {a.reason}")
    if found.refused:
        say(f"as it is, train refuses it: {found.refused}")


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.01 else "under 1%"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
