"""The directory a dataset is written into: it ends whole, or as if nothing had been."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import UserError
from data_tools.manifest import UNFINISHED


@contextmanager
def output_folder(out: Path, names: Collection[str]) -> Iterator[None]:
    """Holds `out` open for writing files of these names; on any error all of it goes again.

    `out` may be missing, empty, or hold what a killed run of ours left: that is cleared. Raises
    UserError where it holds anything else, or where another prep is at work.
    """
    ours = {UNFINISHED, *names}
    made: list[Path] = []
    try:
        there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UserError(f"{out}: not a folder to write into: {error.strerror}") from None
    # Without the mark these names may be someone else's files.
    if there and not (UNFINISHED in there and there <= ours):
        raise UserError(f"{out}: holds other files ({min(there)}); give a new or an empty folder")
    try:
        for folder in [*reversed(out.parents), out]:
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with open(out / UNFINISHED, "ab") as mark:
            lock(mark, out)
            clear(out, names)
            try:
                yield
            except BaseException:
                clear(out, ours)
                raise
    except OSError as error:
        remove(made)
        raise UserError(f"{error.filename or out}: can't be written: {error.strerror}") from None
    except BaseException:
        remove(made)
        raise


def lock(mark: io.BufferedWriter, out: Path) -> None:
    """Raises UserError where another prep writes into `out`. The lock dies with its process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{out}: another prep is writing here; wait for it, or stop it") from None


def clear(out: Path, names: Collection[str]) -> None:
    for name in names:
        (out / name).unlink(missing_ok=True)


def remove(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:  # not empty: someone else writes there
            return
