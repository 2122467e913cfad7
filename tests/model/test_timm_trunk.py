"""timm's trunks: split BatchNorm in their own, and a run that resumes, evaluates and exports."""

import dataclasses
import sys

import pytest
import torch

from data_tools.errors import UserError
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.encoder import build_encoder
from fastmoco.model.timm_trunk import notes
from fastmoco.recipe import MOCO_V2
from fastmoco.weights.encoders import load_encoder
from fastmoco.weights.open import open_checkpoint
from tests.support.command_line import TINY, refused, run

timm = pytest.importorskip("timm")

RECIPE = dataclasses.replace(MOCO_V2, size=32, batch=16, bn_splits=2, K=32)


def recipe(name, **changes):
    return dataclasses.replace(RECIPE, arch=f"timm:{name}", **changes)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # the latter's norms act
def test_split_batchnorm_is_each_part_by_itself(name):
    split = build_encoder(recipe(name)).trunk.double().train()
    plain = timm.create_model(name, num_classes=0).double().train()
    plain.load_state_dict(split.state_dict())  # so the names are timm's
    norms = [m for m in split.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(isinstance(m, SplitBatchNorm2d) and m.splits == 2 for m in norms)
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    whole = split(images)
    parts = torch.cat([plain(part) for part in images.chunk(2)])
    torch.testing.assert_close(whole, parts, rtol=1e-8, atol=1e-8)
    assert (plain(images) - parts).abs().max() > 1e-3  # which whole statistics don't give
    split.eval(), plain.eval()
    plain.load_state_dict(split.state_dict())
    torch.testing.assert_close(split(images), plain(images), rtol=1e-8, atol=1e-8)


def test_the_width_is_what_comes_out():
    # mobilenetv3's head makes 1024 of its num_features
    for name in ("test_vit", "test_efficientnet", "mobilenetv3_small_050"):
        encoder = build_encoder(recipe(name))
        with torch.no_grad():
            assert encoder.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 128)
            assert encoder.trunk(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.width)


def test_a_transformer_takes_every_size_of_a_run():
    encoder = build_encoder(recipe("test_vit", size=48, progressive=(32, 48))).eval()
    with torch.no_grad():
        for size in (32, 48):
            assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 128)


def test_what_does_nothing_is_said():
    vit = recipe("test_vit", stem="cifar")
    lines = notes(vit, build_encoder(vit))
    assert len(lines) == 2 and "--bn-splits does nothing" in lines[0] and "--stem" in lines[1]
    assert notes(dataclasses.replace(vit, bn_splits=1, stem="imagenet"), build_encoder(vit)) == []
    assert notes(RECIPE, torch.nn.Identity()) == []


def test_bad_names_are_one_line(dataset, tmp_path, capsys, monkeypatch):
    line = refused(capsys, "train", dataset, *TINY, "--arch", "timm:resnet5O", "--out",
                   tmp_path / "run")
    assert "has no such model; near it are" in line and "resnet50" in line
    with pytest.raises(UserError, match="does not take views of 30 pixels"):
        build_encoder(recipe("test_vit", size=48, progressive=(30, 48)))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm: pip install 'fastmoco\[timm\]'"):
        build_encoder(recipe("test_vit"))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_the_whole_way(name, dataset, tmp_path, capsys):
    out = tmp_path / "run"
    code, text, _ = run(
        capsys, "train", dataset, "--arch", f"timm:{name}", "--size", 32, "--batch", 16,
        "--bn-splits", 2, "--K", 32, "--epochs", 1, "--out", out,
    )
    assert code == 0 and ("does nothing" in text) == (name == "test_vit")
    code, text, _ = run(capsys, "train", dataset, "--resume", "--out", out)
    assert code == 0 and "resumed at step 6" in text
    code, text, _ = run(capsys, "knn", out, dataset, dataset, "--no-companions")
    assert code == 0 and "trained" in text
    assert run(capsys, "export", out, "--to", "timm")[0] == 0
    line = refused(capsys, "export", out, "--to", "huggingface")
    assert "it can be exported to onnx, safetensors, timm" in line
    model = timm.create_model(
        f"local-dir:{out / 'export-timm'}", pretrained=True, num_classes=0
    ).eval()
    images = torch.randn(3, 3, 32, 32)
    ours = load_encoder(open_checkpoint(out), torch.device("cpu")).trunk
    with torch.no_grad():
        torch.testing.assert_close(model(images), ours(images), rtol=1e-4, atol=1e-5)
