"""The ResNets of the paper: their blocks, and the names of their tensors in other systems.

The reference is torchvision's naming, without fc. Every function except from_sequential maps the
name of one tensor.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class ResNet(NamedTuple):
    """The structure of a ResNet."""

    blocks: tuple[int, ...]
    """Number of blocks in each of the four stages."""
    convolutions: int
    """Convolutions per block: 2 in basic blocks, 3 in bottleneck blocks."""

    @property
    def width(self) -> int:
        """Values per feature."""
        return 2048 if self.convolutions == 3 else 512


RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), 2), "resnet34": ResNet((3, 4, 6, 3), 2),
    "resnet50": ResNet((3, 4, 6, 3), 3), "resnet101": ResNet((3, 4, 23, 3), 3),
    "resnet152": ResNet((3, 8, 36, 3), 3),
}

KINDS = {"conv": "convolution", "bn": "normalization"}
STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
SHORTCUT = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}
HUGGINGFACE = re.compile(
    r"encoder\.stages\.(\d)\.layers\.(\d+)\.(layer\.\d|shortcut)\.(convolution|normalization)\.(.+)"
)


def to_huggingface(name: str) -> str:
    """layer1.0.conv2.weight -> encoder.stages.0.layers.0.layer.1.convolution.weight, as
    transformers.ResNetModel names it."""
    module, _, leaf = name.rpartition(".")
    if module in STEM:
        return f"{STEM[module]}.{leaf}"
    stage, block, part = module.split(".", 2)
    kind, number = part[:-1], part[-1]
    place = SHORTCUT.get(part) or f"layer.{int(number) - 1}.{KINDS[kind]}"
    return f"encoder.stages.{int(stage.removeprefix('layer')) - 1}.layers.{block}.{place}.{leaf}"


def from_huggingface(name: str) -> str:
    """The inverse of to_huggingface; other names stay."""
    for ours, theirs in STEM.items():
        if name.startswith(theirs + "."):
            return ours + name[len(theirs) :]
    found = HUGGINGFACE.fullmatch(name)
    if found is None:
        return name
    stage, block, place, kind, leaf = found.groups()
    first = kind == "convolution"
    if place == "shortcut":
        part = f"downsample.{0 if first else 1}"
    else:
        part = f"{'conv' if first else 'bn'}{int(place[-1]) + 1}"
    return f"layer{int(stage) + 1}.{block}.{part}.{leaf}"


def to_detectron2(name: str) -> str:
    """layer1.0.bn2.weight -> res2.0.conv2.norm.weight, as the official
    convert-pretrain-to-detectron2.py renames."""
    if not name.startswith("layer"):
        name = "stem." + name
    name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def from_layer0(name: str) -> str:
    """layer0.1.weight -> bn1.weight, for networks that have their stem in an nn.Sequential; other
    names stay."""
    for ours, theirs in (("conv1.", "layer0.0."), ("bn1.", "layer0.1.")):
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def from_sequential(children: list[int], stages: set[int]) -> dict[str, str] | None:
    """Name the parts of an nn.Sequential that was built from a ResNet's children, as lightly's
    tutorials build their backbones: {"0": "conv1", "1": "bn1", "4": "layer1", ...} in torchvision's
    order. Other numbers are accepted too, since some leave out the max pooling.

    children: numbers of the children that have tensors, ascending. stages: numbers of those that
    hold blocks. None if they are not a convolution, a BatchNorm and stages, in this order.
    """
    first = min(stages)
    stem = [number for number in children if number < first]
    if len(stem) != 2:
        return None
    parts = {str(stem[0]): "conv1", str(stem[1]): "bn1"}
    return parts | {str(number): f"layer{i + 1}" for i, number in enumerate(sorted(stages))}

