"""Locks a run's directory, so that only one train at a time writes into it.

Imports nothing slow, because the command takes the lock before it loads torch.
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
    """Lock a run's directory while the block runs.

    Yields lines for the user (data_tools.lock.Lock.notes). Makes a missing directory, and removes
    it again if nothing was written into it. A call inside the block for the same directory shares
    the lock. Under torchrun rank 0 holds the lock for all ranks. Raises UserError if another train
    holds it, or if the directory is not writable.
    """
    path, mine = Path(out), _mine.get() or {}
    key = os.path.realpath(path)
    if key in mine:
        yield mine[key].notes
        return
    # RunDir reports that there is no run to resume.
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
    """Make the error for a run's directory that is not writable."""
    return UserError(
        f"{error.filename or path}: {why(error)}; the run's directory must be writable "
        f"(--out names another)"
    )


def _remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones of these folders, the deepest first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
