"""What other systems call the parts of a ResNet. The middle is torchvision's naming, without fc.

Every function maps the name of one tensor.
"""

from __future__ import annotations

import re

# nn.Sequential(*list(resnet.children())[:-1]), as lightly's examples build their backbones
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
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


def from_sequential(name: str) -> str:
    """4.0.conv1.weight -> layer1.0.conv1.weight, by the order of a torchvision ResNet's children;
    a name that begins with no number stays."""
    first, dot, rest = name.partition(".")
    return SEQUENTIAL.get(first, first) + dot + rest
