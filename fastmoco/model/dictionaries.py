"""Where the keys come from: the paper's three mechanisms (1911.05722 section 3.2, figure 2).

Each knows the negatives of a batch's queries, and what becomes of the batch's keys:

    loss, accuracy = dictionary.contrast(q, keys, index, drawn, T)
    dictionary.update(keys.all, q, index, gather)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.model.info_nce import info_nce, info_nce_in_batch

Gather = Callable[[torch.Tensor], torch.Tensor]  # [n, ...] of every rank -> [N, ...] of all


@dataclass(frozen=True)
class Keys:
    """The keys of a batch on its ranks."""

    mine: torch.Tensor
    """[N, C]: the positives of this rank's queries, in their order."""
    all: torch.Tensor
    """[M, C]: of all ranks, in the batch's order."""
    first: int = 0
    """Where mine begin in all."""

    def rows(self, first: int, count: int) -> Keys:
        """The keys of a part of this rank's queries, which see the same keys of all ranks."""
        return Keys(self.mine[first : first + count], self.all, self.first + first)


class Queue(nn.Module):
    """MoCo: the last K keys, [K, dim] float32, as a ring whose pointer stays on the device.

    It begins as random unit vectors, like the official code's, whose layout is [dim, K].
    """

    encodes_keys, trains_keys = True, False
    keys: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, K: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(K, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._write = enqueue

    def contrast(
        self, q: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None, T: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and pretext accuracy of queries [N, C] against the whole queue."""
        assert k is not None
        return info_nce(q, k.mine, self.keys, T)

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """The batch's keys replace the oldest."""
        self.enqueue(keys)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Write keys [N, dim], N <= K, over the oldest; no sync, any N, nothing dropped."""
        if keys.shape[0] > self.keys.shape[0]:
            raise ValueError(f"{keys.shape[0]} keys do not fit a queue of {self.keys.shape[0]}")
        self._write(self.keys, self.pointer, keys)

    def compile_write(self) -> None:
        """From now on the enqueue is one compiled kernel."""
        self._write = torch.compile(enqueue, fullgraph=True, dynamic=False)


class MemoryBank(nn.Module):
    """A key for every sample, [samples, dim] float32 (1805.01978): what its query was when it was
    last seen, as normalise(0.5 old + 0.5 q). It begins as random unit vectors."""

    encodes_keys, trains_keys = False, False
    keys: torch.Tensor

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(samples, dim), dim=1))

    def contrast(
        self, q: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None, T: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and pretext accuracy of queries [N, C]: the positive is the sample's own entry
        (index [N]), the negatives are those at drawn [K], one draw for the batch."""
        assert index is not None and drawn is not None
        return info_nce(
            q, self.keys.index_select(0, index), self.keys.index_select(0, drawn), T
        )

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """The entries of the batch's samples move towards their queries."""
        assert index is not None
        self.refresh(gather(q), gather(index))

    @torch.no_grad()
    def refresh(self, keys: torch.Tensor, index: torch.Tensor) -> None:
        """keys [N, dim]: the queries of samples index [N]. A query that is not finite leaves its
        entry as it is."""
        old = self.keys.index_select(0, index)
        new = F.normalize(0.5 * old + 0.5 * keys.to(old.dtype), dim=1)
        finite = keys.isfinite().all(dim=1, keepdim=True)
        self.keys.index_copy_(0, index, torch.where(finite, new, old))

    def compile_write(self) -> None:
        """It stays eager: three launches a step."""


class EndToEnd(nn.Module):
    """No memory: the negatives are the batch's other keys, and gradients reach all of them."""

    encodes_keys, trains_keys = True, True

    def contrast(
        self, q: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None, T: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and pretext accuracy of queries [N, C] against all keys of the batch."""
        assert k is not None
        return info_nce_in_batch(q, k.all, k.first, T)

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """Nothing is kept."""

    def compile_write(self) -> None:
        """Nothing is written."""


Dictionary = Queue | MemoryBank | EndToEnd


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
