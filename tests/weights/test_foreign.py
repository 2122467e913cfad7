"""Other systems' checkpoints, made here in their documented layouts, then read and compared."""

import argparse
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from data_tools.errors import UserError
from fastmoco.weights.encoders import load_encoder
from fastmoco.weights.open import open_checkpoint
from fastmoco.weights.resnets import to_huggingface
from tests.support.foreign_models import IMAGES, mlp, official, resnet

CPU = torch.device("cpu")


def split(model, trunk, head):
    """A model's state dict with its trunk and its head (fc) under these prefixes."""
    return {
        (head + k[3:] if k.startswith("fc.") else trunk + k): v
        for k, v in model.state_dict().items()
    }


def assert_same_features(checkpoint, model):
    encoder = load_encoder(checkpoint, CPU)
    with torch.no_grad():
        whole, model.fc = model.fc, nn.Identity()
        torch.testing.assert_close(encoder.trunk(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
        model.fc = whole
        if any(k.startswith("encoder_q.head.") for k in checkpoint.moco):
            torch.testing.assert_close(encoder(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


# The published files are in torch's old layout.
@pytest.mark.parametrize(("v2", "zipped"), [(True, False), (False, True)])
def test_an_official_resnet50(v2, zipped, tmp_path):
    model = resnet(resnet50, mlp(2048) if v2 else nn.Linear(2048, 128))
    saved = official(model, optimizer={"state": {}, "param_groups": []})
    torch.save(saved, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    got = open_checkpoint(tmp_path / "a.pth.tar")
    recipe = got.recipe
    assert (recipe.name, recipe.head) == (("moco-v2", "mlp") if v2 else ("moco-v1", "linear"))
    assert (recipe.arch, recipe.stem, recipe.dim, recipe.K) == ("resnet50", "imagenet", 128, 8)
    assert torch.equal(got.moco["dictionary.keys"], saved["state_dict"]["module.queue"].T)
    assert got.moco["dictionary.pointer"].tolist() == 3
    assert_same_features(got, model)
    for part in ("official MoCo layout, epoch 200", "both encoders", "queue of 8", "one momentum"):
        assert part in got.origin


def sequential(model):
    names = {name: str(i) for i, (name, _) in enumerate(model.named_children())}
    trunk = {
        f"backbone.{names[k.split('.')[0]]}.{k.partition('.')[2]}": v
        for k, v in model.state_dict().items() if not k.startswith("fc.")
    }
    return trunk | {
        f"projection_head.layers.{k[3:]}": v
        for k, v in model.state_dict().items() if k.startswith("fc.")
    }


def keys_of(state, *renames):
    """The key encoder's tensors: the query encoder's under other names."""
    out = dict(state)
    for k, v in state.items():
        for old, new in renames:
            if k.startswith(old):
                out[new + k.removeprefix(old)] = v + 1 if v.is_floating_point() else v
    return out


LIGHTLY = (("backbone.", "backbone_momentum."), ("projection_head.", "projection_head_momentum."))
MM_1 = (("backbone.", "encoder_k.module.0."), ("neck.", "encoder_k.module.1."))
MM_0 = (("encoder_q.", "encoder_k."),)
SOLO = (("backbone.", "momentum_backbone."), ("projector.", "momentum_projector."))
QUEUE = {"queue": torch.ones(128, 8), "queue_ptr": torch.zeros(1, dtype=torch.int64)}


def made(system, model):
    if system == "lightly":
        return {"state_dict": keys_of(sequential(model), *LIGHTLY), "global_step": 5}
    if system == "lightly's benchmark":
        q = split(model, "query_backbone.", "query_projection_head.layers.")
        return {"state_dict": keys_of(q, ("query_", ""))}
    if system == "mmpretrain":
        return {"meta": {}, "state_dict": keys_of(split(model, "backbone.", "neck.mlp."), *MM_1)
                | QUEUE}
    if system == "mmselfsup":
        state = keys_of(split(model, "encoder_q.0.", "encoder_q.1.mlp."), *MM_0)
        return {"state_dict": state | split(model, "backbone.", "neck.mlp.") | QUEUE}
    if system == "solo-learn":
        two = {"queue": torch.ones(2, 128, 8), "classifier.weight": torch.ones(10, 512)}
        return {"state_dict": keys_of(split(model, "backbone.", "projector."), *SOLO) | two}
    trunk = split(model, "", "fc.")
    trunk = {k: v for k, v in trunk.items() if not k.startswith("fc.")}
    if system == "VISSL":
        heads = split(model, "", "0.clf.")
        base = {
            "trunk": {f"_feature_blocks.{k}": v for k, v in trunk.items()},
            "heads": {k: v for k, v in heads.items() if k.startswith("0.")},
        }
        return {"classy_state_dict": {"base_model": {"model": base}, "loss": QUEUE}}
    if system == "transformers":
        return {to_huggingface(k): v for k, v in trunk.items()}
    assert system == "torchvision"
    return trunk | {"fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}


@pytest.mark.parametrize(
    ("system", "head", "key", "queue"),
    [
        ("lightly", True, True, False),
        ("lightly's benchmark", True, True, False),
        ("mmpretrain", True, True, True),
        ("mmselfsup", True, True, True),
        ("solo-learn", True, True, False),
        ("VISSL", True, False, True),
        ("transformers", False, False, False),
        ("torchvision", False, False, False),
    ],
)
def test_every_layout(system, head, key, queue, small, tmp_path):
    torch.save(made(system, small), tmp_path / "a.pth")
    got = open_checkpoint(tmp_path / "a.pth")
    assert system.split("'")[0] in got.origin and got.recipe.arch == "resnet18"
    assert_same_features(got, small)
    weight = small.state_dict()["conv1.weight"]
    assert ("encoder_k.trunk.conv1.weight" in got.moco) == key
    assert not key or torch.equal(got.moco["encoder_k.trunk.conv1.weight"], weight + 1)
    assert ("encoder_q.head.0.weight" in got.moco) == head
    assert ("dictionary.keys" in got.moco) == queue
    for have, words in ((head, "no head"), (key, "no key encoder"), (queue, "no queue")):
        assert have != (words in got.origin), got.origin


def test_a_head_that_is_not_ours_is_left_out_and_said(small, tmp_path):
    state = split(small, "backbone.", "projector.")
    state["projector.0.weight"] = torch.ones(2048, 512)
    torch.save(state, tmp_path / "a.pth")
    got = open_checkpoint(tmp_path / "a.pth")
    assert "a head of another shape than ours" in got.origin
    assert not any(k.startswith("encoder_q.head") for k in got.moco)


def test_a_cifar_stem_is_seen(small, tmp_path):
    state = made("torchvision", small) | {"conv1.weight": torch.ones(64, 3, 3, 3)}
    torch.save(state, tmp_path / "a.pth")
    got = open_checkpoint(tmp_path / "a.pth")
    assert got.recipe.stem == "cifar" and got.recipe.size == 32 and "CIFAR stem" in got.origin


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluates(Payload):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("kind", [Payload, Evaluates])
@pytest.mark.parametrize("form", ["zipped", "old", "bare pickle"])
def test_a_payload_is_refused_and_not_run(kind, form, tmp_path):
    path, trace = tmp_path / "bad.pth", tmp_path / "it-ran"
    content = {"state_dict": {"conv1.weight": torch.ones(1)}, "epoch": kind(trace)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps({"epoch": kind(trace)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zipped")
    with pytest.raises(UserError, match="bad.pth: ") as refusal:
        open_checkpoint(path)
    assert not trace.exists() and "\n" not in str(refusal.value)
    assert "nothing was run" in str(refusal.value) or form == "bare pickle"


def test_the_payload_is_real(tmp_path):
    trace = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()


def test_settings_of_libraries_are_skipped_not_imported(small, tmp_path, monkeypatch):
    """Names of libraries that aren't installed, or must not run, do not prevent reading."""
    fake = types.ModuleType("omegaconf")

    class DictConfig:
        def __init__(self):
            self._content = {"lr": 0.3, "kind": int}

        def __setstate__(self, state):
            raise AssertionError("was run")

    class AttributeDict(dict):
        pass

    for kind in (DictConfig, AttributeDict):
        kind.__module__, kind.__qualname__ = "omegaconf", kind.__name__
        setattr(fake, kind.__name__, kind)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", fake)
        torch.save(
            made("torchvision", small) | {
                "hyper_parameters": AttributeDict(a=DictConfig(), b=argparse.Namespace(x=1)),
                "epoch": np.float64(3.0), "best": np.int64(2),
            },
            tmp_path / "a.pth",
        )
    assert_same_features(open_checkpoint(tmp_path / "a.pth"), small)


def broken(state, how):
    if how == "missing":
        del state["module.encoder_q.layer3.1.conv2.weight"]
    elif how == "misshapen":
        state["module.encoder_q.layer2.0.bn1.weight"] = torch.ones(7)
    elif how == "queue":
        state["module.queue"] = torch.ones(64, 8)
    elif how == "strange":
        state["module.encoder_q.layer3.1.conv7.weight"] = torch.ones(1)
    elif how == "stages":
        for k in [k for k in state if ".layer4.1." in k]:
            del state[k]
    elif how == "unknown":
        state = {"blocks.0.strange.weight": torch.ones(3)}
    elif how == "empty":
        state = {}
    return {"state_dict": state}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "lacks encoder_q.trunk.layer3.1.conv2.weight of a resnet18"),
        ("misshapen", "layer2.0.bn1.weight has the shape [7], in a resnet18 it is [128]"),
        ("queue", "its queue holds keys of 64 dimensions, its head gives 128"),
        ("strange", "holds encoder_q.trunk.layer3.1.conv7.weight which a resnet18 has not"),
        ("stages", "its stages have 2 2 2 1 blocks"),
        ("unknown", "no layout known here (keys: state_dict.blocks.0.strange.weight"),
        ("empty", "no layout known here (keys: none"),
    ],
)
def test_what_is_not_whole_is_one_line(how, words, small, tmp_path):
    torch.save(broken(official(small)["state_dict"], how), tmp_path / "a.pth")
    with pytest.raises(UserError) as refusal:
        open_checkpoint(tmp_path / "a.pth")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_a_truncated_file_is_one_line(share, small, tmp_path):
    for zipped in (True, False):
        path = tmp_path / "a.pth"
        torch.save(made("torchvision", small), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(UserError, match="a.pth: not a checkpoint .* cut short"):
            open_checkpoint(path)
    (tmp_path / "b.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match="cut short"):
        open_checkpoint(tmp_path / "b.safetensors")
