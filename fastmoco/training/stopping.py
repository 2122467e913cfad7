"""SIGTERM, SIGINT and SIGHUP as a wish that a run asks for between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
