"""Recognises networks that fastmoco cannot read by their tensors, to name them in the error.

The patterns follow the names in torchvision, timm, transformers, CLIP and detectron2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from fastmoco.weights.foreign_tensors import Tensors

# Kind, and patterns of which each must match one of the names. The first row that fits is taken.
NETWORKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("FSDP's flattened parameters: save a full state dict", (r"_?flat_param(_\d+)?$",)),
    (
        "a ResNet with a stem of several convolutions (ResNet-C or ResNet-D)",
        (r"(^|\.)(conv1|stem)\.0\.weight", r"(^|\.)layer1\.0\.conv1\."),
    ),
    ("a ResNet under detectron2's names", (r"res2\.0\.conv1\.weight",)),
    ("a Swin transformer", (r"relative_position_bias_table|attn\.logit_scale",)),
    ("a ResNet of CLIP's, with attention pooling", (r"stages\.0\.0\.conv1_1x1", r"pos_embed$")),
    ("an MLP-Mixer", (r"mlp_tokens\.fc1|token_mix",)),
    (
        "a vision transformer",
        (r"(^|\.)(cls_token|class_token|class_embedding|pos_embed)$|\.attn\.qkv\.|"
         r"encoder_layer_\d+\.self_attention|resblocks\.\d+\.attn|"
         r"layer\.\d+\.attention\.attention",),
    ),
    ("a DenseNet", (r"denseblock1\.denselayer1",)),
    ("a RegNet", (r"s1\.b1\.conv1|trunk_output\.block1",)),
    ("an Inception network", (r"Conv2d_1a_3x3|inception3a|Mixed_5b|Mixed_3a",)),
    (
        "a ConvNeXt",
        (r"downsample_layers\.0\.0|stages\.\d+\.blocks\.\d+\.conv_dw|"
         r"stages\.\d+\.\d+\.dwconv|features\.\d+\.\d+\.layer_scale",),
    ),
    ("a pre-activation ResNet (ResNetV2 or BiT)", (r"stages\.0\.blocks\.0\.norm1",)),
    (
        "an EfficientNet or MobileNet",
        (r"conv_stem\.weight|blocks\.0\.0\.conv_dw|features\.\d+\.\d+\.block\.0|"
         r"features\.\d+\.conv\.0",),
    ),
    ("a VGG, an AlexNet or a network like them", (r"(^|\.)features\.0\.(0\.)?weight",)),
)
FEW = 5_000  # names that are examined: a hostile file may have many more


def what_it_is(names: Iterable[str]) -> str | None:
    """The kind of network that has tensors with these names; None if it is unknown."""
    names = list(islice(names, FEW))
    for kind, patterns in NETWORKS:
        if all(any(re.search(pattern, name[-300:]) for name in names) for pattern in patterns):
            return kind
    return None


def other_resnet(trunk: Tensors, beside: set[str]) -> str | None:
    """Describe a trunk that has torchvision's names but is not one of the paper's ResNets; None if
    it is, or if only the check of shapes can find the difference.

    beside: all names under the same prefix.
    """
    if {"conv2.weight", "conv3.weight"} & beside:
        return "a ResNet with a stem of three convolutions, such as CLIP's"
    weights = {k: tuple(v.shape) for k, v in trunk.items() if v.dim() == 4}
    stem, block = weights.get("conv1.weight"), weights.get("layer1.0.conv2.weight")
    first = weights.get("layer1.0.conv1.weight")
    if stem is None or block is None or first is None:
        return None
    deep = "layer1.0.conv3.weight" in weights
    if deep and block[1] and block[0] != block[1]:
        return f"a ResNeXt, with convolutions of {block[0] // block[1]} groups"
    if any(re.match(r"layer\d\.\d+\.(se|se_module)\.", k) for k in trunk):
        return "a ResNet with squeeze-and-excitation blocks"
    if any(re.match(r"layer\d\.0\.downsample\.1\.weight", k) for k in weights):
        return "a ResNet whose shortcuts pool before they convolve (ResNet-D)"
    if stem[0] != 64 or block[0] != 64:
        width = f"{stem[0]} channels in its stem and {block[0]} in its first block, not 64"
        return f"a ResNet of another width ({width})"
    if "bn1.running_mean" not in trunk:
        return "a ResNet without BatchNorm's running statistics (GroupNorm, say)"
    return None
