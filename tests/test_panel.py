"""The live panel at a fixed width, its sparkline, and the plain lines."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fastmoco import panel
from fastmoco.events import Ended, Evaluated, Judged, Noted, Progress, Saved, Started
from fastmoco.panel import Panel, live_run, print_event, print_event_json, sparkline
from fastmoco.recipe import MOCO_V2

STARTED = Started(MOCO_V2, 1_281_167, 5004, 0, "cpu", "threads", 28_000_000, "runs/a", "data")
LINE = Progress(
    step=12_000, steps=1_000_800, epoch=2.4, loss=8.314, chance=11.09, pretext_accuracy=0.231,
    queue_fill=1.0, lr=0.0299, images_per_s=1320.4, data_wait=0.02, seconds_left=150_000.0,
    alignment=0.43, uniformity=-2.31, feature_std=0.93, grad_norm=0.913, memory=12.14, skipped=0,
)
ALARM = Judged(12_000, "collapse", "alarm", "collapse: all images have nearly the same", False)


def drawn(panel, width=110):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(panel)
    return out.getvalue()


def fed(*events):
    panel = Panel()
    for event in events:
        panel(event)
    return panel


def test_the_panel_shows_every_figure():
    knn = [Evaluated(s, s / 5004, acc, "k=200", 3.0) for s, acc in ((0, 0.1), (5004, 0.4))]
    text = drawn(fed(STARTED, *knn, replace(LINE, step=10, loss=9.9), LINE))
    for words in (
        "epoch 2.40", "step 12,000/1,000,800", "1,320 images/s", "41 h 40 min left",
        "8.314 (chance 11.090)", "100% real keys", "23.1%", "std 0.93", "alignment 0.43", "-2.31",
        "norm 0.913", "lr 0.0299", "data wait", " 2%", "12.1 GB", "40.0%", "40.0%, epoch 1", "█▁",
    ):
        assert words in text, words


@pytest.mark.parametrize("width", [110, 80, 60])
def test_no_figure_is_cut_short(width):
    text = drawn(fed(STARTED, Evaluated(5004, 1.0, 0.4, "k=200", 3.0), LINE), width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert "uniformity" in text and "8.314 (chance 11.090)" in text and "40.0%, epoch 1" in text
    assert ("alignment" in text) == (width >= 78)


def test_a_budget_is_shown_with_what_it_has_left():
    text = drawn(fed(STARTED, replace(LINE, budget_left=3600.0)), 140)
    assert "(the budget has 1 h 00 min)" in text
    assert "budget" not in drawn(fed(STARTED, LINE))
    assert "rate is measured" in drawn(fed(STARTED, replace(LINE, steps=0)))


def test_verdicts_stand_until_they_are_over():
    text = drawn(fed(STARTED, LINE, ALARM))
    assert "ALARM: collapse: all images" in text
    assert "collapse" not in drawn(fed(STARTED, LINE, ALARM, replace(ALARM, over=True)))


def test_before_the_first_line_there_is_a_word():
    assert "after the first log line" in drawn(fed(STARTED))


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([1, 2, 3], 24, "▁▅█"), ([5.0, 5.0], 24, "▁▁"), ([3, 1], 24, "█▁"),
     ([0, 0, 7, 7], 2, "▁█")],
)
def test_sparkline(values, width, expected):
    assert sparkline(values, width) == expected


def test_on_a_terminal_lines_scroll_above_the_panel(monkeypatch):
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=110, color_system=None)
    monkeypatch.setattr(panel, "say", lambda text: screen.print(text, markup=False))
    with live_run(screen) as listen:
        for event in (STARTED, LINE, Noted("so"), ALARM, LINE):
            listen(event)
    text = out.getvalue()
    assert "note: so" in text and "alarm: collapse" in text and "8.314 (chance 11.090)  ▁" in text
    assert "epoch    2.40  step" not in text  # the line that the panel stands for


def test_without_a_terminal_every_event_is_a_line(capsys):
    with live_run(Console(file=io.StringIO())) as listen:
        assert listen is print_event
        for event in (
            STARTED, LINE, Evaluated(0, 0.0, 0.5, "k=200", 3), ALARM, replace(ALARM, over=True),
            Noted("x"), Saved(3, "a.pt"), Ended(3, 9, 61, False, "a.pt"),
        ):
            listen(event)
    text = capsys.readouterr().out
    for words in ("loss 8.314 (chance 11.090)", "kNN 50.0%", "alarm: collapse",
                  "alarm is over: collapse", "note: x", "saved a.pt at step 3",
                  "stopped; go on with --resume: step 3/9, 1 min 01 s of training"):
        assert words in text, words


def test_events_for_programs_are_json(capsys):
    import json

    print_event_json(ALARM)
    assert json.loads(capsys.readouterr().out) == {
        "event": "judged", "step": 12_000, "name": "collapse", "severity": "alarm",
        "text": ALARM.text, "over": False,
    }
