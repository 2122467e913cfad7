"""Published figures compared on a tiny ImageNet whose nearest neighbours are known."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

import fastmoco.checks.published_results as published_module
from data_tools.errors import UserError
from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.checks.published_results import (
    PUBLISHED,
    Data,
    Published,
    against_published,
    recognise,
)
from fastmoco.evaluation.feature_cache import Extraction
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.weights.open import open_checkpoint
from tests.support.command_line import run
from tests.support.evaluation_parts import CPU
from tests.support.foreign_models import mlp, official, resnet

TINY = Data(train=12, val=6, classes=3)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210)}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("false", 2)):
        for i, name in enumerate(COLOURS):
            colour = COLOURS[list(COLOURS)[i - (split == "false")]]
            for j in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-9, 10, (64, 64, 3)), 0, 255)
                path = root / "in" / split / name / f"{j}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
        prepare(root / "in" / split, root / split)
    return root


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint as main_moco.py saves it after 200 epochs of v2, with a ResNet-18."""
    path = tmp_path_factory.mktemp("released") / "checkpoint_0199.pth.tar"
    torch.save(official(resnet(resnet18, mlp(512)), arch="resnet18"), path)
    return path


def table(**figures):
    entry = Published("tiny_v2", "mlp", 200, 100.0, {1: 100.0, 4: 100.0}, arch="resnet18")
    return dataclasses.replace(entry, **figures)


def compare(released, imagenet, val="val", train="train", data=TINY, **more):
    saved = open_checkpoint(released)
    published, _ = recognise(saved, released, [table(**more.pop("figures", {}))])
    stores = [None if name is None else open_store(imagenet / name) for name in (train, val)]
    return against_published(
        saved, published, *stores, Extraction(CPU), data=data, **more
    )


def test_figures_that_hold_pass(released, imagenet):
    told = []
    checks = compare(released, imagenet, report=told.append)
    assert told == checks and [c.passed for c in checks] == [True, True]
    assert checks[0].name == "kNN top-1, k 1, T 0.07"
    assert checks[0].found.startswith("100.0 % here, 100.0 % published")
    assert "0.5 points allowed" in checks[0].found


def test_figures_that_do_not_hold_fail(released, imagenet):
    # each image of "false" is in another colour's class
    false = compare(released, imagenet, "false")
    assert [c.passed for c in false] == [False, False] and false[0].found.startswith("0.0 % here")
    near, far = compare(released, imagenet, figures={"knn": {1: 99.6, 4: 99.4}})
    assert near.passed and not far.passed  # on both sides of the half point
    assert compare(released, imagenet, figures={"knn": {1: 99.4}, "knn_allowed": 1.0})[0].passed


def test_the_linear_evaluation_is_compared_too(released, imagenet):
    more = {"linear_settings": LinearSettings(epochs=1, batch=6)}
    knn1, good = compare(
        released, imagenet, figures={"knn": {1: 100.0}, "linear_allowed": 100.0}, **more
    )
    assert knn1.passed and good.passed and good.name == "linear top-1"
    assert "official linear protocol, changed" in good.found and "1 epochs" in good.found
    share = float(good.found.split(" %")[0])
    (bad,) = compare(released, imagenet, figures={"knn": {}, "linear": share - 0.6}, **more)
    assert not bad.passed and bad.found.startswith(f"{share:.1f} % here")


def test_val_alone_is_compared_with_nothing(released, imagenet):
    checks = compare(released, imagenet, train=None)
    assert [c.passed for c in checks] == [None, None]
    assert "100.0 % leaving one out" in checks[0].found and "add --train TRAIN" in checks[0].found
    with pytest.raises(UserError, match="--linear learns from ImageNet's training set"):
        compare(released, imagenet, train=None, linear_settings=LinearSettings())
    with pytest.raises(UserError, match="no kNN figure is published of it; add --linear"):
        compare(released, imagenet, figures={"knn": {}})


@pytest.mark.parametrize("data", [
    dataclasses.replace(TINY, train=13), dataclasses.replace(TINY, val=5),
    dataclasses.replace(TINY, classes=4),
])
def test_other_data_are_refused(released, imagenet, data):
    with pytest.raises(UserError, match="which the published figures are of, has"):
        compare(released, imagenet, data=data)


def files(tmp_path, model, name, **more):
    path = tmp_path / name
    torch.save(official(model, arch="resnet18", **more), path)
    return open_checkpoint(path), path


def test_it_is_known_by_its_name_or_by_what_it_holds(tmp_path):
    v1 = table(name="tiny_v1", head="linear")
    longer = table(name="tiny_v2_long", epochs=800)
    entries = (v1, longer, table())
    model = resnet(resnet18, mlp(512))
    plain = resnet(resnet18, nn.Linear(512, 128))

    def known(model, name, **more):
        found, by = recognise(*files(tmp_path, model, name, **more), entries)
        return found.name, by

    assert known(model, "a.pth.tar") == (
        "tiny_v2", "holding a resnet18 with an MLP head, after 200 epochs"
    )
    assert known(model, "a.pth.tar", epoch=800)[0] == "tiny_v2_long"
    assert known(plain, "a.pth.tar")[0] == "tiny_v1"
    name, by = known(plain, "tiny_v1_pretrain.pth.tar")
    assert name == "tiny_v1" and by.startswith("its name, and it holds a resnet18 with a linear")
    assert known(model, "tiny_v2_long.pth", epoch=None) == ("tiny_v2_long", "its name alone")
    for wrong, name, more in ((plain, "tiny_v2.pth", {}), (model, "tiny_v2.pth", {"epoch": 100})):
        with pytest.raises(UserError, match="named like tiny_v2, but it holds a resnet18 with"):
            known(wrong, name, **more)
    for more in ({"epoch": 100}, {"epoch": None}):
        with pytest.raises(UserError, match="its name is none of tiny_v1, tiny_v2_long"):
            known(model, "a.pth", **more)


def test_the_published_figures_are_the_papers():
    figures = {p.name: (p.head, p.epochs, p.linear, p.knn) for p in PUBLISHED}
    assert figures == {
        "moco_v1_200ep": ("linear", 200, 60.6, {}),
        "moco_v2_200ep": ("mlp", 200, 67.7, {10: 55.6, 20: 55.7, 100: 53.7, 200: 52.5}),
        "moco_v2_800ep": ("mlp", 800, 71.1, {20: 61.9}),
    }
    assert {p.arch for p in PUBLISHED} == {"resnet50"}
    data = published_module.IMAGENET
    assert (data.train, data.val, data.classes) == (1_281_167, 50_000, 1000)


def test_the_command_compares(released, imagenet, capsys, monkeypatch):
    monkeypatch.setattr(published_module, "PUBLISHED", (table(),))
    monkeypatch.setattr(published_module, "IMAGENET", TINY)
    argv = ["selftest", "--checkpoint", released, "--device", "cpu"]
    code, out, err = run(capsys, *argv, "--imagenet", imagenet / "val", "--train",
                          imagenet / "train")
    assert code == 0 and not err and "2 of 2 checks passed" in out
    assert "tiny_v2, known by holding a resnet18 with an MLP head, after 200 epochs" in out
    code, out, err = run(capsys, *argv, "--imagenet", imagenet / "false", "--train",
                          imagenet / "train", "--json")
    found = json.loads(out)
    assert code == 1 and not found["passed"] and found["is"] == "tiny_v2"
    assert err.count("failed: kNN top-1, k ") == 2
    code, out, _ = run(capsys, *argv, "--imagenet", imagenet / "val")  # train is beside it
    assert code == 0 and "2 of 2 checks passed" in out
    alone = imagenet.parent / "alone"
    alone.mkdir()
    (alone / "val").symlink_to(imagenet / "val")
    code, out, _ = run(capsys, *argv, "--imagenet", alone / "val")
    assert code == 1 and "nothing was compared" in out and "comparable with no" in out
