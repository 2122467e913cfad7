"""Checkpoints of other systems, recognised by their keys (fastmoco.layouts) and read as ours.

What the keys tell fills the recipe: arch, stem, head, dim, K. What they don't is the recipe's that
fits them best, and that is said.

The released MoCo, and all that followed it, moves the key encoder before it encodes the keys, we
after the optimizer's step: the key encoder of their checkpoints is one update behind ours. It is
taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from data_tools.errors import UserError
from fastmoco.checkpoint import Checkpoint
from fastmoco.encoder import build_encoder
from fastmoco.layouts import (
    Layout,
    Tensors,
    head_of,
    layout_of,
    queue_of,
    tensors_of,
    trunk_of,
)
from fastmoco.recipe import MOCO_CIFAR, MOCO_V1, MOCO_V2, Recipe, from_dict

# (blocks a stage, convolutions a block) -> the arch
DEPTHS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18", ((3, 4, 6, 3), 2): "resnet34", ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101", ((3, 8, 36, 3), 3): "resnet152",
}


def from_foreign(content: Any, path: str) -> Checkpoint:
    """The content of another system's file as a checkpoint of ours.

    `moco` holds what there is: encoder_q.trunk.*, and where the file has them encoder_q.head.*,
    encoder_k.*, dictionary.keys [K, dim] and dictionary.pointer; the optimizer of an official file
    of the same parameters. `origin` says what was found and what was not. Raises UserError where
    the keys are no layout known here, or don't make one of our encoders.
    """
    found = tensors_of(content)
    inside = content.get("fastmoco") if isinstance(content, Mapping) else None
    ours = _ours_inside(inside, path)
    if ours is not None and ours.recipe.arch not in DEPTHS.values():
        # a trunk that other systems have no layout for, under its own names
        moco = {f"encoder_q.trunk.{k}": v for k, v in found.items()}
        check_encoder(ours.recipe, moco, "encoder_q.", path)
        return replace(ours, moco=moco)
    layout = layout_of(found)
    if layout is None:
        few = ", ".join(list(found)[:3]) or "none"
        raise UserError(
            f"{path}: no layout known here (keys: {few} ...); known are the official MoCo's, "
            "lightly's, solo-learn's, mmselfsup's, VISSL's, transformers' and torchvision's ResNets"
        )
    trunk = trunk_of(found, layout.trunk, layout.rename)
    arch, width = _arch(trunk, path)
    moco, lacks = _moco(found, layout, trunk, width)
    recipe = _recipe(arch, trunk, moco) if ours is None else ours.recipe
    _check_shapes(recipe, moco, path)
    optimizer = _optimizer(content, moco)
    if ours is not None:
        return replace(ours, moco=moco, optimizer=optimizer)
    epoch = content.get("epoch") if isinstance(content, Mapping) else None
    origin = _origin(layout, epoch, recipe, moco, lacks)
    return Checkpoint(recipe, moco, optimizer, {}, 0, "", 0, origin=origin)


def told_epoch(saved: Checkpoint) -> int | None:
    """The epoch that an official file tells, by the `origin` that from_foreign gave it."""
    found = re.match(r"official MoCo layout, epoch (\d+):", saved.origin)
    return None if found is None else int(found[1])


def _arch(trunk: Tensors, path: str) -> tuple[str, int]:
    """The arch whose blocks the trunk has, and its width."""
    blocks: dict[int, set[int]] = {}
    for name in trunk:
        found = re.match(r"layer(\d)\.(\d+)\.", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    depth = tuple(len(blocks.get(stage, ())) for stage in (1, 2, 3, 4))
    convolutions = 3 if "layer1.0.conv3.weight" in trunk else 2
    arch = DEPTHS.get((depth, convolutions))
    if arch is None:
        raise UserError(
            f"{path}: its stages have {' '.join(map(str, depth))} blocks of {convolutions} "
            f"convolutions: none of {', '.join(DEPTHS.values())}"
        )
    return arch, 2048 if convolutions == 3 else 512


def _moco(
    found: Tensors, layout: Layout, trunk: Tensors, width: int
) -> tuple[Tensors, list[str]]:
    """Both encoders and the queue under our names, as far as they are there, and what is not. A
    key encoder is taken whole or not at all."""
    head, why = head_of(found, layout.head, width)
    moco = {f"encoder_q.trunk.{k}": v for k, v in trunk.items()}
    moco |= {f"encoder_q.{k}": v for k, v in head.items()}
    lacks = [] if head else [why]
    keys = trunk_of(found, layout.key_trunk, layout.rename) if layout.key_trunk else {}
    if keys and head:
        moco |= {f"encoder_k.trunk.{k}": v for k, v in keys.items()}
        key_head, _ = head_of(found, layout.key_head, width)
        moco |= {f"encoder_k.{k}": v for k, v in key_head.items()}
    else:
        lacks.append("no key encoder")
    queue = queue_of(found)
    if queue is None:
        lacks.append("no queue")
    return moco | (queue or {}), lacks


def _recipe(arch: str, trunk: Tensors, moco: Tensors) -> Recipe:
    """What the tensors tell; the rest of the named recipe that has most of it."""
    cifar = trunk["conv1.weight"].shape[-1] == 3
    mlp = "encoder_q.head.2.weight" in moco
    linear = "encoder_q.head.weight" in moco
    base = MOCO_CIFAR if cifar else MOCO_V1 if linear else MOCO_V2
    last = moco.get("encoder_q.head.2.weight", moco.get("encoder_q.head.weight"))
    keys = moco.get("dictionary.keys")
    return replace(
        base, arch=arch, stem="cifar" if cifar else "imagenet", precision="float32",
        head="mlp" if mlp else "linear" if linear else base.head,
        dim=base.dim if last is None else last.shape[0],
        K=base.K if keys is None else keys.shape[0],
    )


def _check_shapes(recipe: Recipe, moco: Tensors, path: str) -> None:
    check_encoder(recipe, moco, "encoder_q.", path)
    if "encoder_k.trunk.conv1.weight" in moco:
        check_encoder(recipe, moco, "encoder_k.", path)
    keys = moco.get("dictionary.keys")
    if keys is not None and not 0 <= int(moco["dictionary.pointer"]) < max(1, len(keys)):
        raise UserError(
            f"{path}: its queue_ptr is {int(moco['dictionary.pointer'])}, in a queue of {len(keys)}"
        )
    if keys is not None and keys.shape[1] != recipe.dim:
        raise UserError(
            f"{path}: its queue holds keys of {keys.shape[1]} dimensions, its head gives "
            f"{recipe.dim}: cut short, or put together from two models"
        )


def check_encoder(recipe: Recipe, moco: Tensors, prefix: str, path: str) -> None:
    """Raises UserError, in one line, unless the tensors under a prefix are the recipe's encoder,
    whole and of the right shapes; its head may be missing as a whole."""
    with torch.device("meta"):
        wanted = build_encoder(recipe).state_dict()
    here = {k[len(prefix) :]: v for k, v in moco.items() if k.startswith(prefix)}
    if not any(k.startswith("head.") for k in here):
        wanted = {k: v for k, v in wanted.items() if not k.startswith("head.")}
    missing = [k for k in wanted if k not in here and not k.endswith("num_batches_tracked")]
    strange = [k for k in here if k not in wanted]
    for names, word in ((missing, "lacks"), (strange, "holds")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            of = f"of a {recipe.arch}" if word == "lacks" else f"which a {recipe.arch} has not"
            raise UserError(f"{path}: {word} {prefix}{names[0]}{more} {of}: not whole")
    for k, v in wanted.items():
        if k in here and not here[k].isfinite().all():
            raise UserError(f"{path}: {prefix}{k} holds numbers that are not finite")
        if k in here and here[k].shape != v.shape:
            raise UserError(
                f"{path}: {prefix}{k} has the shape {list(here[k].shape)}, in a {recipe.arch} it "
                f"is {list(v.shape)}"
            )


def _origin(
    layout: Layout, epoch: Any, recipe: Recipe, moco: Tensors, lacks: list[str]
) -> str:
    """What the file was found to be, in a line."""
    parts = [f"{layout.name} layout" + (f", epoch {epoch}" if isinstance(epoch, int) else "")]
    parts[0] += f": {recipe.arch}" + (" with a CIFAR stem" if recipe.stem == "cifar" else "")
    if any(k.startswith("encoder_q.head.") for k in moco):
        parts.append(f"{'MLP' if recipe.head == 'mlp' else 'linear'} head of {recipe.dim}")
    with_keys = "encoder_k.trunk.conv1.weight" in moco
    if with_keys:
        parts.append("both encoders")
    if "dictionary.keys" in moco:
        parts.append(f"queue of {len(moco['dictionary.keys']):,}")
    origin = ", ".join(parts + lacks) + f"; all else is taken to be {recipe.name}'s"
    return origin + "; its key encoder is one momentum update behind ours" * with_keys


def _ours_inside(inside: Any, path: str) -> Checkpoint | None:
    """What our own export to the official layout added: all that the layout has no place for."""
    if not isinstance(inside, Mapping):
        return None
    try:
        values = dict(inside)
        return Checkpoint(recipe=from_dict(values.pop("recipe")), moco={}, optimizer={}, **values)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise UserError(f"{path}: exported by another version of fastmoco") from None


def _optimizer(content: Any, moco: Tensors) -> dict[str, Any]:
    """The optimizer of an official file, of the query encoder's parameters alone: the official
    code lists the key encoder's after them."""
    saved = content.get("optimizer") if isinstance(content, Mapping) else None
    if not isinstance(saved, Mapping) or not saved.get("param_groups"):
        return {}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(k.startswith("encoder_q.") and not k.endswith(buffers) for k in moco)
    try:
        state = {i: v for i, v in saved.get("state", {}).items() if i < count}
        group = {**saved["param_groups"][0], "params": list(range(count))}
    except (TypeError, AttributeError, KeyError, IndexError):
        return {}  # not an optimizer's: what counts are the weights
    return {"state": state, "param_groups": [group]} if state else {}
