"""Joining and leaving the processes that torchrun started, and errors that one of them reports."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec

import torch.distributed as dist

from data_tools.errors import UserError
from fastmoco.system.device import collectives
from fastmoco.system.ranks import ALONE, R, Ranks

P = ParamSpec("P")
# A rank that dies is noticed at once, its connections close; a machine that vanishes after so long.
# Not less: the others wait while rank 0 measures kNN.
PATIENCE = timedelta(minutes=30)
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
