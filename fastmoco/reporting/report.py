"""One page about a run, which needs no network and no other file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.progress import Tick
from data_tools.safe_reading.json_file import printable
from data_tools.safe_reading.limits import why
from fastmoco.reporting.page import page
from fastmoco.reporting.pictures import pictures
from fastmoco.reporting.tables import tables, waterfall
from fastmoco.runs.record import read_run


def report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    count: int = 1000,
    device: str = "auto",
    threads: int = 0,
    tick: Tick | None = None,
) -> tuple[Path, list[str]]:
    """Write the page of the run in a directory; returns its file, and a line on each thing that is
    left out of it.

    `data` is the dataset for the pictures where it has moved since; of up to `count` of its images
    the features are compared. Raises UserError where there is no run, or no such dataset.
    """
    if count < 2:
        raise UserError(f"--count {count}: give 2 or more")
    record = read_run(run)
    out = Path(out) if out is not None else record.path / "report.html"
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"{out}: give a file in a folder that is there, with --out")
    drawn = pictures(record, None if data is None else Path(data), count, device, threads, tick)
    evaluated, strange = tables(record.path)
    text = page(record, drawn, evaluated, waterfall(record.path))
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(printable(text), "utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {why(error)}") from None
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)
    damaged = [record.damaged] if record.damaged else []
    return out, [*dict.fromkeys(drawn.lacking.values()), *strange, *damaged]
