"""torchvision models, and the checkpoints that other systems save of them."""

import pytest
import torch
from torch import nn

from data_tools.errors import UserError
from fastmoco.weights.foreign import from_foreign

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def resnet(build, head):
    """A torchvision ResNet whose running statistics are not the initial ones."""
    torch.manual_seed(5)
    model = build()
    model.fc = head
    with torch.no_grad():
        model.train()(IMAGES)
    return model.eval()


def mlp(width):
    """MoCo v2's head on features of this width."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))


def official(model, K=8, **more):
    """The checkpoint that main_moco.py saves.

    It has DDP's prefix, both encoders, the queue [dim, K] and its pointer.
    """
    state = {}
    for encoder in ("encoder_q", "encoder_k"):
        state |= {f"module.{encoder}.{k}": v for k, v in model.state_dict().items()}
    queue = nn.functional.normalize(torch.arange(128 * K).reshape(128, K).sin(), dim=0)
    state |= {"module.queue": queue, "module.queue_ptr": torch.tensor([3])}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state} | more


def under(prefix, state):
    """A state dict with this prefix before every name."""
    return {prefix + k: v for k, v in state.items()}


def opened(content):
    """The checkpoint that fastmoco reads from a file with this content."""
    return from_foreign(content, "a.pth")


def refusal(content):
    """The one line that refuses a file with this content, without the file's name."""
    with pytest.raises(UserError) as refused:
        opened(content)
    assert "\n" not in str(refused.value)
    return str(refused.value).split("a.pth: ", 1)[1]


def sequential(trunk, numbers):
    """A ResNet's state dict as nn.Sequential names it: stem and stages under these numbers."""
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    parts = dict(zip(names, numbers, strict=True))
    return {f"{parts[k.split('.')[0]]}.{k.partition('.')[2]}": v for k, v in trunk.items()}
