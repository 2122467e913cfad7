"""Shows a training run: a live panel on a terminal, else one line per event."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.text import Text

from data_tools.quantities import duration
from data_tools.safe_reading.json_file import shown_json
from fastmoco.runs import events
from fastmoco.runs.events import Event, to_row
from fastmoco.terminal.console import flowed, say, screen, wrapped

RECENT = 240  # log lines that the curves show
BLOCKS = "▁▂▃▄▅▆▇█"
STYLES = {"alarm": "bold red", "warning": "yellow", "note": "cyan"}  # the most severe first
BAR, CURVE, LEAST_CURVE = 96, 24, 8  # characters
FAR = 10 * 365 * 86400  # seconds; the date of a later end is not shown
Figure = tuple[str, str]  # name, value


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Return values as blocks, the smallest lowest. If there are more values than blocks, each
    block is a mean. NaN and inf are left out."""
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return ""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [
            sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)
        ]
    least, most = min(values), max(values)
    steps = (len(BLOCKS) - 1) / (most - least) if most > least else 0.0
    return "".join(BLOCKS[round((v - least) * steps)] for v in values)


class Panel:
    """Listener that draws the state of a run. Give it to rich's Live, or print it."""

    def __init__(self) -> None:
        self.started: events.Started | None = None
        self.lines: list[events.Progress] = []
        self.knn: list[events.Evaluated] = []
        self.standing: dict[str, events.Judged] = {}
        self.drawn: list[int] = []
        """Number of characters of each line of the last drawing."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Started):
            self.started = event
        elif isinstance(event, events.Progress):
            self.lines.append(event)
        elif isinstance(event, events.Evaluated):
            self.knn.append(event)
        elif isinstance(event, events.Judged):
            self.standing.pop(event.name, None)
            if not event.over:
                self.standing[event.name] = event

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield at most as many lines as the terminal has, less one for the last event above them.

        If they do not all fit, the last figures are left out, and then verdicts are only counted.
        """
        width, room = options.max_width, options.max_height - 1
        if self.started is None or not self.lines:
            above = ["training: the first figures come after the first log line"]
            below: list[Text] = []
        else:
            above = flowed(self._where(), width)
            figures = self._figures(width, curves=not options.ascii_only)
            below = [Text(line.rstrip()) for line in figures[: max(1, room - len(above) - 1)]]
            below += self._verdicts(console, width, room - len(above) - 1 - len(below))
        lines = [line for text in above for line in wrapped(text, "", console, width)]
        self.drawn = [line.cell_len for line in (*lines, *below)]
        yield from lines
        if below:
            p, bar = self.lines[-1], min(width, BAR)
            self.drawn.append(bar)
            yield ProgressBar(max(p.steps, 1), p.step if p.steps else 0, width=bar)
            yield Segment.line()  # rich's bar does not end its line
        yield from below

    def rewrapped(self, width: int) -> int:
        """Return the extra rows of the last drawing once the terminal has this width."""
        return sum(max(0, -(-length // width) - 1) for length in self.drawn)

    def _where(self) -> list[str]:
        """Progress and speed of the run, in pieces that a line break must not divide."""
        p = self.lines[-1]
        rate = f"{p.images_per_s:,.0f} images/s"
        if not p.steps:
            return [f"epoch {p.epoch:.2f}", f"step {p.step:,}", rate,
                    "the budget's rate is measured"]
        left = f"{duration(p.seconds_left)} left"
        if p.seconds_left < FAR:
            end = datetime.datetime.now() + datetime.timedelta(seconds=p.seconds_left)
            left += f", until {end:%a %H:%M}"
        pieces = [f"epoch {p.epoch:.2f}", f"step {p.step:,}/{p.steps:,}", rate, left]
        if p.budget_left is not None:
            pieces.append(f"(the budget has {duration(p.budget_left)})")
        return pieces

    def _rows(self) -> list[tuple[Figure, Figure | list[float], Figure]]:
        """Return rows of three figures. The middle one may be the values of a curve instead."""
        p, recent = self.lines[-1], self.lines[-RECENT:]
        rows: list[tuple[Figure, Figure | list[float], Figure]] = [
            (("loss", f"{p.loss:.3f} (chance {p.chance:.3f})"), [x.loss for x in recent],
             ("queue", f"{p.queue_fill:.0%} real keys")),
            (("pretext", f"{p.pretext_accuracy:.1%}"), [x.pretext_accuracy for x in recent],
             ("data wait", f"{p.data_wait:.0%}")),
        ]
        if self.knn:
            best = max(self.knn, key=lambda e: e.knn)
            rows.append((("kNN", f"{self.knn[-1].knn:.1%}"), [e.knn for e in self.knn],
                         ("best", f"{best.knn:.1%}, epoch {best.epoch:.0f}")))
        return rows + [
            (("gradient", f"norm {p.grad_norm:.3g}"), ("lr", f"{p.lr:.4g}"),
             ("memory", f"{p.memory:.1f} GB")),
            (("features", f"std {p.feature_std:.2f}"), ("alignment", f"{p.alignment:.2f}"),
             ("uniformity", f"{p.uniformity:.2f}")),
        ]

    def _figures(self, width: int, curves: bool) -> list[str]:
        """Return the figures as lines: three per line if the curves fit, else two, else one."""
        rows = self._rows()
        sides = aligned([(*left, *right) for left, _, right in rows])
        texts = [" ".join(m) for _, m, _ in rows if isinstance(m, tuple)]
        room = min(CURVE, width - len(sides[0]) - 2)
        if curves and room >= max(LEAST_CURVE, *map(len, texts)):
            return aligned([
                (*left, " ".join(m) if isinstance(m, tuple) else sparkline(m, room), *right)
                for left, m, right in rows
            ])
        single = [figure for left, _, right in rows for figure in (left, right)]
        single += [m for _, m, _ in rows if isinstance(m, tuple)]
        double = aligned([(*a, *b) for a, b in zip(single[::2], single[1::2], strict=True)])
        return double if len(double[0]) <= width else aligned(single)

    def _verdicts(self, console: Console, width: int, room: int) -> Iterator[Text]:
        """Yield the current verdicts, the most severe first. Verdicts without room are counted."""
        severities = list(STYLES)
        standing = sorted(self.standing.values(), key=lambda j: severities.index(j.severity))
        for i, judged in enumerate(standing):
            mark = "note" if judged.severity == "note" else judged.severity.upper()
            lines = wrapped(f"{mark}: {judged.text}", STYLES[judged.severity], console, width)
            others = i + 1 < len(standing)
            if len(lines) + others > room:
                if room > 0:
                    rest = len(standing) - i
                    if i:
                        text = f"and {rest} more: see the lines above"
                    elif rest == 1:
                        text = f"{mark}: see the lines above"
                    else:
                        text = f"{mark} and {rest - 1} more: see the lines above"
                    yield Text(text, style=STYLES[judged.severity])
                return
            yield from lines
            room -= len(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of one length, with two blanks between the columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


@contextmanager
def live_run(on: Console = screen) -> Iterator[Callable[[Event], None]]:
    """Give a listener for a training run: the panel at the foot of a terminal, lines above it."""
    if not on.is_terminal:
        yield print_event
        return
    panel = Panel()
    # Drawn only at events, so that no extra thread runs beside the training.
    with Live(panel, console=on, auto_refresh=False, transient=True) as live:
        width = on.width

        def listen(event: Event) -> None:
            nonlocal width
            if on.width < width:  # the terminal wrapped lines: Live would go up too few rows
                up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
                on.control(Control(*(up * panel.rewrapped(on.width))))
            width = on.width
            panel(event)
            if not isinstance(event, events.Progress):
                print_event(event)
            live.refresh()

        yield listen


def print_event(event: Event) -> None:
    """Listener for people: prints one line per event."""
    if isinstance(event, events.Started):
        r = event.recipe
        say(
            f"{r.name}: {r.arch} ({event.parameters / 1e6:.1f} M parameters), K {r.K:,}, m {r.m}, "
            f"T {r.T}, {r.size} px, batch {r.batch}, {r.epochs} epochs of "
            f"{event.steps_per_epoch:,} steps on {event.samples:,} images"
        )
        say(f"on {event.device}, {r.precision}, engine {event.engine}; into {event.out}")
        if event.first_step:
            say(f"resumed at step {event.first_step:,}")
    elif isinstance(event, events.Progress):
        say(
            f"epoch {event.epoch:7.2f}  step {event.step:,}/{event.steps:,}  "
            f"{event.images_per_s:,.0f} images/s  loss {event.loss:.3f} "
            f"(chance {event.chance:.3f})  queue {event.queue_fill:.0%}  "
            f"pretext {event.pretext_accuracy:.1%}  lr {event.lr:.4f}  "
            f"data wait {event.data_wait:.0%}  {duration(event.seconds_left)} left"
        )
    elif isinstance(event, events.Evaluated):
        say(
            f"epoch {event.epoch:7.2f}  kNN {event.knn:.1%} ({event.protocol}), "
            f"took {duration(event.seconds)}"
        )
    elif isinstance(event, events.Skipped):
        say(
            f"step {event.step:,} skipped: its loss, keys or gradients were not finite; samples "
            f"{', '.join(event.keys[:3])} and {max(0, len(event.keys) - 3)} more in skipped.jsonl"
        )
    elif isinstance(event, events.Judged):
        say(f"{event.severity}{' is over' if event.over else ''}: {event.text}")
    elif isinstance(event, events.Noted):
        say(f"note: {event.text}")
    elif isinstance(event, events.Saved):
        say(f"saved {event.path} at step {event.step:,}")
    elif isinstance(event, events.Ended):
        state = "done" if event.finished else "stopped; go on with --resume"
        took = duration(event.train_seconds)
        say(f"{state}: step {event.step:,}/{event.steps:,}, {took} of training")


def print_event_json(event: Event) -> None:
    """Listener for programs: prints one JSON object per line."""
    print(shown_json(to_row(event), None), flush=True)
