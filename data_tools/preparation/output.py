"""The directory that a dataset is written into: it ends whole, resumable, or as it was before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.errors import Interrupted, UserError
from data_tools.files import PARTIAL
from data_tools.lock import locked
from data_tools.manifest import UNFINISHED
from data_tools.preparation.journal import JOURNAL, OLD_SUFFIX, SUFFIX, Journal
from data_tools.safe_reading.limits import why

REMEDY = "wait for it, stop it, or give another folder"
# Every name that a killed run may leave. Only these are ever removed.
FOLDERS = ("beton", "tfrecord", "recordio", "webdataset")
OURS = re.compile(
    r"(train(-\d{5})?\.(beton|tfrecord|rec|tar|idx|tfrecord\.idx|tar\.idx)|index\.npy|digests\.npy"
    r"|keys\.txt|quarantine\.jsonl|duplicates\.jsonl|manifest\.json)(\.new|(\.[0-9a-f]{16})?\.partial)?"
)


class Output:
    """A directory that a run has locked."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def clear(self) -> None:
        """Removes all files that prep writes, except the mark of an unfinished run."""
        Journal(self.out, {}).remove()
        for folder in (self.out, *(self.out / name for name in FOLDERS)):
            if folder.is_dir():
                for path in list(folder.iterdir()):
                    if OURS.fullmatch(path.name) and path.name != UNFINISHED:
                        path.unlink()
                if folder != self.out:
                    remove([folder])

    def drop_partials(self) -> None:
        """Removes files that dead processes were writing. The beton stays, since it grows on."""
        for folder in (self.out, self.out / JOURNAL, *(self.out / name for name in FOLDERS)):
            for path in folder.glob("*." + 16 * "[0-9a-f]" + PARTIAL):
                path.unlink()

    def has_parts(self) -> bool:
        """True if a later run needs this folder: for its parts, or for the note that images were
        missing."""
        records = (self.out / JOURNAL).glob("*.*")
        if any(path.suffix in (SUFFIX, OLD_SUFFIX) for path in records):
            return True
        return Journal(self.out, {}).stopped_short() > 0


@contextmanager
def output_folder(
    out: Path, shared: bool = False, say: Callable[[str], None] = lambda _line: None,
    finished: Callable[[], bool] = lambda: False,
) -> Iterator[Output]:
    """Locks `out` for writing a dataset. shared: other processes may write there too (shards).

    `out` may be missing, empty, or hold the files of a killed run. Raises UserError if it holds
    anything else, if another prep is at work there, or if that one has just finished(). say(line)
    reports the takeover of a dead process's lock.

    On an error everything is removed again, unless parts are done: they stay for the next run. If
    the input is at fault (a UserError that is not an Interrupted), nothing stays in any case.
    """
    output = Output(out)
    made: list[Path] = []
    try:
        there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UserError(f"{out}: not a folder to write into: {error.strerror}") from None
    # Without the mark, files with our names may still belong to somebody else.
    foreign = {name for name in there if not OURS.fullmatch(name)} - {JOURNAL, *FOLDERS}
    if there and (foreign or UNFINISHED not in there):
        raise UserError(f"{out}: holds other files ({min(foreign or there)}); "
                        "give a new or an empty folder")
    try:
        for folder in [*reversed(out.parents), out]:
            if not folder.exists():
                folder.mkdir(exist_ok=shared)
                made.append(folder)
        with locked(out / UNFINISHED, "prep", REMEDY, remove=False, shared=shared, say=say) as lock:
            if finished():
                raise UserError(f"{out}: another prep has just finished this dataset; run prep "
                                "again, which then finds it")
            for line in lock.notes:
                say(line)
            if not shared:
                output.drop_partials()
            try:
                yield output
            except BaseException as error:
                bad_input = isinstance(error, UserError) and not isinstance(error, Interrupted)
                if not shared and (bad_input or not output.has_parts()):
                    output.clear()
                    (out / UNFINISHED).unlink()
                raise
            if not shared:
                output.drop_partials()  # left by workers of a cluster that died
                tidy(out)
    except OSError as error:
        remove(made)
        stays = "; what is done stays: make room and run prep again" if output.has_parts() else ""
        raise Interrupted(f"{error.filename or out}: can't be written: {why(error)}{stays}"
                          ) from None
    except BaseException:
        remove(made)
        raise


def tidy(out: Path) -> None:
    """Removes the journal and the mark of an unfinished run: the dataset is complete."""
    Journal(out, {}).remove()
    (out / UNFINISHED).unlink(missing_ok=True)


def remove(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:  # not empty: someone else writes there
            return
