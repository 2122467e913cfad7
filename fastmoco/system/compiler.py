"""Configures torch.compile, and finds out whether it works on this machine."""

from __future__ import annotations

import functools
import os
import shutil

import torch


def settle(shapes: int = 1) -> None:
    """Configure torch.compile. Call it before anything is compiled.

    `shapes` is the number of input shapes that each function is compiled for. Dynamo's own limit is
    8 compilations per function: beyond it the augmentation raises, and the encoders silently run
    eagerly. Inductor must choose its kernels without timing them if the choice changes the order of
    sums, so that a run resumed on another day gives the same bits.
    """
    import torch._dynamo  # takes a second, which a run without a compiler does not need
    import torch._inductor.config

    config = torch._dynamo.config
    # Both encoders run the same code, so each shape counts twice.
    config.recompile_limit = max(config.recompile_limit, 2 * shapes + 8)
    torch._inductor.config.deterministic = True


def missing_compiler(device: torch.device) -> str | None:
    """Describe the compiler that torch.compile needs for a device, if it is not installed; else
    None.

    Only looks for the program; see lacks_compiler for a trial.
    """
    if device.type == "cpu":  # Inductor's
        variable, names, language, package = "CXX", ("g++", "clang++"), "C++", "g++"
    else:  # Triton's, which also needs the header Python.h
        variable, names, language, package = "CC", ("gcc", "clang"), "C", "gcc python3-dev"
    if any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        return None
    return f"no {language} compiler here (Debian: apt-get install {package})"


@functools.cache
def lacks_compiler(device: torch.device) -> str | None:
    """Compile one small function as a trial; None if it works.

    Otherwise return one line: the missing compiler and how to install it, or the error that stopped
    the trial (a missing header, a GPU that Triton does not support).
    """
    missing = missing_compiler(device)
    if missing is not None:
        return missing
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # from Dynamo, Inductor, Triton, the compiler or the driver
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        remedy = ""
        if device.type == "cuda" and "exit status" in str(error):  # from gcc, without its reason
            remedy = ": without Python's header? (Debian: apt-get install python3-dev)"
        return f"torch.compile does not work here ({said.strip()[:200]}){remedy}"
    return None
