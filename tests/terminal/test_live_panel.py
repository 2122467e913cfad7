"""The live panel at a fixed width, its sparkline, and the plain lines."""

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from fastmoco.runs.events import Ended, Evaluated, Judged, Noted, Saved
from fastmoco.terminal import live_panel as panel
from fastmoco.terminal.live_panel import Panel, live_run, print_event, print_event_json, sparkline
from tests.support.run_events import LINE, STARTED

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


KNN = Evaluated(5004, 1.0, 0.4, "k=200", 3.0)
FIGURES = {
    "loss": "loss 8.314 (chance 11.090)", "pretext": "pretext 23.1%", "wait": "data wait 2%",
    "rate": "1,320 images/s", "left": "41 h 40 min left, until ", "lr": "lr 0.0299",
}
WITH_KNN = {"knn": "kNN 40.0%", "best": "best 40.0%, epoch 1"}
BUDGETED = replace(LINE, budget_left=86_000.0)
EVERY_STEP = replace(LINE, step=999_999, epoch=999_999.0, images_per_s=123_456.7)
LONG = "loss and pretext accuracy say more than kNN does here: look at views for shortcuts"
MANY = [Judged(1, f"rule-{i}", "warning", f"{i} {LONG}", False) for i in range(10)]
PHASES = {
    "first figures": ([LINE], FIGURES),
    "val": ([KNN, LINE], FIGURES | WITH_KNN),
    "budget": ([KNN, BUDGETED], FIGURES | WITH_KNN | {"budget": "(the budget has 23 h 53 min)"}),
    "rate not known": ([replace(LINE, steps=0)],
                       {"loss": FIGURES["loss"], "left": "the budget's rate is measured"}),
    "one step per epoch": ([KNN, EVERY_STEP],
                           {"loss": FIGURES["loss"], "left": FIGURES["left"],
                            "step": "step 999,999/1,000,800", "rate": "123,457 images/s"}),
    "a warning": ([KNN, LINE, MANY[0]], FIGURES | WITH_KNN | {"text": f"WARNING: 0 {LONG}"}),
    "many warnings": ([KNN, BUDGETED, *MANY, ALARM],
                      FIGURES | WITH_KNN | {"worst": f"ALARM: {ALARM.text}"}),
    "no end in sight": ([replace(LINE, seconds_left=1e13)], {"left": "h 46 min left", **{
        name: FIGURES[name] for name in ("loss", "rate", "wait")}}),
    "no numbers": ([replace(LINE, seconds_left=math.inf, loss=math.nan)],
                   {"loss": "loss nan (chance 11.090)", "left": "unknown time left"}),
}


class Terminal(io.StringIO):
    """A terminal's screen after the text written to it; knows the codes that rich's Live uses."""

    CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.rows, self.y, self.x = [""], 0, 0

    def write(self, text: str) -> int:
        for number, code, back, down, char in self.CODE.findall(text):
            if code == "A":
                self.y = max(0, self.y - int(number or 1))
            elif code == "K":
                self.rows[self.y] = ""
            elif back:
                self.x = 0
            elif down:
                self._down()
            elif char:
                if self.x == self.width:
                    self._down()
                row = self.rows[self.y].ljust(self.x)
                self.rows[self.y] = row[: self.x] + char + row[self.x + 1 :]
                self.x += 1
        return len(text)

    def _down(self) -> None:
        self.y, self.x = self.y + 1, 0
        if self.y == len(self.rows):
            self.rows.append("")
        if len(self.rows) > self.height:  # it scrolls
            self.rows.pop(0)
            self.y -= 1

    def narrow(self, width: int) -> None:
        """Change the width as terminals do that wrap their text again."""
        below = len(self.rows) - self.y
        self.rows = [row[i : i + width] for row in self.rows
                     for i in range(0, max(len(row), 1), width)][-self.height :]
        self.y, self.width = len(self.rows) - below, width

    def text(self) -> str:
        """The rows, with runs of blanks as one."""
        return re.sub(" +", " ", "\n".join(self.rows))


@pytest.fixture
def shown(monkeypatch):
    """Show events on a terminal; return its rows after the last one."""

    def show(told, width, height, narrowed=None):
        terminal = Terminal(width, height)
        screen = Console(file=terminal, force_terminal=True, width=width, height=height,
                         color_system=None, highlight=False, soft_wrap=True)
        monkeypatch.setattr(panel, "say", lambda text: screen.print(text, markup=False))
        with live_run(screen) as listen:
            for event in told:
                listen(event)
            if narrowed is not None:
                terminal.narrow(narrowed)
                screen.width = narrowed
                listen(told[-1])
            return Terminal.text(terminal)

    return show


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50), (60, 24), (40, 30)])
def test_every_figure_is_whole_on_the_terminal(shown, phase, width, height):
    told, wanted = PHASES[phase]
    text = shown([STARTED, *told], width, height)
    if width < 80:  # words may be on the next line
        text = re.sub(r"\s+", " ", text)
    for name, words in wanted.items():
        lines = re.sub(r"\s+", " ", text) if name in ("text", "worst") else text
        assert words in lines, f"{name}:\n{text}"
    assert "…" not in text
    if phase == "many warnings":
        assert ("more: see the lines above" in text) == (width < 120)


def test_before_the_first_figures_one_line_says_so(shown):
    assert "the first figures come after the first log line" in shown([STARTED], 80, 24)


@pytest.mark.parametrize("width", [110, 80, 60, 40])
def test_no_line_is_longer_than_the_terminal(width):
    text = drawn(fed(STARTED, KNN, replace(BUDGETED, step=500_000), *MANY), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (bar,) = (line for line in lines if "━" in line or "╸" in line)
    assert not set(bar) - set("━╸╺ ")  # nothing glued to it
    assert re.search("alignment +0.43", text) and ("▁" in text) == (width >= 80)


def test_a_low_terminal_keeps_what_people_look_for(shown):
    text = shown([STARTED, KNN, BUDGETED, *MANY], 80, 7)
    assert FIGURES["loss"] in text and FIGURES["pretext"] in text and FIGURES["left"] in text
    assert "gradient" not in text


def test_nothing_is_left_behind_when_the_terminal_becomes_narrow(shown):
    text = shown([STARTED, KNN, LINE], 120, 40, narrowed=60)
    assert text.count("loss ") == 1 and text.count("uniformity") == 1 and text.count("epoch 2") == 1
    assert "moco-v2: resnet50" in text  # what was printed above stays


def test_a_budget_is_shown_with_what_it_has_left():
    text = drawn(fed(STARTED, replace(LINE, budget_left=3600.0)), 140)
    assert "(the budget has 1 h 00 min)" in text
    assert "budget" not in drawn(fed(STARTED, LINE))
    assert "rate is measured" in drawn(fed(STARTED, replace(LINE, steps=0)))


def test_warnings_are_shown_until_they_are_over():
    text = drawn(fed(STARTED, LINE, ALARM))
    assert "ALARM: collapse: all images" in text
    assert "collapse" not in drawn(fed(STARTED, LINE, ALARM, replace(ALARM, over=True)))


def test_before_the_first_line_there_is_a_word():
    assert "after the first log line" in drawn(fed(STARTED))


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([1, 2, 3], 24, "▁▅█"), ([1, math.nan, 3], 24, "▁█"), ([math.inf], 24, ""),
     ([5.0, 5.0], 24, "▁▁"), ([3, 1], 24, "█▁"),
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
    assert "epoch    2.40  step" not in text  # the line that the panel replaces


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
