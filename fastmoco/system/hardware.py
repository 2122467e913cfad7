"""What this machine's devices are called, and how much memory they have."""

from __future__ import annotations

import contextlib
import os
import resource

import torch

from data_tools.machine import memory


def describe(device: torch.device) -> str:
    """The device in words, as results cite it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = "cpu"
    try:
        with open("/proc/cpuinfo") as f:
            name = next((x.split(":")[1].strip() for x in f if x.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads"


def cards() -> list[str]:
    """The CUDA devices that torch sees, each in words."""
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{p.name}, {p.total_memory / 1e9:.0f} GB, sm_{p.major}{p.minor}" for p in found]


def driver() -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((w for w in words if w[:1].isdigit() and "." in w), "unknown")


def free_memory(device: torch.device) -> int:
    """Bytes that nobody uses on a CUDA device; on the CPU, all that this process may use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _own_memory()


def _own_memory() -> int:
    """Bytes of the machine's memory for this process: ranks on one machine share it."""
    return memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usable_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process has or could get, which others (a desktop) leave; on
    the CPU, all that this process may use."""
    if device.type != "cuda":
        return _own_memory()
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def used_memory(device: torch.device) -> int:
    """Bytes at the most so far: of this process on the device, or of its memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # ru_maxrss would be the parent's, where that was larger when it started this process
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(device: torch.device) -> int:
    """Bytes of device memory at the most so far; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
