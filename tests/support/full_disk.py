"""A disk that fills up: a limit on the size of files."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def files_up_to(size):
    """No file of this process may grow beyond `size` bytes: a write that would is cut short, the
    next fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
