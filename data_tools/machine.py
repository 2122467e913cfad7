"""The cores and the memory that this process may use, by the limits of its container and shell."""

from __future__ import annotations

import os
import resource
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int:
    """Bytes of memory that this process may use: all of the machine's, or its container's limit."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        return min(whole, int(limit)) if limit.isdecimal() else whole
    return whole


def free_memory() -> int:
    """Bytes of memory that this process can still get: the least of memory(), the machine's free
    memory, and the rest of its limit on address space (`ulimit -v`)."""
    free = memory()
    found = kilobytes_of("/proc/meminfo", "MemAvailable:")
    if found:
        free = min(free, found)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - kilobytes_of("/proc/self/status", "VmSize:"))
    return max(0, free)


def kilobytes_of(path: str, name: str) -> int:
    """Bytes by a line such as "MemAvailable: 12 kB" in a file of /proc; 0 if it is missing."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0


def cores() -> int:
    """Number of cores that this process may use, or all if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
