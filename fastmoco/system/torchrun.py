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
# A killed rank is noticed at once, since its connections close; a machine that vanishes only after
# this time. A shorter time could end a healthy run: all ranks wait while rank 0 measures kNN.
PATIENCE = timedelta(minutes=30)
_meeting: dist.Store | None = None
_joined = itertools.count()


def join() -> Ranks:
    """Join the run that torchrun started; ALONE if torchrun did not start this process.

    NCCL exchanges tensors between GPUs, gloo those on CPUs. Raises UserError if the other ranks
    cannot be reached.
    """
    global _meeting
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        try:
            store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
            # a process may train twice: the second run must not read keys of the first
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
    """Leave the process group that join() entered."""
    if dist.is_initialized():
        dist.destroy_process_group()


def as_one(run: Callable[P, R]) -> Callable[P, R]:
    """Decorator for code that every rank runs. If one rank fails, all stop, and exactly one reports
    the error.

    The first rank to fail raises its error, or a UserError if it failed because other ranks are
    gone. All other ranks raise SystemExit(2) silently. The decorator joins the run if that was not
    done before, and then leaves it at the end.
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
            if not _reports_the_error(ranks.rank):
                raise SystemExit(2) from None
            if not _means_ranks_are_gone(error):
                raise
            raise UserError(
                f"rank {ranks.rank} of {ranks.size} has lost the others: one of them was killed, "
                f"or its machine is gone; the last checkpoint is whole: go on with --resume"
            ) from None
        if outermost:
            leave()
        return result

    return together


def _reports_the_error(rank: int) -> bool:
    """True on the first rank that asks: it alone reports the error."""
    try:
        assert _meeting is not None
        # an atomic compare-and-set: every rank gets the number of the first that wrote
        return int(_meeting.compare_set("told", "", str(rank))) == rank
    except RuntimeError:  # the store on rank 0's machine is gone too
        return True


def _means_ranks_are_gone(error: BaseException) -> bool:
    """True for errors of lost connections. gloo has no exception type for them, so the words are
    compared."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
