"""The versions of what a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from fastmoco import __version__


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides the recipe."""
    names = ("torch", "torchvision", "numpy", "numba", "simplejpeg", "pillow")
    found = {name: importlib.metadata.version(name) for name in names}
    return {
        "fastmoco": __version__,
        "python": platform.python_version(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        **found,
    }
