"""--stats data: the dataset's own mean and deviation, measured once, used everywhere."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.inspection.survey import mean_and_std
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.cli import main
from fastmoco.loading.dataset_stats import normalised
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.eval_loader import EvalLoader
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Noted
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import RECIPE

OURS = dataclasses.replace(RECIPE, epochs=1, batch=48, stats="data")


def test_they_are_those_of_the_pixels(store, folder):
    images = [np.asarray(Image.open(p)) / 255 for p in sorted(folder.rglob("*.jpg"))]
    mean = np.mean([x.mean((0, 1)) for x in images], axis=0)
    square = np.mean([(x**2).mean((0, 1)) for x in images], axis=0)
    found = mean_and_std(store)
    np.testing.assert_allclose(found[0], mean, atol=2e-3)  # Pillow's decode against simplejpeg's
    np.testing.assert_allclose(found[1], np.sqrt(square - mean**2), atol=2e-3)
    assert found[2] == 96 and mean_and_std(store, sample=10)[2] == 10


def test_every_format_has_the_same(folder, tmp_path):
    prepare(folder, tmp_path / "both", formats=("beton", "webdataset"))
    one, two = (
        mean_and_std(open_store(tmp_path / "both" / name), sample=30)
        for name in ("beton", "webdataset")
    )
    assert one == two


def test_normalised_views_have_mean_0_and_deviation_1(store):
    recipe, line = normalised(dataclasses.replace(OURS, size=32, eval_crop=1.0), store, None)
    aug = recipe.augmentation
    assert line is not None and f"mean {aug.mean[0]}" in line and "96 images" in line
    engine = ThreadsEngine(store)
    try:
        views = [
            b.views[:, 0].clone() for b in EvalLoader(store, recipe, engine, torch.device("cpu"))
        ]
    finally:
        engine.close()
    pixels = torch.cat(views).double() / 255
    standard = (pixels - torch.tensor(aug.mean)) / torch.tensor(aug.std)
    # centre squares of 32 pixels, so only about the whole images' figures
    assert standard.mean((0, 1, 2)).abs().max() < 0.15
    assert (standard.std((0, 1, 2)) - 1).abs().max() < 0.15


def test_a_run_keeps_them_for_evaluation_and_resume(dataset, store, tmp_path):
    told = []
    options = RunOptions(out=str(tmp_path / "run"))
    first = train(dataset, OURS, options, [told.append])
    mean, std, _ = mean_and_std(store)
    for recipe in (first.recipe, checkpoints.load(tmp_path / "run").recipe):
        assert recipe.stats == "data"
        assert (recipe.augmentation.mean, recipe.augmentation.std) == (tuple(mean), tuple(std))
    assert sum("normalised by the data's" in e.text for e in told if isinstance(e, Noted)) == 1
    saved = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert saved["augmentation"]["mean"] == mean
    again = train(dataset, OURS, dataclasses.replace(options, resume=True))
    assert again.recipe == first.recipe
    with pytest.raises(UserError, match="trained with stats data, not recipe"):
        train(dataset, dataclasses.replace(OURS, stats="recipe"),
              dataclasses.replace(options, resume=True))


def test_the_weights_depend_on_them(dataset, tmp_path):
    one = train(dataset, OURS, RunOptions(out=str(tmp_path / "one")))
    two = train(dataset, dataclasses.replace(OURS, stats="recipe"),
                RunOptions(out=str(tmp_path / "two")))
    same = [torch.equal(a, two.moco[k]) for k, a in one.moco.items()]
    assert not all(same)


def test_a_resume_measures_nothing(store, monkeypatch):
    saved, _ = normalised(OURS, store, None)
    monkeypatch.setattr("fastmoco.loading.dataset_stats.mean_and_std", None)
    assert normalised(OURS, store, saved) == (saved, None)


def test_the_flag(dataset, tmp_path, capsys):
    argv = ["train", dataset, "--stats", "data", "--arch", "resnet-mini", "--size", "16", "--batch",
            "48", "--bn-splits", "2", "--K", "64", "--epochs", "1", "--out", tmp_path / "run"]
    assert main([str(a) for a in argv]) == 0
    assert "normalised by the data's mean" in capsys.readouterr().out
    assert main(["train", str(dataset), "--resume", "--out", str(tmp_path / "run")]) == 0
    assert "step 2/2" in capsys.readouterr().out


def test_flat_images_are_refused_in_one_line(tmp_path):
    (tmp_path / "flat").mkdir()
    for i in range(4):
        Image.new("RGB", (20, 20), (90, 90, 90)).save(tmp_path / "flat" / f"{i}.png")
    prepare(tmp_path / "flat", tmp_path / "out")
    with pytest.raises(UserError, match="--stats data: a channel of .*use --stats recipe"):
        normalised(OURS, open_store(tmp_path / "out"), None)
