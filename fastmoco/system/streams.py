"""Pinned slots and side streams: the next batch is copied and augmented while a step runs."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError

T = TypeVar("T")
P = TypeVar("P", bound="HoldsTensors")


class HoldsTensors(Protocol):
    """A prepared batch that one_ahead hands from one stream to another."""

    def tensors(self) -> list[torch.Tensor]:
        """Its tensors, all of them."""
        ...


def one_ahead(
    batches: Iterator[T], prepare: Callable[[T], P], device: torch.device
) -> Iterator[P]:
    """Yield prepare(batch) of each batch, in order.

    On CUDA, prepare runs on a side stream, one batch ahead of the step on the main stream. The host
    waits for the step before the last one, so that the device always has a step to run and never
    holds more than three batches. The result of prepare must not share memory with the batch, whose
    slot is filled again.
    """
    if device.type != "cuda":
        yield from map(prepare, batches)
        return
    side, main = side_stream(device), torch.cuda.current_stream(device)

    def begin() -> tuple[P, torch.cuda.Event] | None:
        with torch.cuda.stream(side):  # also the loader's copies and its slots' events
            batch = next(batches, None)
            if batch is None:
                return None
            prepared = prepare(batch)
            # the main stream waits for this event; the host does not
            return prepared, side.record_event()

    now, steps = begin(), deque[torch.cuda.Event]()
    while now is not None:
        if len(steps) == 2:  # two steps are queued: let the older one end before launching more
            steps.popleft().synchronize()
        following = begin()
        prepared, done = now
        main.wait_event(done)
        for tensor in prepared.tensors():
            tensor.record_stream(main)  # keeps the allocator from reusing it before the step ends
        yield prepared
        # blocking: while the host waits it sleeps, so its core is free for the decoding threads
        steps.append(torch.cuda.Event(blocking=True))
        steps[-1].record(main)
        now = following


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which batches are prepared, one per device for the whole run: the allocator
    caches memory per stream, so a new stream in every epoch would leak memory."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class Field:
    """One array of a slot: its dtype and shape."""

    dtype: Any
    shape: tuple[int, ...]


class Slot:
    """One batch's arrays in a single host buffer, and that buffer's copy on the device.

    On the CPU the tensors are the host buffer itself. On CUDA the host buffer is pinned, and one
    asynchronous copy on a side stream moves everything. Two events record when the buffers may be
    written again: the host buffer after the copy, the device buffer after its last reader.
    """

    def __init__(self, layout: dict[str, Field], device: torch.device) -> None:
        places, size = {}, 0
        for name, field in layout.items():
            places[name] = size
            # each array starts at a multiple of 64 bytes, a cache line
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
        # The allocator may return memory that launched work still reads: the first copy waits for
        # it.
        self.mark_used()

    def wait_writable(self) -> None:
        """Block this host thread until the last copy has left the host buffer."""
        if self._copied is not None:
            self._copied.synchronize()

    def wait_unused(self) -> None:
        """Block this host thread until no launched work needs either buffer. Call it before the
        slot is deleted."""
        self.wait_writable()
        if self._used is not None:
            self._used.synchronize()

    def to_device(self, copy_stream: torch.cuda.Stream | None) -> dict[str, torch.Tensor]:
        """Start the copy and make the current stream wait for it. The host does not wait."""
        if self._device is not None and copy_stream is not None:
            assert self._used is not None and self._copied is not None
            copy_stream.wait_event(self._used)  # the last reader of the device buffer has ended
            with torch.cuda.stream(copy_stream):
                self._device.copy_(self._host, non_blocking=True)
                self._copied.record(copy_stream)
            # later work on the current stream waits on the device, not on the host
            torch.cuda.current_stream(self.device).wait_event(self._copied)
        return self._tensors

    def mark_used(self) -> None:
        """Record that the work launched so far on the current stream is the last to read the
        tensors: the next copy waits for it."""
        if self._used is not None:
            self._used.record(torch.cuda.current_stream(self.device))


def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A new side stream for copies; None if the device is no GPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait for the device (benchmarks only)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
