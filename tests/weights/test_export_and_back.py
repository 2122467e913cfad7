"""Exports that fastmoco opens again: the same weights, recipe and optimizer."""

import dataclasses
import re

import pytest
import torch

from fastmoco.model.build import build_moco
from fastmoco.weights.checkpoint import trunk_digest
from fastmoco.weights.export.directory import export
from fastmoco.weights.open import open_checkpoint
from tests.support.command_line import refused, run
from tests.support.export_parts import CPU, RECIPE, checkpoint_of
from tests.support.training_runs import assert_equal


def test_official_and_back_is_the_same_to_the_bit(saved, source, tmp_path):
    export(saved, source, "official", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "checkpoint.pth.tar", weights_only=True)
    state = content["state_dict"]
    assert content.keys() == {"epoch", "arch", "state_dict", "optimizer", "fastmoco"}
    assert content["epoch"] == saved.step * saved.recipe.batch // saved.samples
    assert state["module.queue"].shape == (128, 16) and state["module.queue_ptr"].tolist() == [8]
    parameters = [k for k in state if not re.search("running|tracked|queue", k)]
    assert content["optimizer"]["param_groups"][0]["params"] == list(range(len(parameters)))
    # in the order in which torch numbers the parameters of the official MoCo
    assert parameters[0] == "module.encoder_q.conv1.weight"
    half = len(parameters) // 2
    assert parameters[half - 1] == "module.encoder_q.fc.2.bias"
    assert [k.replace("_q", "_k") for k in parameters[:half]] == parameters[half:]
    back = open_checkpoint(tmp_path / "out")
    a, b = vars(saved).copy(), vars(back).copy()
    assert_equal(dict(sorted(a.pop("moco").items())), dict(sorted(b.pop("moco").items())))
    assert_equal(a, b)


def test_official_is_known_again_without_what_we_add(saved, source, tmp_path):
    export(saved, source, "official", tmp_path / "out")
    path = tmp_path / "out" / "checkpoint.pth.tar"
    content = torch.load(path, weights_only=True)
    del content["fastmoco"]
    torch.save(content, path)
    back = open_checkpoint(path)
    assert back.moco.keys() == saved.moco.keys()
    assert all(torch.equal(back.moco[k], v) for k, v in saved.moco.items())
    assert (back.recipe.head, back.recipe.K, back.recipe.name) == ("mlp", 16, "moco-v2")
    assert_equal(back.optimizer, saved.optimizer)


@pytest.mark.parametrize("to", ["safetensors", "timm", "huggingface"])
def test_our_own_safetensors_bring_their_recipe_back(saved, source, tmp_path, to):
    """The recipe holds the view and the statistics that decide the features."""
    export(saved, source, to, tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert again.recipe == saved.recipe and (again.step, again.dataset) == (1, "f00d")
    trunk = {k: v for k, v in saved.moco.items() if k.startswith("encoder_q.trunk.")}
    assert again.moco.keys() == trunk.keys()
    assert all(torch.equal(v, again.moco[k]) for k, v in trunk.items())


def test_a_trunk_without_a_layout_comes_back_from_safetensors(tmp_path):
    small = checkpoint_of(dataclasses.replace(RECIPE, arch="resnet-mini", stem="cifar", size=32))
    export(small, tmp_path, "safetensors", tmp_path / "out")
    again = open_checkpoint(tmp_path / "out" / "model.safetensors")
    assert again.recipe == small.recipe
    assert trunk_digest(again) == trunk_digest(small)


def test_weights_alone_make_an_official_checkpoint_that_can_be_resumed(saved, source, tmp_path):
    """main_moco.py's --resume loads the optimizer of both encoders."""
    export(dataclasses.replace(saved, optimizer={}), source, "official", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "checkpoint.pth.tar", weights_only=True)
    both = [torch.nn.Parameter(p) for _, p in 2 * list(build_moco(saved.recipe, 96, CPU)
                                                       .encoder_q.named_parameters())]
    optimizer = torch.optim.SGD(both, lr=1.0)
    optimizer.load_state_dict(content["optimizer"])
    assert optimizer.param_groups[0]["lr"] == saved.recipe.lr
    assert open_checkpoint(tmp_path / "out").optimizer == {}


def test_an_official_checkpoint_is_exported(saved, source, tmp_path, capsys):
    export(saved, source, "official", tmp_path / "a")
    path = tmp_path / "a" / "checkpoint.pth.tar"
    content = torch.load(path, weights_only=True)
    del content["fastmoco"]
    torch.save(content, tmp_path / "moco.pth.tar")
    code, text, _ = run(
        capsys, "export", tmp_path / "moco.pth.tar", "--to", "torchvision", "--out", tmp_path / "b"
    )
    assert code == 0 and "official MoCo layout" in text
    got = torch.load(tmp_path / "b" / "resnet18.pth", weights_only=True)
    assert all(torch.equal(v, saved.moco[f"encoder_q.trunk.{k}"]) for k, v in got.items())
    assert "official MoCo layout" in (tmp_path / "b" / "README.md").read_text()
    line = refused(capsys, "export", tmp_path / "b" / "resnet18.pth", "--to", "official")
    assert "the checkpoint has no head" in line
