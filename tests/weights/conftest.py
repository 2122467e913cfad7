"""Small models and checkpoints that the tests of weights share."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from fastmoco.recipe import MOCO_CIFAR
from fastmoco.weights import checkpoint as checkpoints
from fastmoco.weights.checkpoint import Checkpoint
from tests.support.export_parts import RECIPE, checkpoint_of
from tests.support.foreign_models import mlp, resnet


@pytest.fixture(scope="module")
def small():
    """A ResNet-18 with MoCo v2's head."""
    return resnet(resnet18, mlp(512))


@pytest.fixture
def small_checkpoint(tmp_path):
    """A small checkpoint with every kind of field that a run's has; also in checkpoint.pt."""
    torch.manual_seed(0)
    moco = {f"encoder_q.trunk.{i}.weight": torch.randn(3, 5) for i in range(8)}
    moco |= {"dictionary.keys": torch.randn(16, 4), "dictionary.pointer": torch.tensor(5)}
    optimizer = {"state": {i: {"momentum_buffer": torch.randn(3, 5)} for i in range(8)},
                 "param_groups": [{"lr": 0.03, "params": list(range(8)), "nesterov": False}]}
    checkpoint = Checkpoint(
        MOCO_CIFAR, moco, optimizer, {"scale": 65536.0}, 7, "abc", 96, [(0, 0.0, 18)],
        {"loss": torch.tensor(0.3), "count": 2}, 1, {"torch": "2"}, {"train_seconds": 1.5}, "",
    )
    checkpoints.save(checkpoint, tmp_path / "checkpoint.pt")
    return checkpoint


@pytest.fixture(scope="module")
def saved():
    """A small checkpoint of a whole MoCo model, one step after its beginning."""
    return checkpoint_of(RECIPE)


@pytest.fixture(scope="module")
def source(saved, tmp_path_factory) -> Path:
    """The run directory of `saved`."""
    path = tmp_path_factory.mktemp("run")
    checkpoints.save(saved, path / "checkpoint.pt")
    return path


@pytest.fixture(scope="module")
def whole():
    """The state dict of a torchvision ResNet-18 with random weights."""
    torch.manual_seed(1)
    return resnet18(num_classes=128).state_dict()


@pytest.fixture(scope="module")
def trunk(whole):
    """The same without its classifier."""
    return {k: v for k, v in whole.items() if not k.startswith("fc.")}
