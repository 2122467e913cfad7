"""Bounds on the time and the memory that a piece of code takes."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def memory(name: str) -> int:
    """Kilobytes that this process holds (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@contextmanager
def bounded(seconds: float, megabytes: int) -> Iterator[None]:
    """Fails if the block takes more time of the processor, or more memory at its peak."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = memory("VmRSS"), time.process_time()
    yield
    assert time.process_time() - started < seconds
    assert memory("VmHWM") - before < megabytes << 10, f"{memory('VmHWM') - before >> 10} MB"
