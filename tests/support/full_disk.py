"""A disk that fills up: a limit on the size of files."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def files_up_to(size):
    """Limit the files of this process to `size` bytes, while the block runs.

    A write beyond the limit is cut short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
