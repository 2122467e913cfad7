"""What people see of a training run: a live panel on a terminal, a line an event elsewhere."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data_tools.json_file import shown_json
from fastmoco import events
from fastmoco.console import duration, say, screen
from fastmoco.events import Event, to_row

RECENT = 240  # log lines that the curves show
BLOCKS = "▁▂▃▄▅▆▇█"
STYLES = {"note": "cyan", "warning": "yellow", "alarm": "bold red"}


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last values as blocks, the least lowest; means where there are more than fit."""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [
            sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)
        ]
    least, most = min(values), max(values)
    steps = (len(BLOCKS) - 1) / (most - least) if most > least else 0.0
    return "".join(BLOCKS[round((v - least) * steps)] for v in values)


class Panel:
    """A listener that draws where a run stands: give it to rich's Live, or print it."""

    def __init__(self) -> None:
        self.started: events.Started | None = None
        self.lines: list[events.Progress] = []
        self.knn: list[events.Evaluated] = []
        self.standing: dict[str, events.Judged] = {}

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
        if self.started is None or not self.lines:
            yield Text("training: the first figures come after the first log line", style="dim")
            return
        p = self.lines[-1]
        yield Text(self._where())
        yield ProgressBar(max(p.steps, 1), p.step, width=min(options.max_width, 96))
        yield self._figures(options.max_width, curves=not options.ascii_only)
        for judged in self.standing.values():
            mark = "note" if judged.severity == "note" else judged.severity.upper()
            yield Text(f"{mark}: {judged.text}", style=STYLES[judged.severity])

    def _where(self) -> str:
        p = self.lines[-1]
        end = datetime.datetime.now() + datetime.timedelta(seconds=p.seconds_left)
        left = f"{duration(p.seconds_left)} left, until {end:%a %H:%M}"
        if not p.steps:
            left = "the budget's rate is measured"
        elif p.budget_left is not None:
            left += f" (the budget has {duration(p.budget_left)})"
        return (
            f"epoch {p.epoch:.2f}  step {p.step:,}/{p.steps:,}  {p.images_per_s:,.0f} images/s  "
            f"{left}"
        )

    def _figures(self, width: int, curves: bool) -> RenderableType:
        """Three pairs of columns; below 78 characters the curves in the middle are left out."""
        p, recent = self.lines[-1], self.lines[-RECENT:]

        def curve(values: Sequence[float]) -> str:
            return sparkline(values, min(24, width - 62)) if curves and width >= 78 else ""

        rows = [
            ("loss", f"{p.loss:.3f} (chance {p.chance:.3f})", curve([x.loss for x in recent]),
             "queue", f"{p.queue_fill:.0%} real keys"),
            ("pretext", f"{p.pretext_accuracy:.1%}", curve([x.pretext_accuracy for x in recent]),
             "data wait", f"{p.data_wait:.0%}"),
            ("features", f"std {p.feature_std:.2f}", f"alignment {p.alignment:.2f}",
             "uniformity", f"{p.uniformity:.2f}"),
            ("gradient", f"norm {p.grad_norm:.3g}", f"lr {p.lr:.4g}",
             "memory", f"{p.memory:.1f} GB"),
        ]
        if self.knn:
            best = max(self.knn, key=lambda e: e.knn)
            rows.append(
                ("kNN", f"{self.knn[-1].knn:.1%}", curve([e.knn for e in self.knn]),
                 "best", f"{best.knn:.1%}, epoch {best.epoch:.0f}")
            )
        grid = Table.grid(padding=(0, 2, 0, 0))
        for label, value, middle, other, its in rows:
            grid.add_row(*((label, value, middle) if width >= 78 else (label, value)), other, its)
        return grid


@contextmanager
def live_run(on: Console = screen) -> Iterator[Callable[[Event], None]]:
    """A listener for a training run: the panel at the foot of a terminal, lines above it."""
    if not on.is_terminal:
        yield print_event
        return
    panel = Panel()
    # drawn at events alone: no thread of its own beside the training
    with Live(panel, console=on, auto_refresh=False, transient=True) as live:

        def listen(event: Event) -> None:
            panel(event)
            if not isinstance(event, events.Progress):
                print_event(event)
            live.refresh()

        yield listen


def print_event(event: Event) -> None:
    """The listener for people: a line an event."""
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
    """The listener for programs: one JSON object a line."""
    print(shown_json(to_row(event), None), flush=True)
