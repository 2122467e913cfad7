"""Which form of the augmentation a device takes, and whether torch.compile works here."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from functools import partial

import torch

from fastmoco.augmentation.cpu import augment_numba
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.run_options import RunOptions


def augmentation(
    options: RunOptions, device: torch.device
) -> tuple[Callable[..., torch.Tensor], str, str | None]:
    """The augmentation for a device, its name, and a note where it cannot be compiled.

    On a GPU it is compiled unless --augment torch asks for the plain form: eagerly it takes 600
    launches and thirty times the memory traffic (bench/gpu/model.py).
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


def settle(shapes: int = 1) -> None:
    """Before anything is compiled: let functions be compiled for so many shapes each, both encoders
    by the same code (beyond its own limit of 8 Dynamo raises, the augmentation, or goes on eagerly,
    the encoders), and by kernels that no timing chooses where that would change the sums, so that a
    run resumed on another day has the same bits."""
    import torch._dynamo  # a second of imports, which a run without a compiler does not need
    import torch._inductor.config

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * shapes + 8)
    torch._inductor.config.deterministic = True


def missing_compiler(device: torch.device) -> str | None:
    """The compiler that torch.compile needs for a device and that is not here, without a trial."""
    if device.type == "cpu":  # Inductor's
        variable, names, language, package = "CXX", ("g++", "clang++"), "C++", "g++"
    else:  # Triton's, which also takes Python's own header
        variable, names, language, package = "CC", ("gcc", "clang"), "C", "gcc python3-dev"
    if any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        return None
    return f"no {language} compiler here (Debian: apt-get install {package})"


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
        remedy = ""
        if device.type == "cuda" and "exit status" in str(error):  # of gcc, which says no more
            remedy = ": without Python's header? (Debian: apt-get install python3-dev)"
        return f"torch.compile does not work here ({said.strip()[:200]}){remedy}"
    return None
