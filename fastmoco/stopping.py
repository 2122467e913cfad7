"""SIGTERM, SIGINT and SIGHUP as a wish that a run asks for between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGINT and a closed terminal set; any second signal ends the process
    as usual. What the parent had ignored (nohup) stays ignored."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return

    asking = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    before: dict[int, Any] = {int(s): signal.getsignal(s) for s in asking}
    before = {number: old for number, old in before.items() if old != signal.SIG_IGN}

    def restore() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    def handler(_number: int, _frame: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        restore()
