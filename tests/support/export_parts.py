"""Small checkpoints to export, and the Python of an export's card."""

import dataclasses
import re

import torch

from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.recipe import MOCO_V2
from fastmoco.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet18", size=64, batch=8, bn_splits=2, K=16, precision="float32"
)


def checkpoint_of(recipe, samples=96):
    """A checkpoint a step from its beginning: momentum in the optimizer, statistics in BatchNorm,
    f_k other than f_q, a queue that was written to."""
    torch.manual_seed(1)
    moco = build_moco(recipe, samples, CPU)
    optimizer = make_optimizer(moco, recipe)
    q, k = torch.randn(2, recipe.batch, 3, 32, 32)
    out = moco(q, k, torch.arange(recipe.batch), torch.randperm(recipe.batch))
    out.loss.backward()
    optimizer.step()
    moco.update(out)
    return Checkpoint(
        recipe, dict(moco.state_dict()), optimizer.state_dict(), {}, 1, "f00d", samples,
        plan=[(0, 0.0, 12)], threads=1, versions={"torch": str(torch.__version__)},
        clock={"train_seconds": 3.0},
    )


MINI = dataclasses.replace(RECIPE, arch="resnet-mini", size=32)


def paste(folder, photo, monkeypatch):
    """Runs the Python of the card, in the export's directory, as a user would."""
    photo.save(folder / "photo.jpg", quality=95)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    with monkeypatch.context() as patch, torch.no_grad():
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), names)
    return names["images"], torch.as_tensor(names["features"])
