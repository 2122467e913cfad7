"""Reads checkpoints of other systems, recognised by the names of their tensors (foreign_layouts).

The tensors determine arch, stem, head, dim and K of the recipe. All other fields come from our
named recipe that fits best, and `origin` says so.

The released MoCo, and all systems that follow it, update the key encoder before they encode the
keys; fastmoco updates it after the optimizer's step. So the key encoder in their checkpoints is one
update behind ours. It is read unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from data_tools.errors import UserError
from fastmoco.model.encoder import build_encoder
from fastmoco.recipe import MOCO_CIFAR, MOCO_V1, MOCO_V2, Recipe, from_dict
from fastmoco.weights.checkpoint import Checkpoint, check_types
from fastmoco.weights.foreign_layouts import Choice, Trunk, choose, head_of, left_out, queue_of
from fastmoco.weights.foreign_tensors import Tensors, short, tensors_of
from fastmoco.weights.other_trunks import other_resnet, what_it_is
from fastmoco.weights.resnets import RESNETS, ResNet

ONLY = f"of other systems' encoders only {', '.join(RESNETS)} are read"


def from_foreign(content: Any, path: str) -> Checkpoint:
    """Make a checkpoint of ours from the content of another system's file.

    `moco` holds encoder_q.trunk.* and, if the file has them, encoder_q.head.*, encoder_k.*,
    dictionary.keys [K, dim] and dictionary.pointer. The optimizer is only taken from official
    files. `origin` says in one line which encoder was read and which tensors were left out.

    Raises UserError, which names the network in the file, if it is none of our encoders, or if the
    file holds several encoders and no name says which one was trained.
    """
    inside = content.get("fastmoco") if isinstance(content, Mapping) else None
    ours = _ours_inside(inside, path)
    if ours is not None and ours.recipe.arch not in RESNETS:
        # an export of ours whose trunk no other system has: it is under its own names
        named = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
        moco = {f"encoder_q.trunk.{k}": v for k, v in named.items()}
        check_encoder(ours.recipe, moco, "encoder_q.", path)
        return replace(ours, moco=moco)
    found = tensors_of(content, path)
    choice = choose(found, path)
    if choice is None:
        raise _unknown(found, path)
    trunk = choice.trunk.tensors(found)
    prefix = choice.trunk.prefix
    beside = {k[len(prefix) :] for k in found if k.startswith(prefix)}
    if (other := other_resnet(trunk, beside)) is not None:
        raise UserError(f"{path}: {other}; {ONLY}")
    channels = trunk["conv1.weight"].shape[1]
    if channels != 3:
        word = "channel" if channels == 1 else "channels"
        raise UserError(f"{path}: its first convolution takes images of {channels} {word}; "
                        "fastmoco's images have 3 (RGB)")
    arch, width = _arch(trunk, path)
    moco, lacks, used = _moco(found, choice, trunk, width)
    recipe = _recipe(arch, trunk, moco) if ours is None else ours.recipe
    _check_shapes(recipe, moco, path)
    optimizer = _optimizer(content, moco)
    if ours is not None:
        return replace(ours, moco=moco, optimizer=optimizer)
    epoch = content.get("epoch")
    epoch = epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None
    origin = _origin(choice.name, epoch, recipe, moco, lacks, left_out(found, choice, used))
    official = choice.layout.name == "official MoCo"
    return Checkpoint(
        recipe, moco, optimizer, {}, 0, "", 0, origin=origin, epoch=epoch if official else None,
    )


def _unknown(found: Tensors, path: str) -> UserError:
    """The error for a file without a trunk that we can read."""
    kind = what_it_is(found)
    if kind is not None:
        return UserError(f"{path}: {kind}; {ONLY}")
    few = ", ".join(short(name) for name in list(found)[:3]) or "none"
    return UserError(
        f"{path}: no layout known here (keys: {few} ...); known are ResNets under torchvision's or "
        "transformers' names, with any prefix"
    )


def _arch(trunk: Tensors, path: str) -> tuple[str, int]:
    """Return the arch that has the trunk's blocks, and the width of its features."""
    blocks: dict[int, set[int]] = {}
    for name in trunk:
        found = re.match(r"layer(\d)\.(\d{1,4})\.", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    depth = tuple(len(blocks.get(stage, ())) for stage in (1, 2, 3, 4))
    convolutions = 3 if "layer1.0.conv3.weight" in trunk else 2
    structure = ResNet(depth, convolutions)
    arch = next((name for name, resnet in RESNETS.items() if resnet == structure), None)
    if arch is None:
        raise UserError(
            f"{path}: its stages have {' '.join(map(str, depth))} blocks of {convolutions} "
            f"convolutions: none of {', '.join(RESNETS)}"
        )
    return arch, structure.width


def _moco(
    found: Tensors, choice: Choice, trunk: Tensors, width: int
) -> tuple[Tensors, list[str], set[str]]:
    """Rename the tensors of both encoders and the queue, as far as the file has them.

    Returns the renamed tensors, a phrase for each missing part, and the names in the file of the
    tensors that were taken. A key encoder is taken completely or not at all.
    """
    layout = choice.layout
    head, why = head_of(found, layout.head, width)
    used = set(choice.trunk.names) | set(head.values())
    moco = {f"encoder_q.trunk.{k}": v for k, v in trunk.items()}
    moco |= {f"encoder_q.{k}": found[v] for k, v in head.items()}
    lacks = [] if head else [why]
    keys = _key_trunk(choice)
    if keys is not None and head:
        key_head, _ = head_of(found, layout.key_head, width)
        moco |= {f"encoder_k.trunk.{k}": v for k, v in keys.tensors(found).items()}
        moco |= {f"encoder_k.{k}": found[v] for k, v in key_head.items()}
        used |= set(keys.names) | set(key_head.values())
    else:
        lacks.append("no key encoder")
    queue, of_queue = queue_of(found, choice.root)
    if not queue:
        lacks.append("no queue")
    return moco | queue, lacks, used | of_queue


def _key_trunk(choice: Choice) -> Trunk | None:
    """The trunk of the key encoder, if both the layout and the file have one."""
    prefix = choice.layout.key_trunk
    return next((t for t, _ in choice.others if prefix and t.prefix == prefix), None)


def _recipe(arch: str, trunk: Tensors, moco: Tensors) -> Recipe:
    """The recipe that the tensors determine; other fields come from the named recipe that fits
    best."""
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
    if keys is not None:
        _check_numbers(keys, "its queue", path)
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
    """Raise UserError, in one line, unless the tensors under a prefix are the recipe's encoder,
    complete and in the right shapes. The head may be missing completely."""
    with torch.device("meta"):  # names and shapes only, without memory
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
            raise UserError(f"{path}: {word} {prefix}{short(names[0])}{more} {of}: not complete")
    for k, v in wanted.items():
        if k in here and not k.endswith("num_batches_tracked"):
            _check_numbers(here[k], f"{prefix}{k}", path)
        if k in here and k.endswith("running_var") and bool((here[k] < 0).any()):
            raise UserError(f"{path}: {prefix}{k} holds negative numbers; variances have none")
        if k in here and here[k].shape != v.shape:
            raise UserError(
                f"{path}: {prefix}{k} has the shape {list(here[k].shape)}, in a {recipe.arch} it "
                f"is {list(v.shape)}"
            )


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _check_numbers(tensor: torch.Tensor, name: str, path: str) -> None:
    """Raise UserError unless a tensor holds plain, finite floats. A file may also hold quantised,
    sparse or meta tensors, for which torch has no isfinite()."""
    plain = tensor.layout == torch.strided and tensor.device.type != "meta"
    if not plain or tensor.is_quantized or tensor.dtype not in FLOATS:
        kind = str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
        raise UserError(f"{path}: {name} is a tensor of {kind}; weights are plain floats")
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name} holds numbers that are not finite")


def _origin(
    layout: str, epoch: int | None, recipe: Recipe, moco: Tensors, lacks: list[str], left: str
) -> str:
    """One line on the file: layout, epoch, the parts that were read, missing ones and left out
    ones."""
    parts = [layout + ("" if epoch is None else f", epoch {epoch}")]
    parts[0] += f": {recipe.arch}" + (" with a CIFAR stem" if recipe.stem == "cifar" else "")
    if any(k.startswith("encoder_q.head.") for k in moco):
        parts.append(f"{'MLP' if recipe.head == 'mlp' else 'linear'} head of {recipe.dim}")
    with_keys = "encoder_k.trunk.conv1.weight" in moco
    if with_keys:
        parts.append("both encoders")
    if "dictionary.keys" in moco:
        parts.append(f"queue of {len(moco['dictionary.keys']):,}")
    origin = ", ".join(parts + lacks) + (f"; left out: {left}" if left else "")
    origin += f"; all else is taken to be {recipe.name}'s"
    if with_keys:
        origin += "; its key encoder is one momentum update behind ours"
    return origin


def _ours_inside(inside: Any, path: str) -> Checkpoint | None:
    """The fields of a checkpoint that our own exports add beside the tensors; None in files of
    others."""
    if not isinstance(inside, Mapping):
        return None
    try:
        values = dict(inside)
        recipe = from_dict(values.pop("recipe"))
        return check_types(Checkpoint(recipe=recipe, moco={}, optimizer={}, **values), path)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise UserError(f"{path}: exported by another version of fastmoco") from None


def _optimizer(content: Any, moco: Tensors) -> dict[str, Any]:
    """The optimizer state of an official file, cut to the query encoder's parameters: the official
    code lists the key encoder's parameters after them."""
    saved = content.get("optimizer") if isinstance(content, Mapping) else None
    if not isinstance(saved, Mapping) or not saved.get("param_groups"):
        return {}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(k.startswith("encoder_q.") and not k.endswith(buffers) for k in moco)
    try:
        state = {i: v for i, v in saved.get("state", {}).items() if i < count}
        group = {**saved["param_groups"][0], "params": list(range(count))}
    except (TypeError, AttributeError, KeyError, IndexError):
        return {}  # not an optimizer's state: the weights are still useful
    return {"state": state, "param_groups": [group]} if state else {}
