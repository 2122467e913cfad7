"""The library of shim.c: compiled where faults are tried, armed in the process of a command.

It must be preloaded when a process starts; a forked one has it too.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
PRELOADED = "FASTMOCO_FAULT_SHIM"  # names the library in a process that has it


def compile_shim(folder: Path) -> str:
    """Compiles the library; returns why it can't be used, or nothing."""
    compiler = os.environ.get("CC", "gcc")
    out = folder / "shim.so"
    try:
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(out), str(SOURCE), "-ldl"],
                       check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{compiler} cannot compile {SOURCE.name}: {error}"
    return ""


def set_fault(
    folder: Path, budget: int = -1, read: int = 0, write: int = 0, sync: int = 0,
    clock_after: int = 0, clock_back: float = 0.0,
) -> None:
    """Arms the library in this process: see shim.c."""
    library = ctypes.CDLL(os.environ[PRELOADED])
    library.fault_set(
        os.fsencode(folder) + b"/",
        ctypes.c_long(budget), ctypes.c_long(read), ctypes.c_long(write),
        ctypes.c_long(sync), ctypes.c_long(clock_after), ctypes.c_double(clock_back),
    )


def fault_hits() -> int:
    """How often the library has struck in this process."""
    return int(ctypes.CDLL(os.environ[PRELOADED]).fault_hits()) if os.environ[PRELOADED] else 0
