"""The limits of this process (ulimit), and the errors that mean that it has reached one.

Such an error says nothing about the file that is being read. So a reader asks here first, before it
calls a file damaged.
"""

from __future__ import annotations

import errno

from data_tools.errors import Interrupted, UserError
from data_tools.quantities import human

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LEAST_MEMORY = 200_000_000  # bytes
FILES, MEMORY, SPACE = "NOFILE", "AS", "FSIZE"
# Messages of the dynamic loader and of libraries that get no memory.
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "can't allocate memory",
             "cannot create shared object descriptor", "cannot map zero-fill pages",
             "could not find/load shared object file", "could not create a primitive", "bad_alloc",
             "buffer allocation failed")
# Messages of libraries that get no thread.
NO_THREAD = ("can't start new thread", "thread creation failed", "resource temporarily unavailable")


def limit(name: str) -> int | None:
    """The soft limit RLIMIT_name of this process; None if there is none."""
    if resource is None:
        return None
    found = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
    return None if found == resource.RLIM_INFINITY else found


def reason(error: BaseException) -> str:
    """The resource that this process ran out of, its limit, and how to raise that.

    "" if the error has another cause, or if it is a MemoryError while no limit is set and the
    system gives no reason.
    """
    system = isinstance(error, OSError | RuntimeError | ImportError)
    text = str(error).lower() if system else ""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENFILE:
        return "too many files are open on this machine"
    if number == errno.EMFILE or "too many open files" in text:
        return f"too many open files: this process may have {limit(FILES)} (ulimit -n): raise it"
    most = limit(SPACE)
    if isinstance(error, OSError) and number == errno.EFBIG and most is not None:
        return f"larger than this process may write, {human(most)} (ulimit -f): raise it"
    most = limit(MEMORY)
    no_memory = number == errno.ENOMEM or any(words in text for words in NO_MEMORY)
    if most is not None and (no_memory or isinstance(error, MemoryError)):
        return f"out of memory: this process may map {human(most)} (ulimit -v): raise it"
    if number == errno.ENOMEM or NO_MEMORY[0] in text:
        return "out of memory"
    if number == errno.EAGAIN or any(words in text for words in NO_THREAD):
        more = "" if most is None else f" or on memory ({human(most)}, ulimit -v)"
        return f"no more threads: the limit on processes (ulimit -u){more} is reached: raise it"
    return ""


def why(error: OSError) -> str:
    """The reason that a file could not be read or written, for a line that names the file."""
    return reason(error) or error.strerror or str(error)


def refuse(error: BaseException) -> None:
    """Raises Interrupted if a limit of the machine caused the error, and not the file read."""
    why = reason(error)
    if why:
        raise Interrupted(f"{why}; then run the same again") from None


def check_memory() -> None:
    """Raises UserError if this process may map less memory than numpy needs to load.

    Otherwise numpy's OpenBLAS would end the process.
    """
    most = limit(MEMORY)
    if most is not None and most < LEAST_MEMORY:
        raise UserError(f"out of memory: this process may map {human(most)} (ulimit -v): allow "
                        f"{human(LEAST_MEMORY)} at least, 5 GB for training")


def raise_open_files() -> bool:
    """Raises the limit on open files to its hard limit. Returns False if it was there already."""
    if resource is None:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True
