"""A run's directory belongs to one train at a time, from its first second to its last.

Imports nothing slow: the command takes the lock before torch is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from data_tools.errors import UserError
from data_tools.lock import Lock, locked
from data_tools.safe_reading.limits import why

LOCK = "run.lock"
_mine: ContextVar[dict[str, Lock] | None] = ContextVar("_mine", default=None)


@contextmanager
def own_run(
    out: str | os.PathLike[str], resume: bool, say: Callable[[str], None] | None = None
) -> Iterator[list[str]]:
    """Hold a run's directory while the block runs; yields lines for the user: see
    data_tools.lock.Lock.notes.

    The directory is made if it is missing, and goes again if nothing was written into it. A call
    inside the block, for the same directory, shares the lock. Under torchrun rank 0 holds it for
    all. Raises UserError if another train holds it, or if it can't be written into.
    """
    path, mine = Path(out), _mine.get() or {}
    key = os.path.realpath(path)
    if key in mine:
        yield mine[key].notes
        return
    # A run to resume that is not there: RunDir says so.
    if os.environ.get("RANK", "0") != "0" or (resume and not path.is_dir()):
        yield []
        return
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; give a directory with --out")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    remedy = "wait for it, stop it, or give another --out"
    try:
        path.mkdir(parents=True, exist_ok=True)
        holding = locked(path / LOCK, "train", remedy, remove=True, say=say)
        lock = holding.__enter__()
    except OSError as error:
        _remove_empty(made)
        raise unwritable(error, path) from None
    token = _mine.set({**mine, key: lock})
    try:
        yield lock.notes
    finally:
        _mine.reset(token)
        holding.__exit__(None, None, None)
        _remove_empty(made)


def unwritable(error: OSError, path: Path) -> UserError:
    """The error for a run's directory that can't be written into."""
    return UserError(
        f"{error.filename or path}: {why(error)}; the run's directory must be writable "
        f"(--out names another)"
    )


def _remove_empty(folders: list[Path]) -> None:
    """Remove those folders, the deepest first, that hold nothing."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
