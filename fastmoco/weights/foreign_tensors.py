"""Lists the tensors of another system's checkpoint by dotted names, without wrappers' prefixes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from data_tools.errors import UserError, escaped

Tensors = dict[str, torch.Tensor]

# Names under which wrappers hold the wrapped module: DataParallel, DDP, EMA copies and DeepSpeed;
# torch.compile; FSDP, also the old one; activation checkpointing; Lightning Fabric; Opacus. They
# may be anywhere in a name, and several times.
WRAPPERS = frozenset({
    "module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module",
    "_forward_module", "_module",
})
# Keys of training state (not of the network), and the key that our own exports add.
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|^fastmoco$", re.IGNORECASE)
DEEPEST = 12  # levels of mappings: a pickle can hold a mapping that contains itself
MOST = 200_000  # entries: a small pickle can repeat one mapping endlessly


def tensors_of(content: Any, path: str) -> Tensors:
    """All tensors of a file by their dotted names, without the prefixes of wrappers.

    Raises UserError if two names become equal without these prefixes, or if the file nests its
    mappings too deep.
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
    """A name, shortened and escaped for a message: names in a hostile file may be as long as the
    file, or hold control characters of a terminal."""
    name = escaped(name if len(name) <= 200 else name[:100] + name[-100:])
    return name if len(name) <= 100 else f"{name[:60]} ... {name[-30:]}"
