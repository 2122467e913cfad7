"""The tensors of another system's checkpoint by their dotted names, without wrappers' prefixes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from data_tools.errors import UserError, escaped

Tensors = dict[str, torch.Tensor]

# Names under which wrapper modules hold the module that they wrap: DataParallel, DDP, EMA copies
# and DeepSpeed; torch.compile; FSDP, the old one too; activation checkpointing; Lightning Fabric;
# Opacus. They may be anywhere in a name, and several times.
WRAPPERS = frozenset({
    "module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
    "_forward_module", "_module",
})
# State of training, not of the network, and what our own exports add.
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|^fastmoco$", re.IGNORECASE)
DEEPEST = 12  # mappings in mappings: a pickle can hold one that contains itself
MOST = 200_000  # entries: a small pickle can repeat one mapping without end


def tensors_of(content: Any, path: str) -> Tensors:
    """All tensors of a file by their dotted names, without the prefixes of wrappers.

    Raises UserError if two names are the same without these prefixes, or if the file nests its
    mappings without end.
    """
    out: Tensors = {}
    named: dict[str, str] = {}  # name without wrappers -> name in the file
    entries = 0

    def walk(values: Mapping[Any, Any], prefix: str, depth: int) -> None:
        nonlocal entries
        for key, value in values.items():
            entries += 1
            if depth > DEEPEST or entries > MOST:
                raise UserError(f"{path}: nests its mappings too deep for a checkpoint")
            raw = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if not NOT_WEIGHTS.search(str(key)):
                    walk(value, raw + ".", depth + 1)
            elif isinstance(value, torch.Tensor):
                name = unwrapped(raw)
                if name in out:
                    raise UserError(
                        f"{path}: {short(named[name])} and {short(raw)} are both {short(name)} "
                        "without the prefixes of wrappers: keep one of them in the file"
                    )
                out[name], named[name] = value, raw

    if isinstance(content, Mapping):
        walk(content, "", 1)
    return out


def unwrapped(name: str) -> str:
    """module._orig_mod.encoder.module.conv1.weight -> encoder.conv1.weight."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def short(name: str) -> str:
    """A name for a message: a hostile file's may be as long as the file, or steer the terminal."""
    name = escaped(name if len(name) <= 200 else name[:100] + name[-100:])
    return name if len(name) <= 100 else f"{name[:60]} ... {name[-30:]}"
