"""A report of a real run: what it shows, what it says is lacking, and the page in a browser."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.subset import Subset
from fastmoco.cli import main
from fastmoco.reporting.pictures import find_neighbours, map_of
from fastmoco.reporting.report import report
from fastmoco.reporting.tables import tables, waterfall
from fastmoco.run_options import RunOptions
from fastmoco.training.train import train
from tests.support import browser
from tests.support.command_line import refused, run
from tests.support.sample_images import smooth_image
from tests.support.training_runs import RECIPE

BAD = '<img src=x onerror="console.error(1)">&amp;'  # a class, as a folder may be called


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A run on data with an evil class name, its evaluation, its bench report, and the page."""
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
    """The run without its extras, to take things from."""
    shutil.copytree(made / "run", tmp_path / "run")
    for name in ("report.html", "knn.json", "bench.json"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


class Read(HTMLParser):
    """Tags with their attributes, text by section heading; fails where tags do not match."""

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


SECTIONS = ["Curves", "Throughput", "Views", "What the encoder finds alike", "Map of features",
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
    for name in ("Views", "What the encoder finds alike", "Map of features"):
        assert "/gone/photos" in page.text[name], name
    assert page.of("img") == [] and len(page.of("svg")) == 9
    assert report(copied, data=made / "data", count=10)[1] == []
    with pytest.raises(UserError, match="/gone/too"):
        report(copied, data="/gone/too")


def test_what_a_run_lacks_is_said(folder, copied, tmp_path):
    prepare(folder / "ash", tmp_path / "flat")  # no labels
    (copied / "checkpoint-best.pt").unlink()
    rows = [x for x in (copied / "metrics.jsonl").read_text().splitlines() if "progress" in x]
    (copied / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert report(copied, data=tmp_path / "flat", count=10)[1] == []
    page = read(copied)
    assert "No kNN was measured" in page.text["Curves"]
    assert "no labels" in page.text["Map of features"]
    assert "Green" not in page.text["What the encoder finds alike"]
    assert "None yet" in page.text["Evaluations"] and "not measured" in page.text["Throughput"]
    assert "not ended" in page.text[""]
    (copied / "metrics.jsonl").unlink()
    (copied / "checkpoint.pt").unlink()
    _, lacking = report(copied, data=tmp_path / "flat")
    page = read(copied)
    assert "no such checkpoint" in lacking[0] and "no such checkpoint" in page.text[SECTIONS[4]]
    assert "No log line" in page.text["Curves"] and len(page.of("img")) == 3


def test_what_the_run_judged_is_shown_with_its_end(copied):
    told = [
        {"event": "judged", "step": 2, "name": "collapse", "severity": "warning",
         "text": "features <collapse>", "over": False},
        {"event": "judged", "step": 3, "name": "waits", "severity": "warning",
         "text": "waits for data", "over": False},
        {"event": "judged", "step": 5, "name": "waits", "severity": "warning",
         "text": "no longer", "over": True},
    ]
    metrics = copied / "metrics.jsonl"
    lines = [x for x in metrics.read_text().splitlines() if '"judged"' not in x]  # its own apart
    metrics.write_text("\n".join([*lines, *map(json.dumps, told)]) + "\n")
    report(copied, count=10)
    page = read(copied)
    assert "features <collapse> (step 2)" in page.text[""]
    assert "waits for data (step 3, over at step 5)" in page.text[""]
    assert [a["class"] for a in page.of("p") if "verdict" in a.get("class", "")] == [
        "verdict", "verdict over"
    ]


def test_evaluations_of_every_command_become_tables(tmp_path):
    score = {"top1": 0.5, "low": 0.4, "high": 0.6, "top5": None, "images": 10, "classes": []}
    (tmp_path / "linear.json").write_text(json.dumps({
        "step": 1200, "protocol": "official linear",
        "rows": [{"features": "trained", "rate": 30.0, "held_out": {"30": 0.4}, "score": score}],
    }))
    (tmp_path / "finetune.json").write_text(json.dumps({"rows": {"trained": score}}))
    (tmp_path / "knn.json").write_text(json.dumps({"rows": [{"k": 20, "T": 0.07, "top1": 0.25}]}))
    (tmp_path / "notes.json").write_text("[1, 2]")
    (tmp_path / "run.json").write_text("{}")
    (finetune, knn, linear), strange = tables(tmp_path)
    assert linear.title == "linear; official linear; step 1,200"
    assert linear.headers == ["features", "rate", "top1", "low", "high"]
    assert linear.rows == [["trained", "30", "50.0%", "40.0%", "60.0%"]]
    assert finetune.rows[0][0] == "trained" and "50.0%" in finetune.rows[0]
    assert knn.rows == [["20", "0.07", "25.0%"]]
    assert len(strange) == 1 and strange[0].startswith("notes.json")


@pytest.mark.parametrize("wrong", [
    {"top1": -5}, {"top1": 1.01}, {"low": -0.1}, {"high": 2}, {"top5": 50.0}, {"k": -5}, {"k": 0},
    {"T": -5}, {"rate": -1.0}, {"images": -5}, {"score": {"top1": -5}},
])
@pytest.mark.parametrize("named", [False, True])
def test_evaluations_that_cannot_be_are_left_out(wrong, named, tmp_path):
    row = {"top1": 0.5} | wrong
    (tmp_path / "e.json").write_text(json.dumps({"rows": {"trained": row} if named else [row]}))
    found, strange = tables(tmp_path)
    assert not found and len(strange) == 1 and "is not from" in strange[0]


@pytest.mark.parametrize("name", ["step", "size"])
def test_an_evaluation_at_a_step_below_0_is_left_out(name, tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({"rows": [{"top1": 0.5}], name: -5}))
    assert f"{name} is not from 0" in tables(tmp_path)[1][0]


def test_the_bars_follow_one_another_and_add_up(tmp_path):
    rates = {"decode": 1000, "two views": 500, "augmentation alone": 250, "step alone": 125,
             "two views + augmentation + step": 60}
    saved = {"stages": [{"name": n, "images_per_s": r} for n, r in rates.items()],
             "machine": "m", "binds": "b", "advice": "a"}
    (tmp_path / "bench.json").write_text(json.dumps(saved))
    found = waterfall(tmp_path)
    assert [(b.name, b.start, b.length) for b in found.stages] == [
        ("decode", 0, 1), ("both crops", 1, 1), ("augmentation", 2, 4), ("step", 6, 8)
    ]
    assert found.together == pytest.approx(1000 / 60) and not found.overlap
    (tmp_path / "bench.json").write_text("{}")
    assert waterfall(tmp_path) is None


def test_the_nearest_are_the_nearest(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        (tmp_path / "in" / f"c{i % 5}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(smooth_image(rng, 40, 40))
        picture.save(tmp_path / "in" / f"c{i % 5}" / f"{i}.jpg")
    prepare(tmp_path / "in", tmp_path / "out")
    store = open_store(tmp_path / "out")
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(10, 6))), dim=1)
    places = {store.key(i): i for i in range(10)}
    for query, near in find_neighbours(features, Subset(store, np.arange(10))):
        at = places[query.picture.alt]
        cosine = (features @ features[at]).tolist()
        expected = sorted((i for i in range(10) if i != at), key=lambda i: -cosine[i])[:5]
        assert [places[n.picture.alt] for n in near] == expected
        assert [n.cosine for n in near] == pytest.approx([cosine[i] for i in expected])
        assert [n.same for n in near] == [store.labels[i] == store.labels[at] for i in expected]


def test_the_map_is_of_principal_components(store):
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(96, 2)) * [5, 2]
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    features = torch.from_numpy(flat @ turn[:2] + rng.normal(size=8))
    found = map_of(features, Subset(store, np.arange(96)))
    assert found.explained == pytest.approx(1.0) and found.classes == ["ash", "oak"]
    places = np.array([p[:2] for p in found.points])
    between = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.testing.assert_allclose(
        between, np.linalg.norm(flat[:, None] - flat[None], axis=2), atol=1e-8
    )
    assert [p[2] for p in found.points] == store.labels.tolist()
    assert found.points[0][3] == f"ash, {store.key(0)}"


def test_the_command(made, tmp_path, capsys):
    code, text, _ = run(capsys, "report", made / "run", "--out", tmp_path / "a.html", "--count", 20)
    assert code == 0 and f"{tmp_path / 'a.html'}: 0." in text and "left out" not in text
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
    # a stage's name and time stand on one line, above or beside its own bar
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
