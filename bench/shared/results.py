"""Result files: JSON that names the machine and the versions it was measured with."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from data_tools.files import write_whole
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions


def environment(device: torch.device) -> dict[str, str]:
    """Return the machine, its platform and the versions of every library that counts."""
    return {"machine": describe(device), "platform": platform.platform(), **versions()}


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file or leave the old one."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
