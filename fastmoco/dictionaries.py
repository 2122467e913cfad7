"""Where the keys come from: the queue of MoCo (1911.05722 section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Queue(nn.Module):
    """The last K keys, [K, dim] float32, as a ring whose pointer stays on the device.

    It begins as random unit vectors, like the official code's, whose layout is [dim, K].
    """

    keys: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, K: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(K, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._write = enqueue

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Write keys [N, dim], N <= K, over the oldest; no sync, any N, nothing dropped."""
        if keys.shape[0] > self.keys.shape[0]:
            raise ValueError(f"{keys.shape[0]} keys do not fit a queue of {self.keys.shape[0]}")
        self._write(self.keys, self.pointer, keys)

    def compile_write(self) -> None:
        """From now on the enqueue is one compiled kernel."""
        self._write = torch.compile(enqueue, fullgraph=True, dynamic=False)


def enqueue(queue: torch.Tensor, pointer: torch.Tensor, keys: torch.Tensor) -> None:
    """Ring write in place: queue [K, dim], pointer int64 [], keys [N, dim].

    A key that is not finite leaves the old one in its place: one bad image must not poison the
    next K / N steps. Plain torch with fixed shapes, so that it compiles to one graph.
    """
    n, K = keys.shape[0], queue.shape[0]
    place = (pointer + torch.arange(n, device=queue.device)) % K
    finite = keys.isfinite().all(dim=1, keepdim=True)
    queue.index_copy_(0, place, torch.where(finite, keys.to(queue.dtype), queue[place]))
    pointer.copy_((pointer + n) % K)
