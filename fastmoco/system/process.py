"""Facts about this process that every command needs. Imports no torch, to start fast."""

from __future__ import annotations

import os


def several_ranks() -> bool:
    """True if torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_out_of_memory(error: Exception) -> bool:
    """True if this error means that the machine or the device has no memory left.

    The words of torch's error are compared, since importing torch would slow every --help.
    """
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(w in str(error) for w in words)
