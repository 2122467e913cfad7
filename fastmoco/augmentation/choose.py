"""Chooses the form of the augmentation for a device and the options of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from fastmoco.augmentation.cpu import augment_numba
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.run_options import RunOptions
from fastmoco.system.compiler import lacks_compiler


def augmentation(
    options: RunOptions, device: torch.device
) -> tuple[Callable[..., torch.Tensor], str, str | None]:
    """Return the augmentation for a device, its name, and a note if it cannot be compiled.

    On a GPU it is compiled, since eagerly it takes 600 kernel launches and thirty times the memory
    traffic (bench/gpu/model.py). --augment torch without --compile runs the plain form eagerly.
    """
    if options.augment == "kornia":
        return augment_kornia, "kornia", None
    if device.type == "cpu" and options.augment == "auto":
        return partial(augment_numba, threads=options.threads or None), "numba", None
    form = augment if options.augment == "torch" else augment_fast
    if not options.compile and options.augment == "torch":
        return augment, "torch", None
    missing = lacks_compiler(device)
    if missing is not None:
        return augment, "torch", f"the augmentation is not compiled: {missing}"
    return torch.compile(form, fullgraph=True, dynamic=False), f"{form.__name__}, compiled", None
