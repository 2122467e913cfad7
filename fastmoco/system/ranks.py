"""One process (rank) per device: data that ranks exchange, and checks that they agree.

    torchrun --nproc-per-node 8 -m fastmoco train DATA ...

On several machines, start each with its own --node-rank. DATA and --out must have the same paths on
all of them, best on a shared file system: the first rank writes, all read.

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr HOST --master-port 29500 \\
        -m fastmoco train DATA ...

A rank holds its own part of every batch, on the GPU that LOCAL_RANK names. Training broadcasts
nothing: the queue stays the same on all ranks because all write the same gathered keys into it. A
checksum verifies this.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from data_tools.errors import UserError

R = TypeVar("R")


WORDS = 2**22  # words that a checksum widens to int64 at a time: 32 MB

# torch 2.14 renames both
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_DDP = nn.parallel.DistributedDataParallel
_buffers_stay: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(_DDP).parameters
    else {"broadcast_buffers": False}
)


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a run; the only one if torchrun did not start it."""

    rank: int = 0
    size: int = 1
    here: int = 1
    """Number of ranks on this machine."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenate x, [n, ...], of all ranks in rank order: [n * size, ...]. No gradient flows
        back. Channels-last images stay channels last."""
        if self.size == 1:
            return x
        if x.dim() == 4 and not x.is_contiguous():  # the exchange takes plain rows: NHWC in memory
            nhwc = x.permute(0, 2, 3, 1).contiguous()
            return self.gather(nhwc).permute(0, 3, 1, 2)
        x = x.contiguous()
        out = x.new_empty(x.shape[0] * self.size, *x.shape[1:])
        _all_gather(out, x)
        return out

    def gather_with_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """As gather, with a gradient: a rank receives the sum over all ranks of the gradients of
        its part."""
        return x if self.size == 1 else _Gather.apply(x, self)

    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace floating tensors of equal shapes on all ranks by their mean, in one exchange."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        # One exchange for all: each costs a round trip, and there are dozens of BatchNorm layers.
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([t.numel() for t in tensors])
        views = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(tensors, views)

    def any_(self, flag: torch.Tensor) -> torch.Tensor:
        """Set a flag (0 or 1, shape []) to 1 if it is 1 on any rank; in place, on the device."""
        if self.size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def differing(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Names of the tensors whose bits differ between ranks, found by checksums. Waits for the
        other ranks and the device."""
        if self.size == 1:
            return []
        # Equal maximum and minimum mean equal on all, without one rank to compare with.
        sums = torch.stack([checksum(t) for t in state.values()])
        most, least = sums.clone(), sums.clone()
        dist.all_reduce(most, dist.ReduceOp.MAX)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return [n for n, same in zip(state, (most == least).tolist(), strict=True) if not same]

    def agree(self, facts: Mapping[str, object]) -> None:
        """Raise UserError if a fact differs between ranks. Waits for the other ranks."""
        if self.size == 1:
            return
        # As text: values of any type are compared, and a message shows what was compared.
        ours = {name: str(value) for name, value in facts.items()}
        all_facts: list[dict[str, str]] = [{}] * self.size
        dist.all_gather_object(all_facts, ours)
        for rank, theirs in enumerate(all_facts):
            for name, value in theirs.items():
                if value != all_facts[0][name]:
                    raise UserError(
                        f"rank {rank} has {name} {value}, and rank 0 {all_facts[0][name]}: start "
                        f"all ranks with the same command, on the same data"
                    )

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on the host: dist.barrier would guess a GPU

    def share(self, value: R) -> R:
        """Rank 0's value, on all ranks. Waits for rank 0."""
        if self.size == 1:
            return value
        box = [value]  # the others' value is overwritten by rank 0's
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Wrap an encoder so that its gradients are averaged over the ranks.

        Buffers are not exchanged: each rank keeps its own BatchNorm statistics by design (shuffled
        BatchNorm, 1911.05722 section 3.3).
        """
        if self.size == 1:
            return encoder
        # Gradients live in the exchange's own buckets, which saves a copy of all of them.
        return _DDP(encoder, gradient_as_bucket_view=True, **_buffers_stay)


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, ranks):
        ctx.ranks, ctx.n = ranks, x.shape[0]
        return ranks.gather(x)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # gloo has no reduce-scatter
        first = ctx.ranks.rank * ctx.n
        return gradient[first : first + ctx.n], None


def checksum(x: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor's words as integers, weighted by their positions: int64, shape [].

    Equal bits give equal sums. The weights make two swapped keys give another sum.
    """
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    words = x.detach().contiguous().view(-1).view(whole)
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    # In blocks: widened to int64 at once, a large tensor would take up to eight times its memory.
    for first in range(0, len(words), WORDS):
        part = words[first : first + WORDS].long()
        total += (part * (torch.arange(len(part), device=x.device) % 8191 + 1 + first)).sum()
    return total
