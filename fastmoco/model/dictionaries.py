"""The paper's three mechanisms, queue, memory bank and end-to-end (1911.05722, section 3.2).

Each has the negatives for a batch's queries, and a use for the batch's keys:

    loss, accuracy = dictionary.contrast(q, keys, index, drawn, T)
    dictionary.update(keys.all, q, index, gather)

encodes_keys: the mechanism encodes a second view. trains_keys: gradients reach the keys.
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
    """The keys of a batch, as one rank sees them."""

    mine: torch.Tensor
    """[N, C]: positive keys of this rank's queries, in their order."""
    all: torch.Tensor
    """[M, C]: keys of all ranks, in the order of the batch."""
    first: int = 0
    """Row of `all` that `mine` starts at."""

    def rows(self, first: int, count: int) -> Keys:
        """Return the keys of `count` of this rank's queries; `all` stays the same for each part."""
        return Keys(self.mine[first : first + count], self.all, self.first + first)


class Queue(nn.Module):
    """MoCo's queue: the last K keys, float32 [K, dim], a ring whose pointer stays on the device.

    It starts as random unit vectors, as in the official code, whose layout is [dim, K].
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
        """Return loss and pretext accuracy of queries [N, C] against the whole queue."""
        assert k is not None
        return info_nce(q, k.mine, self.keys, T)

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """Replace the oldest keys by the batch's."""
        self.enqueue(keys)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Write keys [N, dim] over the oldest, for any N <= K; no sync."""
        if keys.shape[0] > self.keys.shape[0]:
            raise ValueError(f"{keys.shape[0]} keys do not fit a queue of {self.keys.shape[0]}")
        self._write(self.keys, self.pointer, keys)

    def compile_write(self) -> None:
        """Make the enqueue one compiled kernel."""
        self._write = torch.compile(enqueue, fullgraph=True, dynamic=False)


class MemoryBank(nn.Module):
    """A memory bank (1805.01978): one key per sample, float32 [samples, dim].

    An entry is updated when its sample is seen: normalise(0.5 old + 0.5 q). All start as random
    unit vectors.
    """

    encodes_keys, trains_keys = False, False
    keys: torch.Tensor

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(samples, dim), dim=1))

    def contrast(
        self, q: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None, T: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and pretext accuracy of queries [N, C]. The positive is the entry of the
        query's own sample (index [N]); the negatives are entries drawn [K] for the whole batch."""
        assert index is not None and drawn is not None
        return info_nce(
            q, self.keys.index_select(0, index), self.keys.index_select(0, drawn), T
        )

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """Move the entries of the batch's samples towards their queries."""
        assert index is not None
        self.refresh(gather(q), gather(index))

    @torch.no_grad()
    def refresh(self, keys: torch.Tensor, index: torch.Tensor) -> None:
        """Update the entries of samples index [N] by their queries [N, dim]. A query that is not
        finite leaves its entry as it is."""
        old = self.keys.index_select(0, index)
        new = F.normalize(0.5 * old + 0.5 * keys.to(old.dtype), dim=1)
        finite = keys.isfinite().all(dim=1, keepdim=True)
        self.keys.index_copy_(0, index, torch.where(finite, new, old))

    def compile_write(self) -> None:
        """Do nothing: three launches per step are not worth it."""


class EndToEnd(nn.Module):
    """No memory: the negatives are the other keys of the batch, and gradients reach all keys."""

    encodes_keys, trains_keys = True, True

    def contrast(
        self, q: torch.Tensor, k: Keys | None, index: torch.Tensor | None,
        drawn: torch.Tensor | None, T: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and pretext accuracy of queries [N, C] against all keys of the batch."""
        assert k is not None
        return info_nce_in_batch(q, k.all, k.first, T)

    def update(
        self, keys: torch.Tensor, q: torch.Tensor, index: torch.Tensor | None, gather: Gather
    ) -> None:
        """Do nothing: no key is kept."""

    def compile_write(self) -> None:
        """Do nothing: no key is written."""


Dictionary = Queue | MemoryBank | EndToEnd


def enqueue(queue: torch.Tensor, pointer: torch.Tensor, keys: torch.Tensor) -> None:
    """Write keys [N, dim] into the ring queue [K, dim] at pointer, int64 [], and move the pointer.

    Fixed shapes and no branch, so that it compiles to one graph and never waits for the device.
    """
    n, K = keys.shape[0], queue.shape[0]
    place = (pointer + torch.arange(n, device=queue.device)) % K
    # A key that is not finite leaves the old one: a bad image must not spoil the next K / N steps.
    finite = keys.isfinite().all(dim=1, keepdim=True)
    queue.index_copy_(0, place, torch.where(finite, keys.to(queue.dtype), queue[place]))
    pointer.copy_((pointer + n) % K)
