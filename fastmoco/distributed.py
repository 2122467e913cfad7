"""One process a device: who there is, what they hand each other, and that they agree.

A rank holds its own part of every batch. Nothing is broadcast in training: the queue stays the same
on all ranks because all write the same gathered keys into it, which a checksum proves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from data_tools.errors import UserError
from fastmoco.device import collectives


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; alone where torchrun did not start it."""

    rank: int = 0
    size: int = 1

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every rank, in their order: [n * size, ...]; no gradient."""
        if self.size == 1:
            return x
        x = x.contiguous()
        out = x.new_empty(x.shape[0] * self.size, *x.shape[1:])
        dist.all_gather_into_tensor(out, x)
        return out

    def gather_with_gradient(self, x: torch.Tensor) -> torch.Tensor:
        """The same; a rank's gradient is the sum over all ranks of theirs to its part."""
        return x if self.size == 1 else _Gather.apply(x, self)

    def mean_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace floating tensors of equal shapes on all ranks by their mean, in one exchange."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any_(self, flag: torch.Tensor) -> torch.Tensor:
        """A flag (0 or 1, []) that is 1 where it is on any rank; in place, on the device."""
        if self.size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def same(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether the bits are the same on all ranks: their sums as integers (waits)."""
        if self.size == 1:
            return True
        sums = torch.stack([checksum(t) for t in tensors])
        most, least = sums.clone(), sums.clone()
        dist.all_reduce(most, dist.ReduceOp.MAX)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return bool((most == least).all())

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def share(self, value: float) -> float:
        """Rank 0's value, on all ranks (waits)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """The encoder as one whose gradients are means over the ranks. Its buffers are not
        exchanged: BatchNorm's statistics are each rank's own by design."""
        if self.size == 1:
            return encoder
        return nn.parallel.DistributedDataParallel(
            encoder, broadcast_buffers=False, gradient_as_bucket_view=True
        )


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


GO_ON, SAVE, STOP = range(3)


class Vote:
    """What any rank wishes most (GO_ON, SAVE, STOP), known to all at the same step, one later.

    The votes travel on the host while the device works: no step waits for its own.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._group: Any = dist.new_group(backend="gloo") if ranks.size > 1 else None
        self._vote = torch.zeros(1)
        self._under_way: dist.Work | None = None

    def __call__(self, wish: int) -> int:
        """Once a step on every rank; what to do now."""
        if self._group is None:
            return wish
        agreed = GO_ON
        if self._under_way is not None:
            self._under_way.wait()
            agreed = int(self._vote)
        self._vote = torch.tensor([float(wish)])
        self._under_way = dist.all_reduce(
            self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed


def checksum(x: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor's words as integers, int64 []: equal bits give equal sums."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    words = x.detach().contiguous().view(whole).reshape(-1).long()
    # weighed by place, or two swapped keys would go unseen
    return (words * (torch.arange(len(words), device=x.device) % 8191 + 1)).sum()


def join(device: torch.device) -> Ranks:
    """Join the run that torchrun started; Ranks() where it did not. NCCL on GPUs, gloo on CPUs.

    Raises UserError where the others cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        try:
            dist.init_process_group(collectives(device))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"rank {os.environ.get('RANK')} of {size} cannot join the others "
                f"({str(error).splitlines()[0]}); start all with torchrun"
            ) from None
    return Ranks(dist.get_rank(), size)


def leave() -> None:
    """The end of what join began."""
    if dist.is_initialized():
        dist.destroy_process_group()
