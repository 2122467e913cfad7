"""Every command opens checkpoints the same way; a run can start from another checkpoint."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from data_tools.errors import UserError
from fastmoco.model.build import build_moco
from fastmoco.recipe import MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Noted
from fastmoco.training.train import train
from fastmoco.training.warm_start import start_from
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.open import open_checkpoint
from tests.support.command_line import TINY, refused, run
from tests.support.foreign_models import official, resnet

RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=16, batch=16, bn_splits=2, K=72, epochs=1, lr=0.05,
    augmentation=dataclasses.replace(MOCO_V2.augmentation, blur_p=0.0),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train(dataset, RECIPE, RunOptions(out=str(out)))
    return out


def test_ours_opens_as_it_is(trained):
    a, b = (vars(load(trained)) for load in (open_checkpoint, checkpoints.load))
    assert a["moco"].keys() == b["moco"].keys() and a["recipe"] == b["recipe"]
    assert all(torch.equal(a["moco"][k], b["moco"][k]) for k in a["moco"])


def test_ours_misshapen_is_one_line(trained, tmp_path):
    saved = checkpoints.load(trained)
    name = "encoder_q.trunk.bn1.weight"
    checkpoints.save(
        dataclasses.replace(saved, moco=saved.moco | {name: torch.ones(3)}), tmp_path / "a.pt"
    )
    with pytest.raises(UserError, match=r"bn1.weight has the shape \[3\]"):
        open_checkpoint(tmp_path / "a.pt")


def test_ours_with_flipped_bytes_or_no_numbers_is_one_line(trained, tmp_path):
    """torch ignores the checksums and accepts any bits as weights."""
    whole = bytearray((Path(trained) / "checkpoint.pt").read_bytes())
    for at in (len(whole) // 3, len(whole) // 2):
        path = tmp_path / "flipped.pt"
        flipped = bytes(b ^ 255 for b in whole[at : at + 40])
        path.write_bytes(whole[:at] + flipped + whole[at + 40 :])
        with pytest.raises(UserError, match="flipped.pt: damaged: .* is not what was written"):
            open_checkpoint(path)
    saved = checkpoints.load(trained)
    name = "encoder_q.trunk.conv1.weight"
    checkpoints.save(
        dataclasses.replace(saved, moco=saved.moco | {name: saved.moco[name] * torch.nan}),
        tmp_path / "nan.pt",
    )
    with pytest.raises(UserError, match="nan.pt: encoder_q.trunk.conv1.weight holds numbers that"):
        open_checkpoint(tmp_path / "nan.pt")


@pytest.mark.parametrize("changes", [
    {"moco": None}, {"moco": {"encoder_q.trunk.conv1.weight": "text"}}, {"recipe": {"size": 1}},
    {"recipe": {"eval_size": -3}}, {"recipe": {"name": 3, "augmentation": 3}},
], ids=str)
def test_ours_with_other_contents_is_one_line(trained, tmp_path, changes):
    content = torch.load(Path(trained) / "checkpoint.pt", weights_only=True)
    for name, value in changes.items():
        if name == "recipe" and "eval_size" in value:
            value = content["recipe"] | value
        content[name] = value
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt: ") as raised:
        open_checkpoint(tmp_path / "other.pt")
    assert "\n" not in str(raised.value)


def test_a_state_that_its_recipe_does_not_fit_is_not_resumed(dataset, tmp_path):
    out = str(tmp_path / "run")
    saved = train(dataset, RECIPE, RunOptions(out=out))
    for change in (
        {"moco": saved.moco | {"dictionary.keys": torch.zeros(7, 3)}},
        {"moco": {k: v for k, v in saved.moco.items() if not k.startswith("encoder_k.")}},
        {"optimizer": {"state": {}, "param_groups": []}},
    ):
        checkpoints.save(dataclasses.replace(saved, **change), Path(out) / "checkpoint.pt")
        with pytest.raises(UserError, match="checkpoint.pt: holds a state that its own recipe"):
            train(dataset, RECIPE, RunOptions(out=out, resume=True))


def test_a_run_begins_with_a_checkpoint_and_says_what_it_took(trained, dataset, tmp_path):
    lines = []
    recipe = dataclasses.replace(RECIPE, lr=1e-30, weight_decay=0.0, m=1.0)  # it moves nothing
    options = RunOptions(out=str(tmp_path / "run"), init=str(trained))
    last = train(dataset, recipe, options, [lines.append])
    saved = checkpoints.load(trained)
    (note,) = [e.text for e in lines if isinstance(e, Noted) and "weights from" in e.text]
    assert note.endswith("(step 6 of moco-v2): trunk, head, key encoder, queue")
    assert last.origin == note and checkpoints.load(tmp_path / "run").origin == note
    for name, value in saved.moco.items():
        if "running" not in name and "num_batches" not in name and "dictionary" not in name:
            assert torch.equal(last.moco[name], value), name
    again = train(dataset, recipe, dataclasses.replace(options, resume=True), [lines.append])
    assert again.origin == note and sum("weights from" in str(e) for e in lines) == 1


def taken(recipe, saved):
    moco = build_moco(recipe, 96, CPU)
    return moco, start_from(moco, saved, recipe, "a.pth")


def test_what_fits_is_taken_and_what_not_is_said(small, tmp_path):
    torch.save(official(small, K=8), tmp_path / "a.pth")
    saved = open_checkpoint(tmp_path / "a.pth")
    recipe = dataclasses.replace(MOCO_V2, arch="resnet18", K=8, batch=8)
    moco, line = taken(recipe, saved)
    assert line.endswith(": trunk, head, key encoder, queue")
    assert torch.equal(moco.dictionary.keys, saved.moco["dictionary.keys"])
    assert int(moco.dictionary.pointer) == 3
    moco, line = taken(dataclasses.replace(recipe, K=16), saved)
    assert line.endswith(": trunk, head, key encoder; not queue")
    moco, line = taken(dataclasses.replace(recipe, head="linear"), saved)
    assert ": trunk; not head, key encoder (starts as a copy of the query encoder), queue" in line
    for (name, q), k in zip(
        moco.encoder_q.named_parameters(), moco.encoder_k.parameters(), strict=True
    ):
        assert torch.equal(q, k), name
    assert torch.equal(moco.encoder_q.trunk.conv1.weight, small.conv1.weight)
    _, line = taken(dataclasses.replace(recipe, mechanism="memory-bank"), saved)
    assert line.endswith(": trunk, head")
    with pytest.raises(UserError, match="--init a.pth: is of --arch resnet18, the recipe's is"):
        taken(dataclasses.replace(recipe, arch="resnet-mini"), saved)


def test_knn_of_another_systems_checkpoint(dataset, tmp_path, capsys):
    model = resnet(resnet18, nn.Identity())
    state = model.state_dict() | {"conv1.weight": torch.randn(64, 3, 3, 3)}
    torch.save(state, tmp_path / "a.pth")
    argv = ["knn", tmp_path / "a.pth", dataset, dataset, "--no-companions"]
    code, text, _ = run(capsys, *argv)
    assert code == 0 and "torchvision layout: resnet18 with a CIFAR stem, no head" in text
    assert "trained" in text


def test_bad_checkpoints_are_one_line_of_each_command(dataset, tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"no weights")
    for argv in (
        ("knn", tmp_path / "a.pt", dataset, dataset),
        ("train", dataset, *TINY, "--init", tmp_path / "a.pt", "--out", tmp_path / "run"),
    ):
        assert "a.pt: not a checkpoint" in refused(capsys, *argv)
    assert "--arch" in refused(capsys, "train", dataset, "--arch", "resnet19")
    assert not (tmp_path / "run").exists()
