"""The report of a real run: its parts, the reasons for missing ones, the page in a browser."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from data_tools.errors import UserError
from data_tools.prepare import prepare
from data_tools.quantities import human
from fastmoco.cli import main
from fastmoco.reporting.report import report
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from tests.support import browser
from tests.support.command_line import refused, run
from tests.support.training_runs import RECIPE

BAD = '<img src=x onerror="console.error(1)">&amp;'  # a class name; any name of a folder may be one


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A run on data with a hostile class name, its evaluation, its bench report, its page."""
    root = tmp_path_factory.mktemp("report")
    shutil.copytree(folder / "ash", root / "images" / "ash")
    shutil.copytree(folder / "oak", root / "images" / BAD)
    prepare(root / "images", root / "data")
    out = root / "run"
    recipe = dataclasses.replace(RECIPE, batch=48, epochs=3)
    options = RunOptions(out=str(out), val=str(root / "data"), val_every=1, log_every=1)
    train(root / "data", recipe, options)
    for command, name in (
        (["knn", out, root / "data", root / "data", "--no-companions"], "knn.json"),
        (["bench", root / "data", "--arch", "resnet-mini", "--size", 16, "--batch", 16,
          "--bn-splits", 2, "--K", 32, "--rounds", 1, "--seconds", 0.05], "bench.json"),
    ):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert main([str(a) for a in [*command, "--json"]]) == 0
        (out / name).write_text(said.getvalue())
    path, lacking = report(out, count=40)
    assert lacking == [] and path == out / "report.html"
    return root


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the run without report and evaluations, for tests that remove more."""
    shutil.copytree(made / "run", tmp_path / "run")
    for name in ("report.html", "knn.json", "bench.json"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


class Read(HTMLParser):
    """Tags with their attributes, and text by section heading. Fails if tags do not match."""

    VOID = ("meta", "link", "img", "circle", "line", "polyline")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.heading = [], [], {}, ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.heading = data
        elif self.open and self.open[-1] != "style":
            self.text[self.heading] = self.text.get(self.heading, "") + " " + data

    def of(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def read(out):
    return Read((out / "report.html").read_text("utf-8"))


SECTIONS = ["Curves", "Throughput", "Views", "Nearest neighbours", "Map of features",
            "Evaluations", "Recipe", "Environment"]


def test_the_page_has_every_part(made):
    page = read(made / "run")
    assert list(page.text) == ["", *SECTIONS]
    rows = [json.loads(x) for x in (made / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(r["knn"] for r in rows if r["event"] == "evaluated" and r["step"])
    assert f"{best:.1%}" in page.text[""] and "done" in page.text[""]
    assert len(page.of("svg")) == 10  # curves 7, rates 2, map
    assert "augmentation" in page.text["Throughput"] and "together" in page.text["Throughput"]
    assert "MoCo CIFAR demo" in page.text["Evaluations"]
    assert "bn_splits" in page.text["Recipe"] and "torch" in page.text["Environment"]
    assert len(page.of("img")) == 3 + 8 * 6
    assert not any("No " in page.text[name] for name in SECTIONS)


def test_it_stands_alone_and_is_accessible(made):
    html = (made / "run" / "report.html").read_text("utf-8")
    page = read(made / "run")
    for tag, attrs in page.tags:
        for name in ("src", "href", "data", "action", "srcset"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert "@import" not in html and "url(" not in html and "<script" not in html
    assert page.of("html")[0]["lang"] == "en" and "width=device-width" in html
    assert all(attrs["alt"] for attrs in page.of("img"))
    assert all(attrs["aria-label"] and attrs["role"] == "img" for attrs in page.of("svg"))
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")] == ["h1"] + 8 * ["h2"]


def test_names_from_outside_are_escaped(made):
    html = (made / "run" / "report.html").read_text("utf-8")
    assert "&lt;img src=x onerror=" in html and "<img src=x" not in html


def test_without_its_dataset_the_page_is_made_and_says_so(made, copied):
    about = json.loads((copied / "run.json").read_text())
    about["data"] = "/gone/photos"
    (copied / "run.json").write_text(json.dumps(about))
    _, lacking = report(copied)
    page = read(copied)
    assert len(lacking) == 1 and "/gone/photos any more; name it with --data" in lacking[0]
    for name in ("Views", "Nearest neighbours", "Map of features"):
        assert "/gone/photos" in page.text[name], name
    assert page.of("img") == [] and len(page.of("svg")) == 9
    assert report(copied, data=made / "data", count=10)[1] == []
    with pytest.raises(UserError, match="/gone/too"):
        report(copied, data="/gone/too")


def test_missing_parts_are_named(folder, copied, tmp_path):
    prepare(folder / "ash", tmp_path / "flat")  # no labels
    (copied / "checkpoint-best.pt").unlink()
    rows = [x for x in (copied / "metrics.jsonl").read_text().splitlines() if "progress" in x]
    (copied / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert report(copied, data=tmp_path / "flat", count=10)[1] == []
    page = read(copied)
    assert "No kNN was measured" in page.text["Curves"]
    assert "no labels" in page.text["Map of features"]
    assert "Green" not in page.text["Nearest neighbours"]
    assert "None yet" in page.text["Evaluations"] and "not measured" in page.text["Throughput"]
    assert "not ended" in page.text[""]
    (copied / "metrics.jsonl").unlink()
    (copied / "checkpoint.pt").unlink()
    _, lacking = report(copied, data=tmp_path / "flat")
    page = read(copied)
    assert "no such checkpoint" in lacking[0] and "no such checkpoint" in page.text[SECTIONS[4]]
    assert "No log line" in page.text["Curves"] and len(page.of("img")) == 3


def test_warnings_are_shown_with_their_end(copied):
    warnings = [
        {"event": "judged", "step": 2, "name": "collapse", "severity": "warning",
         "text": "features <collapse>", "over": False},
        {"event": "judged", "step": 3, "name": "waits", "severity": "warning",
         "text": "waits for data", "over": False},
        {"event": "judged", "step": 5, "name": "waits", "severity": "warning",
         "text": "no longer", "over": True},
    ]
    metrics = copied / "metrics.jsonl"
    lines = [x for x in metrics.read_text().splitlines() if '"judged"' not in x]  # without its own
    metrics.write_text("\n".join([*lines, *map(json.dumps, warnings)]) + "\n")
    report(copied, count=10)
    page = read(copied)
    assert "features <collapse> (step 2)" in page.text[""]
    assert "waits for data (step 3, over at step 5)" in page.text[""]
    assert [a["class"] for a in page.of("p") if "verdict" in a.get("class", "")] == [
        "verdict", "verdict over"
    ]


def test_the_command(made, tmp_path, capsys):
    code, text, _ = run(capsys, "report", made / "run", "--out", tmp_path / "a.html", "--count", 20)
    size = human((tmp_path / "a.html").stat().st_size)
    assert code == 0 and f"{tmp_path / 'a.html'}: {size}" in text and "left out" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    assert "no run here" in refused(capsys, "report", tmp_path)
    assert "--out" in refused(capsys, "report", made / "run", "--out", tmp_path / "no" / "a.html")
    assert "--count 1" in refused(capsys, "report", made / "run", "--count", 1)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.find() is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    open_ = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield open_
    open_.close()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
def test_in_a_browser(made, chromium, width, dark, tmp_path):
    path = made / "run" / "report.html"
    chromium.messages.clear()
    chromium.open(path, width, dark=dark)
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    wide = chromium.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && "
        f"e.getBoundingClientRect().right > {width} + .5).map(e => e.outerHTML.slice(0, 90))"
    )
    assert wide == []
    assert chromium.evaluate("[...document.images].every(i => i.naturalWidth > 0)") is True
    assert chromium.evaluate("document.title") == "run: moco-v2"
    ground = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 60) == dark
    size = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBBox().height * "
    size += "t.ownerSVGElement.getBoundingClientRect().width / "
    size += "t.ownerSVGElement.viewBox.baseVal.width))"
    assert chromium.evaluate(size) > 9  # pixels: letters that can be read
    # a stage's name and time are on one line, above or beside its own bar
    rows = chromium.evaluate(
        "[...document.querySelectorAll('.bars .row')].map(r => [...r.children].map("
        "e => Math.round(e.getBoundingClientRect().top + e.getBoundingClientRect().height / 2)))"
    )
    assert len(rows) == 5
    for name, bar, value in rows:
        assert abs(name - value) <= 1 and (bar - name > 10 if width < 500 else bar - name <= 1)
    chromium.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as whole:
        assert whole.width == width and whole.height > 2000
    assert chromium.complaints() == []
    assert chromium.requests() == [path.resolve().as_uri()]
