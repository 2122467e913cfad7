"""Progress lines at fixed widths, and their rate."""

import io
import re

import pytest
from rich.console import Console

from data_tools.quantities import duration
from fastmoco.terminal import console
from fastmoco.terminal.console import Counter, Pace


@pytest.fixture
def clock(monkeypatch):
    """time.monotonic() as the test sets it."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(console.time, "monotonic", lambda: Clock.now)
    return Clock


LONG = "features of a-very-long-name-that-somebody-gave-to-a-dataset-with-no-end-to-it"


@pytest.mark.parametrize(
    ("title", "unit", "done", "total", "figures"),
    [
        ("preparing", "images", 753_076, 1_281_167,
         ["753,076 of 1,281,167", "25,103 images/s", "21 s left"]),
        ("indexing", "bytes", 90_000_000_000, 150_000_000_000,
         ["90.0 GB of 150.0 GB", "3.0 GB/s", "20 s left"]),
        ("measuring", "stages", 3, 49, ["3 of 49", "0.1 stages/s", "7 min 40 s left"]),
        (LONG, "images", 753_076, 1_281_167, ["753,076 of 1,281,167", "25,103 images/s"]),
    ],
)
@pytest.mark.parametrize("width", [200, 120, 80, 60, 40])
def test_no_figure_of_a_progress_line_is_cut(clock, title, unit, done, total, figures, width):
    counter = Counter(title, unit)
    counter.update(0, total)
    clock.now += 30
    counter.update(done, total)
    screen = Console(file=io.StringIO(), width=width, height=24, record=True, color_system=None)
    screen.print(counter)
    text = screen.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for words in figures:
        assert words in text, text
    assert title in re.sub(r"\n", " ", text) or title in text.replace("\n", "")
    assert ("━" in text) == (width >= 80 and title != LONG or width == 200)


def test_the_rate_is_that_of_the_last_half_minute(clock):
    """An hour in which the process was stopped does not count in its rate."""
    pace = Pace()
    for second in range(100):
        clock.now += 1
        rate = pace(10 * second)
    assert rate == pytest.approx(10)
    clock.now += 3600  # SIGSTOP, SIGCONT
    assert pace(1000) < 1
    for second in range(1, 40):
        clock.now += 1
        rate = pace(1000 + 10 * second)
    assert rate == pytest.approx(10)


def test_what_was_done_before_a_resume_is_not_its_pace(clock):
    pace = Pace()
    assert pace(1_000_000) == 0
    clock.now += 10
    assert pace(1_000_500) == pytest.approx(50)


def test_a_clock_that_stands_still_gives_no_rate(clock):
    pace = Pace()
    assert pace(5) == pace(9) == 0


def test_a_duration_that_is_no_number():
    assert duration(float("inf")) == duration(float("nan")) == "unknown time"
    assert duration(7300) == "2 h 01 min"
