"""Encoders: torchvision's ResNets, a small one for CPUs, timm's models; stems and heads."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock

from data_tools.errors import UserError
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.timm_trunk import timm_trunk
from fastmoco.recipe import ARCHS, TIMM, Recipe

MINI_WIDTHS = (48, 96, 192)
MINI_LEAST = 2  # pixels: the stem's kernel of 4 minus a padding of 1 on both sides


class Encoder(nn.Module):
    """A trunk, from images [N, 3, S, S] to features [N, width], and a head, to [N, dim]."""

    def __init__(self, trunk: nn.Module, width: int, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.width, self.head = trunk, width, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


class MiniResNet(nn.Module):
    """A small ResNet for CPUs: a 4x4 stem of stride 2, one basic block (1512.03385) per stage.

    The stem halves the image at once. On a CPU most of a small network's time goes into its largest
    maps, and in a short run the number of images matters more than their resolution
    (bench/README.md).
    """

    def __init__(self, widths: tuple[int, ...], norm_layer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 4, 2, 1, bias=False)
        self.bn1 = norm_layer(widths[0])
        blocks, before = [], widths[0]
        for stage, width in enumerate(widths):
            stride = 1 if stage == 0 else 2
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, width, 1, stride, bias=False), norm_layer(width)
                )
            blocks.append(BasicBlock(before, width, stride, shortcut, norm_layer=norm_layer))
            before = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.blocks(x).mean(dim=(2, 3))


def build_encoder(recipe: Recipe, splits: int | None = None) -> Encoder:
    """Build the encoder of a recipe, with random weights from torch's global generator.

    splits: number of parts of its BatchNorm [default: the recipe's]. Raises UserError for an
    unknown architecture or views that are too small for it.
    """
    splits = splits or recipe.bn_splits
    norm_layer = partial(SplitBatchNorm2d, splits=splits)
    if recipe.arch == "resnet-mini":
        if min(recipe.sizes) < MINI_LEAST:
            raise UserError(
                f"--size {min(recipe.sizes)}: resnet-mini needs at least {MINI_LEAST} pixels "
                f"(--progressive and --eval-size too)"
            )
        return _with_head(MiniResNet(MINI_WIDTHS, norm_layer), MINI_WIDTHS[-1], recipe)
    if recipe.arch.startswith(TIMM):
        return _with_head(*timm_trunk(recipe.arch, splits, recipe.sizes), recipe)
    if recipe.arch not in ARCHS:
        raise UserError(f"arch {recipe.arch}: there are {', '.join(ARCHS)}")
    trunk = getattr(resnet, recipe.arch)(norm_layer=norm_layer)
    if recipe.stem == "cifar":
        trunk.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk.maxpool = nn.Identity()
    width = trunk.fc.in_features
    trunk.fc = nn.Identity()
    return _with_head(trunk, width, recipe)


def _with_head(trunk: nn.Module, width: int, recipe: Recipe) -> Encoder:
    if recipe.head == "mlp":  # 2003.04297: no BatchNorm in the head
        head: nn.Module = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, recipe.dim)
        )
    else:
        head = nn.Linear(width, recipe.dim)
    encoder = Encoder(trunk, width, head)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
