"""Prints lines, tables and progress for people: with rich on a terminal, else as plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data_tools.errors import escaped
from data_tools.quantities import duration, human

screen = Console(highlight=False, soft_wrap=True)
PLAIN_EVERY = 10.0  # seconds between progress lines without a terminal
PACE_OVER = 30.0  # seconds
BAR, LEAST_BAR = 40, 8  # characters


def say(line: str) -> None:
    """Prints one line to standard output, without markup.

    Line breaks, escape sequences and other unprintable characters are escaped: names of files and
    classes come from others, and may hold them.
    """
    screen.print(escaped(line), markup=False)


def warn(line: str) -> None:
    """Prints one line to standard error, escaped like say's."""
    print(escaped(line), file=sys.stderr)


class Pace:
    """Rate over the last half minute, so that it recovers soon after the process was suspended."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # (time.monotonic(), items done)

    def __call__(self, done: int) -> float:
        """Return items per second; 0 at the first call, because a resumed run starts above 0."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= 1:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= PACE_OVER:
            self._marks.popleft()
        then, before = self._marks[0]
        return (done - before) / (now - then) if now > then else 0.0


class Counter:
    """Progress of a long task as a line of rich. No figure is cut; the bar takes the space that is
    left."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._done = self._total = 0
        self._rate, self._pace = 0.0, Pace()

    def update(self, done: int, total: int) -> None:
        """Record that `done` of `total` items are finished."""
        self._done, self._total, self._rate = done, total, self._pace(done)

    def pieces(self) -> list[str]:
        """Return count, rate and time left. The last two appear once they are known."""
        done, total, rate = self._done, self._total, self._rate
        if not total:
            return []
        if self._unit == "bytes":
            found = [f"{human(done)} of {human(total)}"]
            speed = f"{human(rate)}/s"
        else:
            found = [f"{done:,} of {total:,}"]
            speed = f"{number(rate)} {self._unit}/s"
        return [*found, speed, f"{duration((total - done) / rate)} left"] if rate > 0 else found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, figures = options.max_width, self.pieces()
        bar = min(BAR, width - len("  ".join([self._title, *figures])) - 4)
        if bar >= LEAST_BAR:
            yield Text(f"{escaped(self._title)}  ", end="")
            yield ProgressBar(self._total or None, self._done, width=bar, pulse=not self._total)
            yield Text("  " + "  ".join(figures))
            return
        for line in flowed([self._title, *figures], width):
            yield from wrapped(line, "", console, width)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a (done, total) callback that shows count, rate and time left."""
    counter = Counter(title, unit)
    if screen.is_terminal:
        with Live(counter, console=screen, transient=True):  # drawn four times a second
            yield counter.update
        return
    shown = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal shown
        counter.update(done, total)
        if time.monotonic() - shown >= PLAIN_EVERY:
            shown = time.monotonic()
            say(f"{title}: {', '.join(counter.pieces())}")

    yield line


def flowed(pieces: Sequence[str], width: int) -> list[str]:
    """Return pieces joined by two blanks, on as many lines as needed. No piece is divided."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f"  {piece}"
        else:
            lines.append(piece)
    return lines


def wrapped(text: str, style: str, console: Console, width: int) -> list[Text]:
    """Return a text as escaped lines. Live itself would crop it at the console's soft wrap."""
    shown = Text(escaped(text), style=style)
    return list(shown.wrap(console, width, overflow="fold", no_wrap=False))


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table. The columns after the first are aligned to the right."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, header in enumerate(headers):
        grid.add_column(on_one_line(header), justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(on_one_line, row))
    Console(highlight=False, width=None if screen.is_terminal else 240).print(grid, markup=False)


def on_one_line(text: str) -> str:
    """Return a cell as the terminal shows it, so that its width is known. Characters that the
    encoding lacks or that move the cursor, for example in the name of a class, are escaped."""
    shown = text.encode(screen.encoding, "backslashreplace").decode(screen.encoding)
    return escaped(shown)


def share(value: float) -> str:
    """Return a share in whole percent."""
    return f"{value:.0%}" if value >= 0.01 else "under 1%"


def number(value: float) -> str:
    """Return a number with one decimal, or without decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
