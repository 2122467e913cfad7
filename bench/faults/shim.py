"""Compiles the library of shim.c, which causes faults, and arms it in a command's process.

It must be preloaded when a process starts; forked processes inherit it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
PRELOADED = "FASTMOCO_FAULT_SHIM"  # environment variable with the preloaded library's path


def compile_shim(folder: Path) -> str:
    """Compile the library; return the reason if it cannot be used, else an empty string."""
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
    """Arm the library in this process; shim.c explains the values."""
    library = ctypes.CDLL(os.environ[PRELOADED])
    library.fault_set(
        os.fsencode(folder) + b"/",
        ctypes.c_long(budget), ctypes.c_long(read), ctypes.c_long(write),
        ctypes.c_long(sync), ctypes.c_long(clock_after), ctypes.c_double(clock_back),
    )


def fault_hits() -> int:
    """Return the number of faults that the library caused in this process."""
    return int(ctypes.CDLL(os.environ[PRELOADED]).fault_hits()) if os.environ[PRELOADED] else 0
