"""Where other systems keep the trunk, the head and the queue in their checkpoints.

Known: the official MoCo, lightly, solo-learn, mmselfsup and mmpretrain, VISSL, transformers'
ResNets, and bare ResNets under torchvision's names (timm's are the same).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fastmoco.trunk_names import from_huggingface, from_sequential

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """How a system prefixes its tensors; a trunk's own names come after the prefix."""

    name: str
    trunk: str
    head: str = ""
    key_trunk: str = ""
    key_head: str = ""
    rename: Callable[[str], str] = from_sequential  # which leaves torchvision's names as they are


# The first that fits: those with more of their own come first.
LAYOUTS = (
    Layout("official MoCo", "encoder_q.", "encoder_q.fc.", "encoder_k.", "encoder_k.fc."),
    Layout("mmselfsup", "encoder_q.0.", "encoder_q.1.", "encoder_k.0.", "encoder_k.1."),
    Layout(
        "mmpretrain", "backbone.", "neck.", "encoder_k.module.0.", "encoder_k.module.1.",
    ),
    # of lightly's ImageNet benchmark, whose bare names are the key encoder's
    Layout(
        "lightly", "query_backbone.", "query_projection_head.", "backbone.", "projection_head.",
    ),
    Layout(
        "lightly", "backbone.", "projection_head.", "backbone_momentum.",
        "projection_head_momentum.",
    ),
    Layout("solo-learn", "backbone.", "projector.", "momentum_backbone.", "momentum_projector."),
    Layout("solo-learn", "encoder.", "projector.", "momentum_encoder.", "momentum_projector."),
    Layout("VISSL", "trunk._feature_blocks.", "heads."),
    Layout("VISSL", "_feature_blocks."),
    Layout("VISSL", "trunk.base_model._feature_blocks.", "heads."),
    Layout("official MoCo without its head", "encoder_q."),
    Layout("backbone", "backbone."),
    Layout("torchvision", ""),
    Layout("transformers", "", rename=from_huggingface),
    Layout("transformers", "resnet.", rename=from_huggingface),
)


def tensors_of(content: Any) -> Tensors:
    """All tensors of a file by their dotted names, without the wrappers that say nothing."""
    loss: Any = None
    for key in ("classy_state_dict", "base_model", "model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            loss = content.get("loss") if key == "base_model" else loss
            content = content[key]
    if isinstance(content, Mapping) and isinstance(loss, Mapping):  # where VISSL's queue lies
        content = {**content, "loss": loss}
    out: Tensors = {}

    def walk(values: Mapping, prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if isinstance(value, torch.Tensor):
                out[name.removeprefix("module.").removeprefix("_orig_mod.")] = value
            elif isinstance(value, Mapping) and key != "optimizer":
                walk(value, name + ".")

    if isinstance(content, Mapping):
        walk(content, "")
    return out


def layout_of(found: Tensors) -> Layout | None:
    """The first layout that the names fit, if any."""
    for layout in LAYOUTS:
        named = {layout.rename(k[len(layout.trunk) :]) for k in found if k.startswith(layout.trunk)}
        with_head = not layout.head or any(k.startswith(layout.head) for k in found)
        if "conv1.weight" in named and with_head:
            return layout
    return None


def trunk_of(found: Tensors, prefix: str, rename: Callable[[str], str]) -> Tensors:
    """The trunk under torchvision's names; a classifier beside it is left out."""
    out = {}
    for key, value in found.items():
        name = rename(key[len(prefix) :]) if key.startswith(prefix) else ""
        if re.match(r"(conv1|bn1|layer\d)\.", name):
            out[name] = value
    return out


def head_of(found: Tensors, prefix: str, width: int) -> tuple[Tensors, str]:
    """The projection head under our names, and why there is none: linear, or linear, ReLU, linear
    with `width` hidden units, whatever its layers are called."""
    inside = {k: v for k, v in found.items() if prefix and k.startswith(prefix)}
    weights = [k for k, v in inside.items() if k.endswith("weight") and v.dim() == 2]
    pairs = [(k, k.removesuffix("weight") + "bias") for k in weights]
    if not inside:
        return {}, "no head"
    shapes = [tuple(inside[k].shape) for k in weights]
    whole = all(bias in inside for _, bias in pairs) and len(inside) == 2 * len(pairs)
    if whole and len(pairs) == 1 and shapes[0][1] == width:
        places = ["head."]
    elif whole and len(pairs) == 2 and shapes[0] == (width, width) and shapes[1][1] == width:
        places = ["head.0.", "head.2."]
    else:
        return {}, "a head of another shape than ours, which is left out"
    out: Tensors = {}
    for place, (weight, bias) in zip(places, pairs, strict=True):
        out |= {place + "weight": inside[weight], place + "bias": inside[bias]}
    return out, ""


def queue_of(found: Tensors) -> Tensors | None:
    """A queue [dim, K] as ours, [K, dim]; solo-learn's two of a symmetric loss are not one."""
    for prefix in ("", "loss."):
        queue = found.get(prefix + "queue")
        if queue is not None and queue.dim() == 2:
            at = found.get(prefix + "queue_ptr", torch.zeros(1, dtype=torch.int64))
            pointer = at.to(queue.device, torch.int64).flatten()[:1].sum()  # of none: 0
            return {"dictionary.keys": queue.T.contiguous(), "dictionary.pointer": pointer}
    return None
