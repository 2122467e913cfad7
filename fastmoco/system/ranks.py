"""One process a device: who there is, what they hand each other, and that they agree.

    torchrun --nproc-per-node 8 -m fastmoco train DATA ...

and on several machines, on each with its own number as --node-rank (DATA and --out at the same
paths on all, best on a file system that all see: the first rank writes, all read):

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr HOST --master-port 29500 \\
        -m fastmoco train DATA ...

A rank holds its own part of every batch, on the GPU that LOCAL_RANK names. Nothing is broadcast in
training: the queue stays the same on all ranks because all write the same gathered keys into it,
which a checksum proves.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.system.device import collectives

P = ParamSpec("P")
R = TypeVar("R")
# A rank that dies is noticed at once, its connections close; a machine that vanishes after so long.
# Not less: the others wait while rank 0 measures kNN.
PATIENCE = timedelta(minutes=30)
WORDS = 2**22  # of a tensor that a checksum widens at a time: 32 MB

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
    """This process among those of a run; alone where torchrun did not start it."""

    rank: int = 0
    size: int = 1
    here: int = 1
    """How many of them share this machine."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every rank, in their order: [n * size, ...]; no gradient. Images keep
        channels last."""
        if self.size == 1:
            return x
        if x.dim() == 4 and not x.is_contiguous():
            nhwc = x.permute(0, 2, 3, 1).contiguous()
            return self.gather(nhwc).permute(0, 3, 1, 2)
        x = x.contiguous()
        out = x.new_empty(x.shape[0] * self.size, *x.shape[1:])
        _all_gather(out, x)
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
        views = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(tensors, views)

    def any_(self, flag: torch.Tensor) -> torch.Tensor:
        """A flag (0 or 1, []) that is 1 where it is on any rank; in place, on the device."""
        if self.size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def differing(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Names of the tensors whose bits are not the same on all ranks, by a checksum (waits)."""
        if self.size == 1:
            return []
        sums = torch.stack([checksum(t) for t in state.values()])
        most, least = sums.clone(), sums.clone()
        dist.all_reduce(most, dist.ReduceOp.MAX)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return [n for n, same in zip(state, (most == least).tolist(), strict=True) if not same]

    def agree(self, facts: Mapping[str, object]) -> None:
        """UserError where a fact is another one on this or that rank (waits)."""
        if self.size == 1:
            return
        ours = {name: str(value) for name, value in facts.items()}
        all_facts: list[dict[str, str]] = [{}] * self.size
        dist.all_gather_object(all_facts, ours)
        for rank, theirs in enumerate(all_facts):
            for name, value in theirs.items():
                if value != all_facts[0][name]:
                    raise UserError(
                        f"rank {rank} has {name} {value}, and rank 0 {all_facts[0][name]}: start "
                        f"all ranks by the same command, on the same data"
                    )

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on the host: dist.barrier would guess a GPU

    def share(self, value: R) -> R:
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

    def end(self) -> None:
        """Wait for the last votes: nobody leaves while they travel."""
        if self._under_way is not None:
            self._under_way.wait()


def checksum(x: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor's words as integers, weighed by their places, int64 []: equal bits give
    equal sums, and two keys that changed places do not."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    words = x.detach().contiguous().view(-1).view(whole)
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for first in range(0, len(words), WORDS):
        part = words[first : first + WORDS].long()
        total += (part * (torch.arange(len(part), device=x.device) % 8191 + 1 + first)).sum()
    return total


_meeting: dist.Store | None = None
_joined = itertools.count()


def join() -> Ranks:
    """Join the run that torchrun started; Ranks() where it did not. Tensors travel by NCCL between
    GPUs and by gloo between hosts.

    Raises UserError where the others cannot be reached.
    """
    global _meeting
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        try:
            store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
            # a process may train twice: the second time must not find what the first one left
            _meeting = dist.PrefixStore(f"fastmoco/{next(_joined)}", store)
            dist.init_process_group(
                collectives(), store=_meeting, rank=rank, world_size=size, timeout=PATIENCE
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"rank {os.environ.get('RANK')} of {size} cannot join the others "
                f"({str(error).splitlines()[0]}); start all with torchrun"
            ) from None
    return Ranks(dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def leave() -> None:
    """The end of what join began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def as_one(run: Callable[P, R]) -> Callable[P, R]:
    """What all ranks run together: what fails on one ends all, and one of them tells it.

    The first to fail raises its error, a UserError where it is the others that are gone; the rest
    leave by SystemExit(2) without a word. Joins before, where that is still to be done, and leaves
    after.
    """

    @functools.wraps(run)
    def together(*args: P.args, **kwargs: P.kwargs) -> R:
        outermost = not dist.is_initialized()
        ranks = join()
        if ranks.size == 1:
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if not _is_mine_to_tell(ranks.rank):
                raise SystemExit(2) from None
            if not _says_they_are_gone(error):
                raise
            raise UserError(
                f"rank {ranks.rank} of {ranks.size} has lost the others: one of them was killed, "
                f"or its machine is gone; the last checkpoint is whole: go on with --resume"
            ) from None
        if outermost:
            leave()
        return result

    return together


def _is_mine_to_tell(rank: int) -> bool:
    try:
        assert _meeting is not None
        return int(_meeting.compare_set("told", "", str(rank))) == rank
    except RuntimeError:  # the place to meet is gone too
        return True


def _says_they_are_gone(error: BaseException) -> bool:
    """gloo has no type of its own for it."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def check_parts(recipe: Recipe, ranks: Ranks, pieces: int) -> None:
    """UserError where ranks or pieces do not divide the batch and BatchNorm's parts."""
    if pieces > 1 and recipe.mechanism == "end-to-end":
        raise UserError(
            "--accumulate: end-to-end needs all keys of a batch at once; use a smaller --batch"
        )
    if ranks.size > 1 and recipe.split == "keys":
        raise UserError("--split keys works on one device: use --split both with several ranks")
    count = ranks.size * pieces
    shares = f"{ranks.size} ranks" if ranks.size > 1 else ""
    shares += " times " if ranks.size > 1 and pieces > 1 else ""
    shares += f"--accumulate {pieces}" if pieces > 1 else ""
    for name, value in (("--batch", recipe.batch), ("--bn-splits", recipe.bn_splits)):
        if value % count:
            raise UserError(
                f"{name} {value} does not divide into {shares}: use {-(-value // count) * count}, "
                f"or another multiple of {count}"
            )
