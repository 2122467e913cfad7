"""SIGTERM, SIGINT and SIGHUP as a wish that a run asks for between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from fastmoco.system.ranks import GO_ON, Ranks

AT_ONCE = 2.0  # seconds


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGINT and a closed terminal set; any later signal ends the process
    as usual. What the parent had ignored (nohup) stays ignored.

    Not one that comes at once: torchrun passes on to its ranks what a terminal sent them too.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
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
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif time.monotonic() - first > AT_ONCE:
            restore()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        restore()


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
