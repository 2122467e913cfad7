"""Does torch.compile work here, and how it is set up."""

from __future__ import annotations

import functools
import os
import shutil

import torch


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
