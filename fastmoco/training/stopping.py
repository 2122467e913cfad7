"""Signals that ask a run to stop, and the vote by which all ranks stop or save at the same step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from fastmoco.system.ranks import Ranks

GO_ON, SAVE, STOP = range(3)  # wishes, the strongest last: a vote is their maximum
AT_ONCE = 2.0  # seconds in which a second signal is taken for a copy of the first


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM, SIGINT and SIGHUP (a closed terminal) set.

    The run then ends between two steps, with a checkpoint. A second signal ends the process as
    usual, unless it comes within AT_ONCE seconds: torchrun passes on to its ranks a signal that the
    terminal sent to them too. Signals that the parent ignores (nohup) stay ignored.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return

    asking = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    before: dict[int, Any] = {int(s): signal.getsignal(s) for s in asking}
    before = {number: old for number, old in before.items() if old != signal.SIG_IGN}
    first = 0.0

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    def handler(number: int, _frame: object) -> None:
        nonlocal first
        # Only notes the wish: a handler may run in the middle of any line, also of a save.
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif time.monotonic() - first > AT_ONCE:
            restore()
            # Again, for the handler of before: only it knows how this process ends.
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        restore()


def wish_of(stop: threading.Event, save_due: bool) -> int:
    """Return what this rank wishes to do after the step."""
    if stop.is_set():
        return STOP
    return SAVE if save_due else GO_ON


class Vote:
    """All ranks do what the strongest wish asks for (STOP > SAVE > GO_ON), at the same step.

    After each step a rank casts its wish and gets the outcome of the vote of the step before:

        after step         8        9        10
        rank 0 casts       GO_ON    STOP     GO_ON
        rank 1 casts       GO_ON    GO_ON    GO_ON
        both get           GO_ON    GO_ON    STOP     both leave after step 10

    The wishes travel between the hosts while the device works on the next step. An answer at once
    would make each step wait for the slowest rank. A run without other ranks gets its own wish.
    """

    def __init__(self, ranks: Ranks) -> None:
        # gloo, on the host: NCCL would need the wish on the GPU, and the host would wait for it.
        self._group: Any = dist.new_group(backend="gloo") if ranks.size > 1 else None
        self._vote = torch.zeros(1)
        self._under_way: dist.Work | None = None

    def __call__(self, wish: int) -> int:
        """Cast a wish, once per step on each rank. Returns what all ranks do now."""
        if self._group is None:
            return wish
        agreed = GO_ON
        if self._under_way is not None:
            self._under_way.wait()  # it had a whole step to arrive
            agreed = int(self._vote)
        self._vote = torch.tensor([float(wish)])
        self._under_way = dist.all_reduce(
            self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return agreed

    def end(self) -> None:
        """Wait for the last vote: a rank that leaves early would break it for the others."""
        if self._under_way is not None:
            self._under_way.wait()
