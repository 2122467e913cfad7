"""Names of this machine's devices, and their memory."""

from __future__ import annotations

import contextlib
import os
import resource

import torch

from data_tools.machine import memory


def describe(device: torch.device) -> str:
    """Name of the device (and torch's number of threads on a CPU), as results cite it."""
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
    """The CUDA devices that torch sees: name, memory and architecture of each."""
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{p.name}, {p.total_memory / 1e9:.0f} GB, sm_{p.major}{p.minor}" for p in found]


def driver() -> str | None:
    """Version of NVIDIA's driver; None if there is no driver."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
    except OSError:
        return None
    return next((w for w in words if w[:1].isdigit() and "." in w), "unknown")


def free_memory(device: torch.device) -> int:
    """Unused bytes on a CUDA device; on the CPU, all bytes that this process may use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _own_memory()


def _own_memory() -> int:
    """This process's share of the machine's memory in bytes: its ranks get equal shares."""
    return memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def usable_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process holds or could still get, so without the memory of
    other programs (a desktop); on the CPU, all bytes that this process may use."""
    if device.type != "cuda":
        return _own_memory()
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def used_memory(device: torch.device) -> int:
    """Peak of this process so far, in bytes: reserved on a CUDA device, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # ru_maxrss includes the parent's memory at the fork, so VmHWM comes first
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(device: torch.device) -> int:
    """Peak of memory allocated on the device so far, in bytes; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
