"""Chooses the device and the precision, and sets up CUDA, cuDNN and mixed precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from data_tools.errors import UserError
from fastmoco.recipe import Precision
from fastmoco.system.hardware import describe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Resolve 'auto', 'cpu', 'cuda' or 'cuda:N' to a device. Under torchrun, 'cuda' is the GPU of
    this process.

    Raises UserError if the name is invalid or the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    numbered = name.startswith("cuda:")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # not a device name: refused below
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if numbered and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"--device {name} would give all ranks one GPU; use --device cuda, one per rank"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(
            f"--device {name}: torch sees {f'{count} of them' if count else 'no CUDA device'} here"
            f"; use --device {'cuda:0' if count else 'cpu'}"
        )
    return device


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve 'auto': bfloat16 if the hardware multiplies it; else float16 on a GPU, float32 on a
    CPU."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def collectives() -> str:
    """torch.distributed's backends: gloo for tensors on the CPU, NCCL for those on GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def make_current(device: torch.device) -> None:
    """Make this GPU the default one. Otherwise every rank also holds memory on the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def choose_deterministic(device: torch.device) -> None:
    """Use cuDNN's reproducible kernels, so that a resumed run equals an uninterrupted one."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True


def same_bits(device: torch.device) -> str:
    """Identify the part of a device that decides a run's bits: the GPU and the version of cuDNN,
    since each has its own kernels. A CPU's instruction set is recorded in versions()."""
    if device.type != "cuda":
        return device.type
    return f"{describe(device)}, cuDNN {torch.backends.cudnn.version()}"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for the encoders; the loss and all statistics stay in float32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Scales gradients for float16; for other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
