"""The only file that names CUDA: devices, pinned slots, streams, precision."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.machine import memory
from fastmoco.recipe import Precision

T = TypeVar("T")
P = TypeVar("P", bound="HoldsTensors")
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


class HoldsTensors(Protocol):
    """What one_ahead can hand from one stream to another."""

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        ...


def one_ahead(
    batches: Iterator[T], prepare: Callable[[T], P], device: torch.device
) -> Iterator[P]:
    """prepare(batch) of each batch, in order. On CUDA it is launched on a stream of its own, one
    batch ahead of the step that works on the main stream. The host waits for the step two earlier:
    the device always has one to do, and never more than three batches in its memory. What prepare
    returns must not lie in memory that the batches use again."""
    if device.type != "cuda":
        yield from map(prepare, batches)
        return
    side, main = side_stream(device), torch.cuda.current_stream(device)

    def begin() -> tuple[P, torch.cuda.Event] | None:
        with torch.cuda.stream(side):  # the loader's copies and its slots' events too
            batch = next(batches, None)
            if batch is None:
                return None
            prepared = prepare(batch)
            return prepared, side.record_event()

    now, steps = begin(), deque[torch.cuda.Event]()
    while now is not None:
        if len(steps) == 2:
            steps.popleft().synchronize()
        following = begin()
        prepared, done = now
        main.wait_event(done)
        for tensor in prepared.tensors():
            tensor.record_stream(main)  # its memory is not given out again before
        yield prepared
        # a waiting host that sleeps leaves its core to the threads that decode
        steps.append(torch.cuda.Event(blocking=True))
        steps[-1].record(main)
        now = following


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one on which batches are prepared: the allocator keeps memory by stream, so that another
    one each epoch would hold more and more of it."""
    return torch.cuda.Stream(device)


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


@dataclass(frozen=True)
class Field:
    """One array of a slot: its dtype and shape."""

    dtype: Any
    shape: tuple[int, ...]


class Slot:
    """One batch's arrays in a single host buffer, and that buffer's copy on the device.

    On the CPU the tensors are the host buffer itself. On CUDA the host buffer is pinned, one
    asynchronous copy moves everything on a side stream, and two events say when the host side
    (copy done) and the device side (last reader done) may be written again.
    """

    def __init__(self, layout: dict[str, Field], device: torch.device) -> None:
        places, size = {}, 0
        for name, field in layout.items():
            places[name] = size
            size += -(-int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize // 64) * 64
        self.device = device
        on_cuda = device.type == "cuda"
        try:
            self._host = torch.empty(size, dtype=torch.uint8, pin_memory=on_cuda)
        except RuntimeError as error:
            remedy = ", or raise the limit on locked memory" if on_cuda else ""
            raise UserError(
                f"cannot get {size / 2**20:.0f} MiB of host memory for a batch: use a smaller "
                f"--batch{remedy} ({str(error).splitlines()[0]})"
            ) from None
        self._device = torch.empty(size, dtype=torch.uint8, device=device) if on_cuda else None
        self._copied = torch.cuda.Event() if on_cuda else None
        self._used = torch.cuda.Event() if on_cuda else None
        self.arrays: dict[str, NDArray] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        flat = self._host.numpy()
        for name, field in layout.items():
            length = int(np.prod(field.shape)) * np.dtype(field.dtype).itemsize
            part = slice(places[name], places[name] + length)
            self.arrays[name] = flat[part].view(field.dtype).reshape(field.shape)
            like = torch.from_numpy(self.arrays[name])
            self._tensors[name] = (
                like
                if self._device is None
                else self._device[part].view(like.dtype).view(like.shape)
            )
        # The allocator may hand out memory that launched work still reads: that comes first.
        self.mark_used()

    def wait_writable(self) -> None:
        """Block this host thread until the last copy has left the host buffer."""
        if self._copied is not None:
            self._copied.synchronize()

    def wait_unused(self) -> None:
        """Block this host thread until no launched work needs either buffer: before they go."""
        self.wait_writable()
        if self._used is not None:
            self._used.synchronize()

    def to_device(self, copy_stream: torch.cuda.Stream | None) -> dict[str, torch.Tensor]:
        """Start the copy and make the current stream wait for it; no host wait."""
        if self._device is not None and copy_stream is not None:
            assert self._used is not None and self._copied is not None
            copy_stream.wait_event(self._used)
            with torch.cuda.stream(copy_stream):
                self._device.copy_(self._host, non_blocking=True)
                self._copied.record(copy_stream)
            torch.cuda.current_stream(self.device).wait_event(self._copied)
        return self._tensors

    def mark_used(self) -> None:
        """What was launched so far on the current stream is the last reader of the tensors."""
        if self._used is not None:
            self._used.record(torch.cuda.current_stream(self.device))


def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A side stream for the copies, where there are streams."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait for the device (benchmarks only)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
