"""bench.learning: both sides do the same work, and it is counted correctly."""

import dataclasses
import io
import json
import multiprocessing
import subprocess
import sys
import tarfile
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.learning import progressive
from bench.learning.ablation import __main__ as ablation
from bench.learning.ablation.grid import BASE, Cell, grid
from bench.learning.time_to_knn import __main__ as time_to_knn
from bench.learning.time_to_knn import plain_moco, sides
from bench.shared import charts
from bench.shared.cifar_split import split
from data_tools.open import open_store
from fastmoco.model.build import make_optimizer
from fastmoco.model.dictionaries import Queue
from fastmoco.model.moco import MoCo
from fastmoco.recipe import to_dict


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """120 images of 10 classes as a tar like CIFAR-10's, split 80 to 40."""
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(3)
    with tarfile.open(root / "cifar10-train.tar", "w") as tar:
        for i in range(120):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
            member = tarfile.TarInfo(f"train/class{i % 10}/{i:04}.jpg")
            member.size = file.tell()
            tar.addfile(member, io.BytesIO(file.getvalue()))
    return root, split(root, root / "work", count=40)


def test_the_parts_share_no_image_and_lose_none(small):
    root, parts = small
    keys = [{s.key(i) for i in range(len(s))} for s in map(open_store, parts)]
    assert [len(k) for k in keys] == [80, 40] and len(keys[0] | keys[1]) == 120
    made = [(p / "manifest.json").stat().st_mtime_ns for p in parts]
    assert split(root, root / "work", count=40) == parts
    assert made == [(p / "manifest.json").stat().st_mtime_ns for p in parts]


def test_plain_and_ours_learn_the_same():
    """Three steps on the same images. The demo moves the key encoder before it encodes the keys,
    ours after the optimizer's step, which is the same but for the first."""
    torch.manual_seed(0)
    plain = plain_moco.ModelMoCo().double()
    recipe = dataclasses.replace(sides.SAME, lr=0.05)
    ours = MoCo(plain_moco.small_encoder(), Queue(recipe.K, recipe.dim), recipe.m, recipe.T)
    ours = ours.double()
    ours.encoder_q.load_state_dict(plain.encoder_q.state_dict())
    ours.encoder_k.load_state_dict(plain.encoder_k.state_dict())
    ours.dictionary.keys.copy_(plain.queue.T)
    optimizers = [
        torch.optim.SGD(plain.encoder_q.parameters(), lr=recipe.lr, momentum=recipe.momentum,
                        weight_decay=plain_moco.WEIGHT_DECAY),
        make_optimizer(ours, recipe),
    ]
    for _ in range(3):
        im_q, im_k = torch.randn(2, 8, 3, 8, 8, dtype=torch.float64)
        loss = plain(im_q, im_k)
        out = ours(im_q, im_k)
        torch.testing.assert_close(out.loss, loss, rtol=1e-9, atol=0)
        for optimizer, its in zip(optimizers, (loss, out.loss), strict=True):
            optimizer.zero_grad()
            its.backward()
            optimizer.step()
        ours.update(out)
    torch.testing.assert_close(ours.dictionary.keys, plain.queue.T, rtol=0, atol=1e-9)


def asleep(pid):
    """Whether a process is asleep."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"


def test_turns_count_training_alone_and_workers_stand_still(small, monkeypatch, capsys):
    _, (data, _) = small
    turns = sides.Turns(data.parent, every=0.2, goal=2.0)
    encoder = plain_moco.small_encoder()
    context = multiprocessing.get_context("fork")
    states, now = [], [100.0]
    # the side's clock as the test moves it: a busy machine would lengthen real turns
    monkeypatch.setattr(sides, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def wait() -> str:
        now[0] += 0.3
        time.sleep(0.1)  # a signal takes a moment to arrive
        stat = Path(f"/proc/{worker.pid}/stat").read_text()
        states.append(stat.rsplit(")", 1)[1].split()[0])
        return "go\n"

    worker = context.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    monkeypatch.setattr(sides.sys, "stdin", type("In", (), {"readline": staticmethod(wait)}))
    while not asleep(worker.pid):
        time.sleep(0.01)
    turns.ready(encoder.trunk, 16)
    now[0] += 0.25
    turns.after(2)
    now[0] += 0.05
    turns.after(3)  # the turn is not over
    turns.after(4, over=True)
    worker.kill()
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert [(x["step"], x["images"], x["over"]) for x in lines] == [
        (0, 0, False), (2, 32, False), (4, 64, True)
    ]
    assert [x["seconds"] for x in lines] == pytest.approx([0, 0.25, 0.3])
    assert [x["knn"] is None for x in lines] == [True, True, False]  # far from the goal
    assert states == ["S", "T", "T"]  # asleep before the first turn, stopped after each
    assert 0 < lines[2]["knn_few"] < 0.6


def side(name, *points):
    keys = "seconds", "cpu_seconds", "images", "knn", "over"
    return time_to_knn.Side(name, None, [dict(zip(keys, p, strict=True)) for p in points])


def test_the_best_of_the_references_counts():
    found = time_to_knn.result([
        side("plain, lr 0.1", (300, 600, 9, 0.46, False), (600, 1200, 18, 0.48, False)),
        side("plain, lr 0.2", (300, 600, 9, None, False), (400, 900, 12, 0.471, False)),
        side("fastmoco, same recipe", (200, 390, 18, 0.47, True)),
        side(time_to_knn.OURS, (60, 110, 9, 0.46, False), (80, 150, 12, 0.47, True)),
    ])
    assert found["reference_seconds"] == 400 and found["reference_cpu_seconds"] == 900
    ours = found["sides"][time_to_knn.OURS]
    assert ours["of_reference_seconds"] == 0.2 and ours["images_per_s"] == 0.15
    assert ours["of_reference_cpu_seconds"] == pytest.approx(1 / 6)
    assert time_to_knn.show(found)
    found["sides"][time_to_knn.OURS]["of_reference_seconds"] = 0.26
    assert not time_to_knn.show(found)


def test_a_side_that_died_is_said():
    command = [sys.executable, "-c", "exit(3)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with pytest.raises(RuntimeError, match="plain: ended with 3"):
            time_to_knn.Side("plain", process).hear()


def test_the_grid_differs_in_one_field_and_begins_fairly():
    cells = grid(4, 0)
    assert len({c.name for c in cells}) == len(cells)
    for cell in cells:
        cell.recipe.check(45_000)
    for cell in cells:
        base = BASE if cell.part != "v1 to v2" else cells[-1].recipe
        if cell.part == "momentum":
            assert dataclasses.replace(base, epochs=4, m=cell.recipe.m) == cell.recipe
    first = [(c.row, c.column) for c in cells[:3]]
    assert first == [(m, "256") for m in ("queue", "memory-bank", "end-to-end")]
    end = next(c.recipe for c in cells if (c.row, c.column) == ("end-to-end", "1024"))
    assert end.batch == 1024 and end.lr == pytest.approx(16 * BASE.lr)
    assert not any((c.row, c.column) == ("end-to-end", "4096") for c in cells)
    rows = {c.row: c.recipe for c in cells if c.part == "v1 to v2"}
    assert set(ablation.ROWS) == set(rows)
    assert (ablation.ROWS[0], ablation.ROWS[-1]) == ("v1", "v2: all three")
    v1 = to_dict(rows["v1"])
    for row, fields in (("head", {"head"}), ("augmentation", {"augmentation"}),
                        ("cosine", {"schedule"}), ("v2: all three",
                                                   {"head", "augmentation", "schedule"})):
        mine = to_dict(rows[row])
        assert {k for k in v1 if v1[k] != mine[k]} == fields


def test_cells_go_on_where_they_were_cut_off(small, tmp_path, monkeypatch):
    _, (data, held_out) = small
    monkeypatch.setattr(ablation, "split", lambda *_: (data, held_out))
    monkeypatch.setattr(ablation, "LOG_EVERY", 2)
    recipe = dataclasses.replace(
        BASE, size=8, eval_size=8, batch=16, K=64, bn_splits=1, epochs=2, warmup=0.0
    )
    cells = [Cell("mechanism", "queue", "64", recipe), Cell("momentum", "queue", "0.99", recipe)]
    (tmp_path / "cells").mkdir()
    assert not ablation.run(cells[0], tmp_path, tmp_path, lambda: True)
    assert ablation.read(tmp_path) == [] and ablation.result_of(cells[0], []) is None
    assert (tmp_path / "running" / cells[0].name / "checkpoint.pt").is_file()
    assert ablation.run(cells[0], tmp_path, tmp_path, lambda: False)
    results = ablation.read(tmp_path)
    assert len(results) == 1 and results[0]["steps"] == 10 and 0 <= results[0]["knn"] <= 1
    assert not (tmp_path / "running" / cells[0].name).exists()
    # the other part has the same training
    assert ablation.result_of(cells[1], results) == results[0]["knn"]
    ablation.write_table(cells, results, tmp_path)
    ablation.write_chart(cells, results, tmp_path / "ablation.png")
    text = (tmp_path / "ablation.md").read_text()
    assert f"| queue | {100 * results[0]['knn']:.1f} |" in text
    with Image.open(tmp_path / "ablation.png") as picture:
        assert picture.size[0] == charts.WIDTH


def test_growing_views_are_trained_as_long_as_the_others(small, tmp_path, monkeypatch):
    recipe = dataclasses.replace(progressive.MOCO_CIFAR_MINI, batch=16, K=64, eval_size=8)
    monkeypatch.setattr(progressive, "MOCO_CIFAR_MINI", recipe)
    monkeypatch.setattr(progressive, "FORMS", ((12,), (8, 12)))
    seen, train = [], progressive.train
    monkeypatch.setattr(progressive, "train", lambda *a: seen.append(train(*a)) or seen[-1])
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["x", str(small[0]), *"--epochs 2 --seeds 2".split(),
                                      "--held-out", "40", "--out", str(out)])
    assert progressive.main() == 0
    assert [(c.recipe.size, c.recipe.progressive, c.recipe.seed, c.step) for c in seen] == [
        (12, sides, seed, 10) for seed in (0, 1) for sides in ((), (8, 12))
    ]
    found = json.loads(out.read_text())["results"]
    assert [r["seconds"] for r in found] == [c.clock["train_seconds"] for c in seen]
    assert all(0 <= r["knn"] <= 1 for r in found)


def test_curves_are_drawn_where_they_belong(tmp_path):
    line = charts.Curve("a", [(0.0, 0.2, 0.2, 0.2), (10.0, 0.4, 0.4, 0.4)])
    charts.draw_curves([charts.Panel("t", "x", [line], goal=0.3)], tmp_path / "c.png", "foot")
    with Image.open(tmp_path / "c.png") as image:
        picture = np.asarray(image)
    red = np.argwhere((picture == (0xD6, 0x45, 0x41)).all(-1))
    plot = red[red[:, 1] < charts.WIDTH - charts.RIGHT]
    left, right = plot[plot[:, 1].argmin()], plot[plot[:, 1].argmax()]
    assert left[0] > right[0]  # up to the right
    assert left[1] < charts.LEFT + 15 and right[1] > charts.WIDTH - charts.RIGHT - 20
    charts.draw_curves(
        [charts.Panel("t", "x", [dataclasses.replace(line, joined=False)])], tmp_path / "p.png", ""
    )
    with Image.open(tmp_path / "p.png") as image:
        dots = (np.asarray(image) == (0xD6, 0x45, 0x41)).all(-1)
    # 49 pixels a dot at most, and the sign beside the name
    assert dots[:, : charts.WIDTH - charts.RIGHT].sum() < 110
    assert charts.spacing(0.3, 6) == pytest.approx(0.05) and charts.spacing(480, 5) == 100
    assert charts.round_ticks(0, 480)[-1] == (400, "400")
