"""Versions of the libraries that a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from fastmoco import __version__


def versions() -> dict[str, str]:
    """Versions of Python and the libraries, and the CPU's instruction set: with the recipe and the
    data, they decide the bits of a run on a CPU."""
    names = ("torch", "torchvision", "numpy", "numba", "simplejpeg", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "fastmoco": __version__,
        "python": platform.python_version(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        **found,
    }
