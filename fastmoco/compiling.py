"""Which form of the augmentation a device takes, and whether torch.compile works here."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from functools import partial

import torch

from fastmoco.augment import augment
from fastmoco.augment_fast import augment_fast
from fastmoco.augment_kornia import augment_kornia
from fastmoco.augment_numba import augment_numba
from fastmoco.run_options import RunOptions


def augmentation(
    options: RunOptions, device: torch.device
) -> tuple[Callable[..., torch.Tensor], str, str | None]:
    """The augmentation for a device, its name, and a note where it cannot be compiled.

    On a GPU it is compiled unless --augment torch asks for the plain form: eagerly it takes 600
    launches and thirty times the memory traffic (bench/gpu_model.py).
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


def allow_shapes(count: int) -> None:
    """Let functions be compiled for so many shapes each, both encoders by the same code: beyond
    its own limit of 8 Dynamo raises (the augmentation) or goes on eagerly (the encoders)."""
    import torch._dynamo  # a second of imports, which a run without a compiler does not need

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * count + 8)


def missing_compiler(device: torch.device) -> str | None:
    """The compiler that torch.compile needs for a device and that is not here, without a trial."""
    names = ("g++", "clang++") if device.type == "cpu" else ("gcc", "cc", "clang")
    if any(shutil.which(name) for name in (os.environ.get("CXX", ""), *names) if name):
        return None
    language = "C++" if device.type == "cpu" else "C"
    return f"no {language} compiler here (Debian: apt-get install g++)"


@functools.cache
def lacks_compiler(device: torch.device) -> str | None:
    """What torch.compile misses on this machine for a device, and how to get it: a compiler, or
    whatever a first trial stops at (a header, a GPU that Triton does not know)."""
    missing = missing_compiler(device)
    if missing is not None:
        return missing
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # of Dynamo, Inductor, Triton, the compiler, the driver
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        return f"torch.compile does not work here ({said.strip()[:200]})"
    return None
