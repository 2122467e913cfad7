"""Reports the hardware, its speed, the choices that a run would make, and missing libraries.

A missing part is a finding, never an error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from data_tools.machine import cores, memory
from data_tools.planning.rates import in_threads, read_rate, write_rate
from data_tools.quantities import human
from fastmoco import __version__
from fastmoco.loading.engines.registry import TABLE
from fastmoco.system.compiler import missing_compiler
from fastmoco.system.device import pick_device, pick_precision
from fastmoco.system.hardware import cards, driver

SECONDS = 0.6  # duration of each measurement
LITTLE_DISK, LITTLE_MEMORY = 10e9, 8e9  # bytes, below which there is a remark
PACKAGES = ("torchvision", "numpy", "numba", "simplejpeg", "pillow", "kornia")
EXTRAS = {
    "DALI": ("nvidia.dali", "nvidia-dali-cuda130", TABLE["dali"].install),
    "FFCV": ("ffcv", "ffcv", TABLE["ffcv"].install),
    "Parquet": ("pyarrow", "pyarrow", "pip install 'fastmoco[parquet]'"),
    "URLs": ("fsspec", "fsspec", "pip install 'fastmoco[remote]'"),
    "Ray": ("ray", "ray", "pip install 'fastmoco[ray]'"),
    "timm": ("timm", "timm", "pip install 'fastmoco[timm]'"),
    "ONNX": ("onnxscript", "onnx", "pip install 'fastmoco[onnx]'"),
    "W&B": ("wandb", "wandb", "pip install 'fastmoco[wandb]'"),
}


@dataclass(frozen=True)
class Finding:
    """A property of this machine, with a remedy if something is wrong."""

    name: str
    value: str
    remedy: str = ""
    """Action to take; empty if all is well."""
    optional: bool = False
    """True if a run is as good without it."""


@dataclass(frozen=True)
class Diagnosis:
    """Result of `fastmoco doctor`. A rate that can't be measured is 0."""

    findings: list[Finding]
    decode_images_per_s: float
    """Rate of libjpeg's exact decode of a 500 x 375 JPEG with noise, on all cores."""
    write_bytes_per_s: float
    read_bytes_per_s: float


def doctor(folder: Path = Path(".")) -> Diagnosis:
    """Examine this machine, and the disk that `folder` is on. Takes a few seconds."""
    device = pick_device("auto")
    decoding = measured(decode_rate)
    write, read = measured(lambda: disk_rates(folder)) or (0.0, 0.0)
    findings = [
        Finding("fastmoco", f"{__version__}, Python {platform.python_version()}, "
                            f"{platform.system()} {platform.machine()}"),
        Finding("torch", f"{torch.__version__}, instructions "
                         f"{torch.backends.cpu.get_cpu_capability()}"),
        Finding("packages", ", ".join(f"{p} {installed(p) or 'missing'}" for p in PACKAGES)),
        gpu(),
        Finding("cores", f"{cores()} for this process, torch uses {torch.get_num_threads()}"),
        of_memory(),
        of_shm(),
        of_disk(folder, write, read),
        Finding("decode", f"{decoding or 0:,.0f} images/s of 500 x 375 JPEGs on {cores()} threads"),
        *extras(device),
        compiler(device),
        *choices(device),
    ]
    return Diagnosis(findings, decoding or 0.0, write, read)


def measured(work: Callable):
    """Return the result of a measurement, or None if the machine does not allow it."""
    try:
        return work()
    except (OSError, RuntimeError, ValueError):
        return None


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def importable(name: str) -> bool:
    """Return whether a module exists, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def gpu() -> Finding:
    """Report the GPUs that torch sees, or the reason why it sees none."""
    found = cards()
    if found:
        return Finding("GPU", "; ".join(found) + f"; driver {driver() or 'unknown'}")
    if driver() is None:
        return Finding("GPU", "none: no NVIDIA driver here; runs take the CPU", optional=True)
    if torch.version.cuda is None:
        return Finding(
            "GPU", f"driver {driver()}, but this torch is built for CPUs",
            "install a CUDA build: https://pytorch.org/get-started/locally",
        )
    return Finding(
        "GPU", f"driver {driver()}, but torch (CUDA {torch.version.cuda}) sees no card",
        "look at nvidia-smi and at CUDA_VISIBLE_DEVICES; the driver may be too old for this CUDA",
    )


def of_memory() -> Finding:
    remedy = ""
    if memory() < LITTLE_MEMORY:
        remedy = "little for a ResNet-50: use a smaller --batch, or --accumulate"
    return Finding("memory", f"{human(memory())} for this process", remedy)


def of_shm() -> Finding:
    """Report shared memory: our engines need none, but DALI and torch's workers do."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("/dev/shm", "none; our engines need none", optional=True)
    return Finding("/dev/shm", f"{human(free)} free; our engines need none")


def of_disk(folder: Path, write: float, read: float) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", f"{folder}: {error.strerror}", "give a folder with --dir")
    value = f"{human(free)} free in {folder.resolve()}"
    if not write:
        return Finding("disk", f"{value}, which cannot be written to", "give another with --dir")
    return Finding(
        "disk", f"{value}; writes {human(write)}/s, reads {human(read)}/s",
        "little for a dataset and its checkpoints" if free < LITTLE_DISK else "",
    )


def decode_rate() -> float:
    """Return the images/s of decoding a random JPEG of 500 x 375, quality 90, on all cores."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (25, 32, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 15, 0), 16, 1)[:, :500].astype(np.int16)
    noisy = np.clip(image + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(noisy), quality=90)
    return in_threads(lambda _: simplejpeg.decode_jpeg(encoded), cores(), SECONDS)


def disk_rates(folder: Path) -> tuple[float, float]:
    """Return the bytes/s of writing to the disk under a folder, and of reading from it."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", buffering=0) as file:
        return write_rate(file.fileno(), SECONDS), read_rate(file.fileno(), SECONDS)


def extras(device: torch.device) -> list[Finding]:
    """Report the optional libraries; a remedy only for those that would make it faster here."""
    out = []
    for name, (module, package, command) in EXTRAS.items():
        if importable(module):
            out.append(Finding(name, installed(package) or "installed"))
        elif name == "DALI" and device.type == "cuda":
            out.append(Finding(name, "missing: it may decode faster on this GPU", command))
        else:
            out.append(Finding(name, f"not installed ({command})", optional=True))
    return out


def compiler(device: torch.device) -> Finding:
    """Report the compiler that torch.compile needs."""
    missing = missing_compiler(device)  # a trial would take longer than all the rest
    if missing is None:
        return Finding("compiler", "there, for --compile" if device.type == "cpu" else "there")
    if device.type == "cpu":
        return Finding("compiler", f"{missing}; only --compile needs it", optional=True)
    return Finding("compiler", "missing: the augmentation is slow on a GPU without it", missing)


def choices(device: torch.device) -> list[Finding]:
    """Report the choices of `auto` on this machine, with the reasons."""
    precision = pick_precision("auto", device)
    why = {
        "bfloat16": "the hardware multiplies it",
        "float16": "a GPU without bfloat16; gradients are scaled",
        "float32": "this CPU has no bfloat16 instructions",
    }[precision]
    form, other = "compiled loops (numba)", "the fastest on CPUs"
    if device.type == "cuda":
        other = "timed against DALI" if importable("nvidia.dali") else "DALI is not installed"
        form = "plain torch" if missing_compiler(device) else "torch, compiled"
    engine = f"resident for small images; threads for others ({other})"
    return [
        Finding("would choose", f"device {device}, --precision {precision} ({why})"),
        Finding("", f"augmentation {form}; engine {engine}"),
    ]


def lines(found: Diagnosis) -> list[str]:
    """Return the findings as lines of text, each remedy below its finding."""
    width = max(len(f.name) for f in found.findings)
    out = []
    for f in found.findings:
        out.append(f"{f.name:<{width}}  {f.value}")
        if f.remedy:
            out.append(f"{'':<{width}}  -> {f.remedy}")
    wanting = sum(bool(f.remedy) for f in found.findings)
    out.append(f"{wanting} to see to, marked ->" if wanting else "nothing to see to")
    return out
