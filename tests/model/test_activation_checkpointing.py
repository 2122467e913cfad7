"""Activation checkpointing: the same step to the bit, nothing counted twice, less memory kept."""

import copy
import dataclasses
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from fastmoco.loading.batch import Prepared
from fastmoco.model.activation_checkpointing import Recomputed, recompute_blocks
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import MOCO_V2
from fastmoco.system.device import autocast, grad_scaler
from fastmoco.training.step import training_step
from tests.support.training_runs import assert_equal

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", batch=12, bn_splits=3, K=48, precision="float32", lr=0.1
)


def two_steps(recipe, recomputed, pieces=1):
    torch.manual_seed(0)
    moco = build_moco(recipe, 50, CPU, pieces=pieces)
    if recomputed:
        recompute_blocks(moco)
    optimizer, scaler = make_optimizer(moco, recipe), grad_scaler(CPU, recipe.precision)
    torch.manual_seed(1)
    for _ in range(2):
        images = torch.randn(2, recipe.batch, 3, 16, 16)
        batch = Prepared(images, torch.arange(recipe.batch), torch.randperm(recipe.batch), None)
        training_step(moco, optimizer, scaler, batch, recipe, pieces, watch=True)
    return moco.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"bn_splits": 1}, {"precision": "bfloat16"}, {"mechanism": "end-to-end"},
        {"arch": "resnet18"}, {"split": "keys", "symmetric": True},
    ],
    ids=str,
)  # fmt: skip
def test_the_same_step_to_the_bit(changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    plain, recomputed = (two_steps(recipe, on) for on in (False, True))
    tracked = [v for k, v in plain[0].items() if "num_batches_tracked" in k]
    assert tracked and all(int(v) > 0 for v in tracked)
    assert_equal(plain, recomputed)


def test_the_same_with_accumulated_pieces():
    recipe = dataclasses.replace(RECIPE, bn_splits=2)
    assert_equal(two_steps(recipe, False, 2), two_steps(recipe, True, 2))


def test_compiled_it_is_one_graph_and_counts_every_batch_once():
    norm = partial(SplitBatchNorm2d, splits=2)
    torch.manual_seed(0)
    stage = Recomputed(BasicBlock(4, 4, norm_layer=norm), BasicBlock(4, 4, norm_layer=norm))
    plain = nn.Sequential(*copy.deepcopy(stage))
    compiled = torch.compile(stage, backend="aot_eager", fullgraph=True, dynamic=False)
    x = torch.randn(8, 4, 5, 5)
    for _ in range(2):
        for form in (compiled, plain):
            form(x).square().sum().backward()
    for (name, ours), theirs in zip(
        stage.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert int(stage[0].bn1.num_batches_tracked) == 2
    for ours, theirs in zip(stage.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def kept(recomputed, precision="float32"):
    """Bytes that one forward pass keeps for its backward pass, parameters aside."""
    recipe = dataclasses.replace(RECIPE, precision=precision)
    torch.manual_seed(0)
    moco = build_moco(recipe, 50, CPU)
    if recomputed:
        recompute_blocks(moco)
    own, seen = {p.untyped_storage().data_ptr() for p in moco.parameters()}, {}

    def pack(t):
        if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    images = torch.randn(recipe.batch, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast(CPU, precision):
        out = moco.encoder_q(images)
    assert out.requires_grad
    return sum(seen.values())


def test_it_keeps_less_than_half():
    assert kept(True) < 0.5 * kept(False)
