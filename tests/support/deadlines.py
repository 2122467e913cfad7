"""A deadline for tests of code that once waited for ever."""

import signal
from contextlib import contextmanager


@contextmanager
def deadline(seconds):
    """Raise TimeoutError in the block if it takes longer. For the main thread."""
    def late(_signal, _frame):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
