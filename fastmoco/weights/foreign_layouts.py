"""Finds the trunk, the head and the queue in other systems' checkpoints.

A trunk is found by the names of its tensors, under any prefix. If a file holds several, the one
that gradients trained is taken; its moving averages (teacher, momentum, key, target, ema) are left
out. For known layouts the table also says where the head, the key encoder and the queue are: the
official MoCo, MoCo v3, lightly, solo-learn, mmselfsup and mmpretrain, and VISSL.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from data_tools.errors import UserError
from fastmoco.weights.foreign_tensors import Tensors, short
from fastmoco.weights.resnets import from_huggingface, from_layer0, from_sequential


@dataclass(frozen=True)
class Layout:
    """The prefixes of a system's tensors; after them come the trunk's own names."""

    name: str
    trunk: str
    head: str = ""
    key_trunk: str = ""
    key_head: str = ""


# The first that fits is taken, so layouts with more prefixes of their own come first.
LAYOUTS = (
    Layout("official MoCo", "encoder_q.", "encoder_q.fc.", "encoder_k.", "encoder_k.fc."),
    Layout(
        "MoCo v3", "base_encoder.", "base_encoder.fc.", "momentum_encoder.",
        "momentum_encoder.fc.",
    ),
    Layout("mmselfsup", "encoder_q.0.", "encoder_q.1.", "encoder_k.0.", "encoder_k.1."),
    # it writes encoder_k.module.0.; "module" is a wrapper's, and already removed
    Layout("mmpretrain", "backbone.", "neck.", "encoder_k.0.", "encoder_k.1."),
    # lightly's ImageNet benchmark, in which the bare names are the key encoder's
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
)
# Keys under which files hold a whole state dict. They say nothing about its layout.
CONTAINERS = frozenset({"classy_state_dict", "base_model", "model", "state_dict",
                        "model_state_dict"})
# Words in the names of networks whose weights are an exponential moving average of another's.
AVERAGES = frozenset({"teacher", "momentum", "ema", "target", "key", "k", "averaged", "avg", "swa",
                      "polyak", "slow", "shadow"})
MOST_TRUNKS = 64  # a file with more is no checkpoint of an encoder
MOST_LEFT_OUT = 5  # names in a message


@dataclass(frozen=True)
class Trunk:
    """A ResNet's trunk that was found in a file."""

    prefix: str
    naming: str
    names: dict[str, str] = field(repr=False)
    """Full name in the file -> torchvision's name."""

    def tensors(self, found: Tensors) -> Tensors:
        """Its tensors under torchvision's names."""
        return {ours: found[theirs] for theirs, ours in self.names.items()}


@dataclass(frozen=True)
class Choice:
    """The trunk that is read, and the layout around it."""

    trunk: Trunk
    layout: Layout
    """The layout with full prefixes."""
    root: str
    """The prefix that all names of the layout have in this file."""
    others: list[tuple[Trunk, str]]
    """The other trunks in the file, each with the reason why it is not read."""

    @property
    def name(self) -> str:
        """The layout's name for messages, with its prefix."""
        parts = self.root.split(".")[:-1]
        while parts and parts[0] in CONTAINERS:
            parts.pop(0)
        place = short(".".join(parts) + ".")
        return f"{self.layout.name} layout" + (f" under {place}" if parts else "")


def trunks_in(found: Tensors, path: str) -> list[Trunk]:
    """Find every ResNet trunk in a file, under any prefix.

    Raises UserError if there are more than MOST_TRUNKS.
    """
    names = sorted(found)
    stages: dict[str, set[int]] = {}
    plain: dict[str, tuple[str, Callable[[str], str]]] = {}
    for name in names:
        for naming, first, block, rename in NAMINGS:
            prefix = name.removesuffix(first)
            if prefix != name and prefix[-1:] in ("", ".") and prefix + block in found:
                plain[prefix] = naming, rename
        # the first convolution of a stage in an nn.Sequential, whose children have numbers
        if numbered := re.fullmatch(r"((?:.*\.)?)(\d{1,4})\.0\.conv1\.weight", name, re.DOTALL):
            stages.setdefault(numbered[1], set()).add(int(numbered[2]))
        if len(plain) + len(stages) > MOST_TRUNKS:
            raise UserError(f"{path}: holds more than {MOST_TRUNKS} ResNets")
    out = []
    for prefix, (naming, rename) in plain.items():
        renamed = {k: rename(k[len(prefix) :]) for k in under(names, prefix)}
        out.append(Trunk(prefix, naming, of_trunk(renamed)))
    for prefix, numbers in stages.items():
        inside = {k: k[len(prefix) :].partition(".") for k in under(names, prefix)}
        children = sorted({int(n) for n, _, _ in inside.values() if re.fullmatch(r"\d{1,4}", n)})
        parts = from_sequential(children, numbers)
        if parts is not None:
            renamed = {k: parts.get(n, "") + dot + rest for k, (n, dot, rest) in inside.items()}
            out.append(Trunk(prefix, "Sequential", of_trunk(renamed)))
    return out


# Naming, its first convolution, a convolution of its first block, and the function that renames.
NAMINGS: tuple[tuple[str, str, str, Callable[[str], str]], ...] = (
    ("torchvision", "conv1.weight", "layer1.0.conv1.weight", str),
    ("torchvision", "layer0.0.weight", "layer1.0.conv1.weight", from_layer0),
    (
        "transformers", "embedder.embedder.convolution.weight",
        "encoder.stages.0.layers.0.layer.0.convolution.weight", from_huggingface,
    ),
)


def under(names: list[str], prefix: str) -> Iterable[str]:
    """Those of some sorted names that start with a prefix."""
    at = bisect_left(names, prefix)
    while at < len(names) and names[at].startswith(prefix):
        yield names[at]
        at += 1


def of_trunk(renamed: dict[str, str]) -> dict[str, str]:
    """Only the names of a trunk: without a classifier beside it."""
    return {k: v for k, v in renamed.items() if re.match(r"(conv1|bn1|layer\d)\.", v)}


def choose(found: Tensors, path: str) -> Choice | None:
    """Choose the trunk to read; None if the file has no trunk.

    A trunk that is a moving average, by its name or its layout, is only taken if there is no other.
    Raises UserError if several trunks with different weights are left, since nothing says which one
    was trained.
    """
    trunks, names = trunks_in(found, path), sorted(found)
    layouts: dict[str, tuple[Layout, str]] = {}
    averages: set[str] = set()
    for layout in LAYOUTS:
        for trunk in trunks:
            root = trunk.prefix.removesuffix(layout.trunk)
            fits = trunk.prefix.endswith(layout.trunk) and root[-1:] in ("", ".")
            if not fits or trunk.prefix in averages | layouts.keys():
                continue
            if layout.head and not any(under(names, root + layout.head)):
                continue
            layouts[trunk.prefix] = layout, root
            if layout.key_trunk:
                averages.add(root + layout.key_trunk)
    # Trunks without a known layout, or with one that has no key encoder: their names decide.
    for trunk in trunks:
        _, root = layouts.get(trunk.prefix, (None, trunk.prefix))
        if AVERAGES & words(root):
            averages.add(trunk.prefix)
    trained = [t for t in trunks if t.prefix not in averages] or trunks
    if not trained:
        return None
    order = {prefix: number for number, prefix in enumerate(layouts)}
    trained.sort(key=lambda t: (order.get(t.prefix, len(order)), len(t.prefix)))
    taken = trained[0]
    others = [(t, "a moving average") for t in trunks if t not in trained]
    for other in trained[1:]:
        if not equal(taken.tensors(found), other.tensors(found)):
            raise UserError(
                f"{path}: holds several encoders with different weights, "
                f"{listed([shown(t.prefix) for t in trained])}, and no name says which one was "
                "trained: keep one of them in the file"
            )
        others.append((other, "the same weights"))
    if taken.prefix in layouts:
        layout, root = layouts[taken.prefix]
        prefixes = (getattr(layout, n) for n in ("trunk", "head", "key_trunk", "key_head"))
        whole = Layout(layout.name, *(root + p if p else "" for p in prefixes))
        return Choice(taken, whole, root, others)
    return Choice(taken, Layout(taken.naming, taken.prefix), taken.prefix, others)


def words(prefix: str) -> set[str]:
    """state_dict_ema.modelTeacher. -> state, dict, ema, model, teacher."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", prefix)}


def equal(a: Tensors, b: Tensors) -> bool:
    """True if both have the same names with the same values."""
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and torch.equal(a[k], b[k]) for k in a
    )


def shown(prefix: str) -> str:
    """A prefix for a message."""
    return short(prefix) or "one without a prefix"


def listed(names: list[str]) -> str:
    """The first names, and the number of the others."""
    more = len(names) - MOST_LEFT_OUT
    return ", ".join(names[:MOST_LEFT_OUT]) + (f" and {more} more" if more > 0 else "")


def left_out(found: Tensors, choice: Choice, used: set[str]) -> str:
    """List the parts of a file that were not read: other trunks, each with the reason, and all
    other tensors by the first part of their names."""
    others = [(t.prefix, why) for t, why in choice.others if used.isdisjoint(t.names)]
    parts = [f"{shown(prefix)} ({why})" for prefix, why in others]
    groups: dict[str, None] = {}
    for name, value in found.items():
        if name in used or not value.dim() or any(name.startswith(p) for p, _ in others if p):
            continue
        path = name.removeprefix(choice.root).split(".")
        while len(path) > 1 and path[0] in CONTAINERS:
            path.pop(0)
        groups[short(path[0])] = None
    return listed(parts + list(groups))


def head_of(found: Tensors, prefix: str, width: int) -> tuple[dict[str, str], str]:
    """Find the projection head: return our names -> names in the file, and the reason if there is
    none. It must be linear, or linear, ReLU, linear with `width` hidden units; its layers may have
    any names."""
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
    out: dict[str, str] = {}
    for place, (weight, bias) in zip(places, pairs, strict=True):
        out |= {place + "weight": weight, place + "bias": bias}
    return out, ""


def queue_of(found: Tensors, root: str) -> tuple[Tensors, set[str]]:
    """Find a queue [dim, K] beside the encoders, or above them, or there in a part named "loss".

    Returns it as ours, [K, dim], and the names of its tensors. solo-learn's pair of queues, for a
    symmetric loss, is not read.
    """
    above = root.split(".")[:-1]
    for depth in range(len(above), -1, -1):
        for part in ("", "loss."):
            prefix = "".join(f"{name}." for name in above[:depth]) + part
            queue = found.get(prefix + "queue")
            if queue is not None and queue.dim() == 2:
                at = found.get(prefix + "queue_ptr", torch.zeros(1, dtype=torch.int64))
                # the sum also accepts an empty pointer, as 0
                pointer = at.to(queue.device, torch.int64).flatten()[:1].sum()
                ours = {"dictionary.keys": queue.T.contiguous(), "dictionary.pointer": pointer}
                return ours, {prefix + "queue", prefix + "queue_ptr"}
    return {}, set()
