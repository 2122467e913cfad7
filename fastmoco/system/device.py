"""The only file that names CUDA: devices, pinned slots, streams, precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from data_tools.errors import UserError
from fastmoco.recipe import Precision
from fastmoco.system.hardware import describe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' to a device; UserError where there is none such. Under
    torchrun, cuda is the GPU of this process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    numbered = name.startswith("cuda:")
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if numbered and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(f"--device {name} is one GPU for all ranks; use --device cuda, one each")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(
            f"--device {name}: torch sees {f'{count} of them' if count else 'no CUDA device'} here"
            f"; use --device {'cuda:0' if count else 'cpu'}"
        )
    return device


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve 'auto': bfloat16 where the hardware multiplies it, else float16 or float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def collectives() -> str:
    """The backends by which ranks talk: of tensors on the CPU, and of those on GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def make_current(device: torch.device) -> None:
    """What names no GPU means this one: without it, every rank also holds memory on the first."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def choose_deterministic(device: torch.device) -> None:
    """cuDNN's reproducible kernels: what makes a resumed run equal one never stopped."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True


def same_bits(device: torch.device) -> str:
    """What the bits of a run depend on, of its device: a CPU's instruction set is written down
    elsewhere; another GPU has other kernels, and so has another cuDNN."""
    if device.type != "cuda":
        return device.type
    return f"{describe(device)}, cuDNN {torch.backends.cudnn.version()}"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Mixed precision for the encoders; the loss and all statistics stay in float32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")


def grad_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """float16 needs its gradients scaled; for the others the scaler passes through."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
