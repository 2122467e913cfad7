"""Trunks from timm's model zoo: --arch timm:NAME. timm is an optional library.

The model's own pooling gives the features (num_classes=0). Its BatchNorms are split like ours.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

import torch
from torch import nn

from data_tools.errors import UserError
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.recipe import TIMM, Recipe


class SplitBatchNormAct2d(SplitBatchNorm2d):
    """SplitBatchNorm2d with the activation that timm folds into its BatchNormAct2d."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def timm_trunk(arch: str, splits: int, sizes: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Return the trunk of `timm:NAME`, with random weights from torch's global generator, and the
    width of its features.

    sizes: sides in pixels of all views that it must take. Raises UserError if timm is not
    installed, has no such model, or the model does not take these views or gives more than one
    vector per image.
    """
    trunk, _ = create(arch, sizes)
    if splits > 1:
        split_batchnorm(trunk, splits)
    return trunk, _width(trunk, arch, sizes)


def create(arch: str, sizes: tuple[int, ...]) -> tuple[nn.Module, dict[str, Any]]:
    """Build timm's model, randomly initialised; return it and the options that it was built with.

    Vision transformers are built for one side of views; some can take several sides. Other models
    have no such argument and raise TypeError, so the options are tried in turn.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f"--arch {arch} needs timm: pip install 'fastmoco[timm]'") from None
    name = arch.removeprefix(TIMM)
    known = timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise UserError(f"--arch {arch}: timm {timm.__version__} has no such model{hint}")
    one_side: dict[str, Any] = {"img_size": max(sizes)}
    attempts: list[dict[str, Any]] = [one_side, {}]
    if len(sizes) > 1:
        attempts.insert(0, one_side | {"dynamic_img_size": True})
    for options in attempts:
        before = torch.get_rng_state()
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options), options
        except TypeError:
            torch.set_rng_state(before)  # a failed attempt must not change the random weights
            if not options:
                raise
    raise AssertionError


def split_batchnorm(module: nn.Module, splits: int) -> None:
    """Replace every BatchNorm2d in a module by a split one, in place, under the same name."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d) or isinstance(child, SplitBatchNorm2d):
            split_batchnorm(child, splits)
            continue
        folded = hasattr(child, "act")
        new = (SplitBatchNormAct2d if folded else SplitBatchNorm2d)(child.num_features, splits)
        new.eps, new.momentum = child.eps, child.momentum
        new.load_state_dict(child.state_dict())
        if folded:
            new.drop, new.act = child.drop, child.act
        setattr(module, name, new)


def _width(trunk: nn.Module, arch: str, sizes: tuple[int, ...]) -> int:
    """Return the width of the features, by a pass on the meta device, which computes nothing."""
    ghost = copy.deepcopy(trunk).to("meta").eval()
    shape: torch.Size | None = None
    for size in sizes:
        try:
            shape = ghost(torch.empty(2, 3, size, size, device="meta")).shape
        except (RuntimeError, AssertionError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--arch {arch}: does not take views of {size} pixels ({why})"
            ) from None
    if shape is None or len(shape) != 2:
        raise UserError(f"--arch {arch}: gives no single vector an image, but {list(shape or ())}")
    return shape[1]


def notes(recipe: Recipe, trunk: nn.Module) -> list[str]:
    """Return a line on each setting of the recipe that has no effect on a timm trunk."""
    if not recipe.arch.startswith(TIMM):
        return []
    lines = []
    if recipe.bn_splits > 1 and not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules()):
        lines.append(f"{recipe.arch} has no BatchNorm that could leak: --bn-splits does nothing")
    if recipe.stem == "cifar":
        lines.append(f"{recipe.arch} keeps its own first layers: --stem cifar does nothing")
    return lines
