"""How other systems name the parts of a ResNet. The reference is torchvision's naming, without fc.

Every function but from_sequential maps the name of one tensor.
"""

from __future__ import annotations

import re

KINDS = {"conv": "convolution", "bn": "normalization"}
STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
SHORTCUT = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}
HUGGINGFACE = re.compile(
    r"encoder\.stages\.(\d)\.layers\.(\d+)\.(layer\.\d|shortcut)\.(convolution|normalization)\.(.+)"
)


def to_huggingface(name: str) -> str:
    """layer1.0.conv2.weight -> encoder.stages.0.layers.0.layer.1.convolution.weight, as
    transformers.ResNetModel has it."""
    module, _, leaf = name.rpartition(".")
    if module in STEM:
        return f"{STEM[module]}.{leaf}"
    stage, block, part = module.split(".", 2)
    kind, number = part[:-1], part[-1]
    place = SHORTCUT.get(part) or f"layer.{int(number) - 1}.{KINDS[kind]}"
    return f"encoder.stages.{int(stage.removeprefix('layer')) - 1}.layers.{block}.{place}.{leaf}"


def from_huggingface(name: str) -> str:
    """The inverse; another name stays."""
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
    """layer0.1.weight -> bn1.weight, of networks that put their stem into an nn.Sequential;
    another name stays."""
    for ours, theirs in (("conv1.", "layer0.0."), ("bn1.", "layer0.1.")):
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def from_sequential(children: list[int], stages: set[int]) -> dict[str, str] | None:
    """The parts of an nn.Sequential that was made of a ResNet's children, by their numbers:
    {"0": "conv1", "1": "bn1", "4": "layer1", ...} for torchvision's order, as lightly's tutorials
    build their backbones. Other numbers are as good: some leave out the max pooling.

    children: the numbers of those with tensors, ascending; stages: those that hold blocks. None if
    they are not a convolution, a BatchNorm and stages, in this order.
    """
    first = min(stages)
    stem = [number for number in children if number < first]
    if len(stem) != 2:
        return None
    parts = {str(stem[0]): "conv1", str(stem[1]): "bn1"}
    return parts | {str(number): f"layer{i + 1}" for i, number in enumerate(sorted(stages))}


# (blocks a stage, convolutions a block) -> the arch
DEPTHS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18", ((3, 4, 6, 3), 2): "resnet34", ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101", ((3, 8, 36, 3), 3): "resnet152",
}
