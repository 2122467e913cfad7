"""Works around a bug of Python before 3.11.8 and 3.12.2: parsing source code fails now and then.

These versions of CPython count the depth of the syntax tree under construction in one place per
process (https://github.com/python/cpython/issues/106905). If the garbage collector runs meanwhile,
a finalizer may parse something itself (formatting a traceback does), or let another thread do so.
Then the count is wrong, and ast.parse raises SystemError: "AST constructor recursion depth
mismatch". Many libraries parse source: tyro for the docstrings of flags, numpy for the headers of
.npy files, numba and torch for the functions that they compile.
"""

from __future__ import annotations

import ast
import functools
import gc
import os
import sys
import threading

FIXED = (3, 12, 2)  # also 3.11.8, where the guard costs a microsecond and does no harm


class Collection:
    """Pauses the garbage collector while any thread is inside `with`."""

    def __init__(self) -> None:
        # A reentrant lock: a signal handler may format a traceback while its thread holds it.
        self._lock = threading.RLock()
        self._inside, self._was_on = 0, False
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_on:
                gc.enable()


def guard() -> None:
    """Makes ast.parse, which all of these libraries call, pause the garbage collector.

    Further calls have no effect.
    """
    if sys.version_info >= FIXED or hasattr(ast.parse, "__wrapped__"):
        return
    parse, collection = ast.parse, Collection()

    @functools.wraps(parse)
    def parse_alone(*args, **kwargs):  # type: ignore[no-untyped-def]
        with collection:
            return parse(*args, **kwargs)

    ast.parse = parse_alone
