"""torchvision models and the checkpoints that the official MoCo saves of them."""

import torch
from torch import nn

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
