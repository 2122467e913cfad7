"""Prefixes of wrappers, and which encoder is taken from files of many systems, tensor by tensor."""

import pytest
import torch
from torch import nn

from fastmoco.cli import main
from fastmoco.weights.resnets import to_huggingface
from tests.support.foreign_models import opened, refusal, sequential, under


def other(state):
    """Another network with the same names."""
    return {k: v + 1 for k, v in state.items()}


def assert_trunk(got, trunk, encoder="encoder_q"):
    prefix = f"{encoder}.trunk."
    held = {k.removeprefix(prefix): v for k, v in got.moco.items() if k.startswith(prefix)}
    assert held.keys() == trunk.keys()
    assert all(torch.equal(held[k], v) for k, v in trunk.items())


def wrapped_inside(state):
    """Names as FSDP and activation checkpointing write them when they wrap single blocks."""
    out = {}
    for k, v in state.items():
        k = k.replace("layer1.", "layer1._fsdp_wrapped_module.")
        k = k.replace(".0.", ".0._checkpoint_wrapped_module._orig_mod.", 1)
        out["_fsdp_wrapped_module." + k] = v
    return out


@pytest.mark.parametrize("prefix", [
    "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "module.module.",
    "_fsdp_wrapped_module.", "_fsdp_wrapped_module._fpw_module.", "_forward_module.model.",
    "model._orig_mod.", "module._checkpoint_wrapped_module.module._orig_mod.",
])
@pytest.mark.parametrize("container", ["", "state_dict", "model"])
def test_wrappers_prefixes_are_stripped(prefix, container, whole, trunk):
    state = under(prefix, whole)
    got = opened({container: state} if container else state)
    assert_trunk(got, trunk)
    assert "left out: fc" in got.origin


def test_wrappers_inside_a_name_are_stripped(trunk):
    assert_trunk(opened(wrapped_inside(trunk)), trunk)
    state = {k.replace("backbone.", "module.backbone.module.", 1): v
             for k, v in under("backbone.", trunk).items()}
    assert_trunk(opened({"state_dict": state}), trunk)


def test_two_names_that_become_one_are_refused(trunk):
    text = refusal(trunk | {"module.conv1.weight": trunk["conv1.weight"]})
    assert text.startswith("conv1.weight and module.conv1.weight are both conv1.weight without")


def layer0(trunk):
    return {k.replace("conv1", "layer0.0") if k.startswith("conv1") else
            k.replace("bn1", "layer0.1") if k.startswith("bn1") else k: v for k, v in trunk.items()}


ALONE = {
    "Lightning": lambda t: {"state_dict": under("model.", t), "epoch": 3, "global_step": 10},
    "torchgeo": lambda t: {"state_dict": under("backbone.", t)},
    "deep prefix": lambda t: {"state_dict": under("net.task.image_encoder.", t)},
    "DETR": lambda t: {"model": under("backbone.0.body.", t) | {"class_embed.bias": torch.ones(9)}},
    "SimSiam": lambda t: {"state_dict": under("module.encoder.", t)
                          | {"module.predictor.0.weight": torch.ones(512, 2048)}},
    "SwAV": lambda t: under("module.", t) | {"module.prototypes.weight": torch.ones(9, 128)},
    "Barlow Twins": lambda t: {"model": under("module.backbone.", t)
                               | {"module.projector.0.weight": torch.ones(8192, 512)}},
    "torchvision's children": lambda t: under("backbone.", sequential(t, (0, 1, 4, 5, 6, 7))),
    "no max pooling": lambda t: under("module.f.", sequential(t, (0, 1, 3, 4, 5, 6))),
    "another module first": lambda t: sequential(t, (1, 2, 5, 6, 7, 8)),
    "stages alone": lambda t: sequential(t, range(6)),
    "fastai": lambda t: {"model": under("0.", sequential(t, (0, 1, 4, 5, 6, 7)))},
    "stem in layer0": lambda t: {"state_dict": under("module.", layer0(t))},
    "transformers under a prefix": lambda t: under(
        "model.encoder.", {to_huggingface(k): v for k, v in t.items()}),
    "a moving average alone": lambda t: {"teacher": under("backbone.", t)},
}


@pytest.mark.parametrize("system", ALONE)
def test_a_trunk_is_found_under_any_prefix(system, trunk):
    got = opened(ALONE[system](trunk))
    assert_trunk(got, trunk)
    assert got.recipe.arch == "resnet18"


PAIRS = {
    "DINO": (lambda a, b: {"student": under("module.backbone.", a),
                           "teacher": under("backbone.", b)},
             "left out: teacher.backbone. (a moving average)"),
    "stable-pretraining": (
        lambda a, b: {"state_dict": {**under("backbone.teacher.", b),
                                     **under("backbone.student.", a),
                                     "projector.student.0.weight": torch.ones(2048, 512)}},
        "left out: state_dict.backbone.teacher. (a moving average), projector"),
    "timm": (lambda a, b: {"arch": "resnet18", "state_dict_ema": b, "state_dict": a},
             "left out: state_dict_ema. (a moving average)"),
    "BYOL": (lambda a, b: {"online_network": a, "target_network": b}, "target_network. (a moving"),
    "lucidrains' BYOL": (lambda a, b: {**under("target_encoder.net.", b), **under("net.", a),
                                       **under("online_encoder.net.", a)},
                         "online_encoder.net. (the same weights)"),
    "camel case": (lambda a, b: {"model": a, "modelEMA": b}, "modelEMA. (a moving average)"),
    "VICReg with momentum": (
        lambda a, b: {"state_dict": under("momentum_backbone.", b) | under("backbone.", a)},
        "state_dict.momentum_backbone. (a moving average)"),
    "solo-learn": (
        lambda a, b: {"state_dict": under("momentum_backbone.", b) | under("backbone.", a)
                      | {"projector.0.weight": torch.ones(9, 512)}},
        "state_dict.momentum_backbone. (a moving average), projector"),
}


@pytest.mark.parametrize("system", PAIRS)
def test_the_trained_encoder_is_taken_and_the_average_left_out(system, trunk):
    build, said = PAIRS[system]
    got = opened(build(trunk, other(trunk)))
    assert_trunk(got, trunk)
    assert said in got.origin and not any(k.startswith("encoder_k.") for k in got.moco)


def test_moco_v3(trunk):
    """Its head ends in a BatchNorm, so it is not one of ours."""
    head = {"fc.0.weight": torch.ones(4096, 512), "fc.1.weight": torch.ones(4096),
            "fc.3.weight": torch.ones(256, 4096)}
    state = under("module.base_encoder.", trunk | head)
    state |= under("module.momentum_encoder.", other(trunk | head))
    state["module.predictor.0.weight"] = torch.ones(4096, 256)
    got = opened({"epoch": 100, "arch": "resnet18", "state_dict": state})
    assert_trunk(got, trunk)
    assert got.origin.startswith("MoCo v3 layout, epoch 100: resnet18, a head of another shape")
    left = "left out: state_dict.momentum_encoder. (a moving average), base_encoder, predictor;"
    assert left in got.origin


def test_moco_v3_with_a_head_of_ours(whole, trunk):
    state = under("module.base_encoder.", whole)
    state |= under("module.momentum_encoder.", other(whole))
    got = opened({"state_dict": state})
    assert_trunk(got, trunk)
    assert_trunk(got, other(trunk), "encoder_k")
    assert torch.equal(got.moco["encoder_q.head.weight"], whole["fc.weight"])
    assert torch.equal(got.moco["encoder_k.head.bias"], whole["fc.bias"] + 1)
    assert "both encoders" in got.origin and "left out" not in got.origin


@pytest.mark.parametrize("names", [("rgb_encoder", "sar_encoder"), ("best", "last"),
                                   ("model", "state_dict"), ("teacher", "ema")])
def test_several_trained_encoders_are_refused(names, trunk):
    a, b = sorted(names, key=len)
    text = refusal({a: trunk, b: other(trunk)})
    assert text.startswith(f"holds several encoders with different weights, {a}., {b}., and no ")
    assert_trunk(opened({a: trunk, b: dict(trunk)}), trunk)


@pytest.mark.parametrize(("change", "text"), [
    (lambda w: w.to(torch.int8), "is a tensor of int8"),
    (lambda w: w.to(torch.float8_e4m3fn), "is a tensor of float8"),
    (lambda w: w.to_sparse(), "is a tensor of sparse_coo"),
    (lambda w: w.to(torch.complex64), "is a tensor of complex64"),
    (lambda w: w * torch.inf, "holds numbers that are not finite"),
])
@pytest.mark.parametrize("name", ["layer2.0.conv1.weight", "bn1.running_var"])
def test_weights_that_are_no_plain_floats_are_one_line(change, text, name, trunk):
    assert f"encoder_q.trunk.{name} {text}" in refusal(trunk | {name: change(trunk[name])})


@pytest.mark.parametrize("name", ["bn1.running_var", "layer3.1.bn2.running_var"])
def test_negative_variances_are_refused(name, trunk):
    few = trunk[name].clone()
    few[3] = -1
    assert f"encoder_q.trunk.{name} holds negative numbers" in refusal(trunk | {name: few})


EVIL = "\x1b[2J\x1b[31mfine\n\u202eextra"


def test_names_that_steer_a_terminal_are_escaped(trunk, tmp_path, capsys):
    """Escaped in the origin, which commands print and the model card contains, and in errors."""
    state = trunk | {EVIL + ".weight": torch.ones(2)}
    assert opened(state).origin.isprintable() and "x1b[31mfine" in opened(state).origin
    assert refusal({EVIL: torch.ones(2)}).isprintable()
    assert refusal(trunk | {f"layer1.0.{EVIL}": torch.ones(2)}).isprintable()
    torch.save(state, tmp_path / "evil.pth")
    torch.save({EVIL: torch.ones(2)}, tmp_path / "none.pth")
    assert main(["export", str(tmp_path / "evil.pth"), "--to", "torchvision"]) == 0
    assert main(["export", str(tmp_path / "none.pth"), "--to", "torchvision"]) == 2
    card = next(tmp_path.glob("export-*/README.md")).read_text()
    said = "".join(capsys.readouterr())
    for text in (card, said):
        assert all(line.isprintable() for line in text.split("\n")) and "x1b[31mfine" in text


def test_mappings_without_an_end_are_one_line(trunk):
    loop = {"state_dict": trunk}
    loop["again"] = loop
    assert "too deep" in refusal(loop)
    wide = {"x": torch.ones(1)}
    for _ in range(11):
        wide = {str(i): wide for i in range(20)}
    assert "too deep" in refusal(wide)


def test_many_trunks_are_one_line():
    block = {"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}
    state = {f"{i}.{k}": v for i in range(100) for k, v in block.items()}
    assert "more than 64 ResNets" in refusal(state)


def test_a_sequential_of_other_modules_is_no_trunk():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8))
    assert "no layout known here (keys: 0.weight" in refusal(model.state_dict())
