"""Each verb through the front door, on tiny data: results, and folders that are not prepared."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fastmoco
from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.weights import checkpoint as checkpoints
from tests.support.evaluation_parts import untrained
from tests.support.training_runs import RECIPE, STEPS, assert_equal


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(folder, dataset, tmp_path_factory):
    """A run on the plain folder, by a Recipe, options and keywords."""
    out, events = tmp_path_factory.mktemp("runs") / "a", []
    options = fastmoco.RunOptions(out=out, device="cpu", log_every=6)
    checkpoint = fastmoco.train(
        folder, RECIPE, options, listeners=[events.append], val=dataset, val_every=3
    )
    assert checkpoint.step == STEPS and checkpoint.recipe.epochs == 3 and events
    return out


def test_train_resumes_with_its_own_recipe_and_takes_keywords(trained, dataset, tmp_path):
    """The same run in one piece and with keywords alone ends in the same bits."""
    again = fastmoco.train(
        dataset, dataclasses.replace(RECIPE, epochs=7, lr=0.9), epochs=3, lr=0.05, device="cpu",
        out=tmp_path / "b", progressive=[16], log_every=6,
    )
    first = checkpoints.load(trained)
    assert_equal(first.moco, again.moco)
    resumed = fastmoco.train(dataset, out=str(trained), resume=True, device="cpu")
    assert resumed.recipe == first.recipe and resumed.step == STEPS
    with pytest.raises(UserError, match="resume=True"):
        fastmoco.train(dataset, RECIPE, out=tmp_path / "b")


def test_train_names_its_run_after_the_data(folder, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fastmoco.train(folder, "moco-cifar-mini", epochs=1, K=32, batch=16, size=16, warmup=0,
                   augmentation="v2", device="cpu", precision="float32")
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == f"{folder.name}-moco-cifar-mini"
    assert checkpoints.load(run).recipe.augmentation == fastmoco.MOCO_V2.augmentation


def test_train_dry_run(dataset):
    found = fastmoco.train(dataset, RECIPE, dry_run=True, memory="64MB", device="cpu")
    assert found.room == 64_000_000 and found.estimate.batch == 16


def test_prepare_in_formats_shards_and_plans(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.planning.plan.ROUNDS", 1)
    lines = []
    manifest = fastmoco.prepare(folder, tmp_path / "one", "tfrecord", say=lines.append, max_side=64)
    assert manifest.samples == 96 and manifest.format == "tfrecord" and "96 samples" in lines[0]
    assert manifest.policy["max_side"] == 64
    assert fastmoco.prepare(str(folder), tmp_path / "two", shard="0/2", shard_size=0.05)[0] > 0
    whole = fastmoco.prepare(folder, tmp_path / "two", shard_size=0.05)
    assert whole.samples == 96 and len(fastmoco.open_store(tmp_path / "two")) == 96
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(folder / "ash" / "000.jpg", few)
    plan = fastmoco.prepare(few, plan=True, target_rate=1.0)
    assert plan.images == 1 and plan.chosen == 0
    with pytest.raises(UserError, match="^out is missing: give the directory to write$"):
        fastmoco.prepare(folder)


def test_verify_and_inspect(dataset, tmp_path):
    (report,) = fastmoco.verify(dataset)
    assert not report.found and report.verdict
    found = fastmoco.inspect(str(dataset), sheet=tmp_path / "sheet.png", sample=10)
    assert found.classes == {"ash": 48, "oak": 48}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100


def test_knn_takes_paths_stores_and_checkpoints(trained, dataset, folder, store):
    rows = fastmoco.knn(trained, dataset, folder, k=[1], T=[0.1], companions=False, device="cpu")
    assert [(r.k, r.T, r.top1) for r in rows] == [(1, 0.1, 1.0)]
    saved, half = checkpoints.load(trained), Subset(store, np.arange(0, 96, 2))
    out = fastmoco.knn(saved, half, k=(1, 3), companions=False, device="cpu", keep=False)
    assert [r.k for r in out] == [1, 3] and all(0 <= r.top1 < 1 for r in out)


def test_linear_and_finetune(trained, dataset):
    quick = fastmoco.linear(trained, dataset, dataset, quick=True, epochs=2, lr=[0.1], size=16)
    full = fastmoco.linear(trained, dataset, dataset, epochs=1, batch=32, device="cpu")
    assert quick.rows[0].score.top1 > 0 and full.rows[0].rate == 30
    tuned = fastmoco.finetune(trained, dataset, dataset, labels="8/class", epochs=1, device="cpu")
    assert tuned.labelled == 16 and tuned.rows
    with pytest.raises(UserError, match="^lr=-1.0: give a rate above 0"):
        fastmoco.finetune(trained, dataset, dataset, lr=-1)


def test_embed_returns_and_writes_the_features(trained, dataset, tmp_path):
    features = fastmoco.embed(
        trained, dataset, tmp_path / "f.npy", neighbours=tmp_path / "n.png", count=2, device="cpu"
    )
    assert features.shape == (96, 192) and features.dtype == np.float32
    assert np.array_equal(np.load(tmp_path / "f.npy"), features)
    assert (tmp_path / "n.png").exists()


def test_export_beside_the_run_or_into_a_directory(trained, tmp_path):
    files = fastmoco.export(trained, "safetensors")
    assert {f.parent for f in files} == {trained / "export-safetensors"}
    saved = checkpoints.load(trained)
    files = fastmoco.export(saved, "safetensors", tmp_path / "out")
    assert all(f.is_file() and f.parent == tmp_path / "out" for f in files)
    with pytest.raises(UserError, match="^out is missing"):
        fastmoco.export(saved, "safetensors")
    again = fastmoco.load(tmp_path / "out")
    assert torch.equal(
        next(again.trunk.parameters()), next(fastmoco.load(trained).trunk.parameters())
    )


def test_report_compare_and_views(trained, folder, tmp_path):
    page, left_out = fastmoco.report(trained, tmp_path / "r.html", count=8, device="cpu")
    assert page == tmp_path / "r.html" and page.stat().st_size > 1000
    assert all(isinstance(line, str) for line in left_out)
    found = fastmoco.compare(trained)
    assert [row.run for row in found.runs] == [str(trained)]
    ids = fastmoco.views(folder, tmp_path / "v.png", 3, recipe=RECIPE, size=24)
    assert len(ids) == 3 and (tmp_path / "v.png").exists()


def test_bench_warns_of_slower_stages(dataset, tmp_path):
    report = fastmoco.bench(dataset, RECIPE, device="cpu", rounds=1, seconds=0.01)
    assert report.images == 96 and report.batch == 16 and report.binds
    saved = json.loads(json.dumps(dataclasses.asdict(report)))
    for stage in saved["stages"]:
        if stage["name"].startswith("two views"):
            stage["images_per_s"] *= 1e4
    (tmp_path / "b.json").write_text(json.dumps(saved))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastmoco.bench(dataset, RECIPE, device="cpu", rounds=1, seconds=0.01,
                       against=tmp_path / "b.json")
    lines = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert any(line.startswith("slower: two views") for line in lines), lines


def test_selftest_and_doctor(tmp_path, monkeypatch):
    from fastmoco.checks import selftest

    first = dict(list(selftest.CHECKS.items())[:1])
    monkeypatch.setattr(selftest, "CHECKS", first)
    shown = []
    checks = fastmoco.selftest(show=shown.append, device="cpu")
    assert checks == shown and [c.passed for c in checks] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastmoco.doctor(tmp_path).decode_images_per_s > 0


def test_selftest_of_a_released_checkpoint(dataset, tmp_path):
    checkpoints.save(untrained(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: it holds a resnet-mini"):
        fastmoco.selftest(checkpoint=tmp_path / "other.pt", imagenet=dataset, device="cpu")
