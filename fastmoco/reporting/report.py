"""Writes the report of a run: one HTML page that needs no network and no other file."""

from __future__ import annotations

import os
from pathlib import Path

from data_tools.errors import UserError
from data_tools.files import write_whole
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
    """Write the report of the run in a directory.

    `out`: its file [default: report.html in the run's directory]. `data`: the dataset for the
    pictures, if it has moved. `count`: number of its images whose features are compared. Returns
    the file, and a line for each part that is left out of the report. Raises UserError if there is
    no run, no such dataset, or the file can't be written.
    """
    if count < 2:
        raise UserError(f"--count {count}: give 2 or more")
    record = read_run(run)
    out = Path(out) if out is not None else record.path / "report.html"
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"{out}: give a file in a folder that exists, with --out")
    drawn = pictures(record, None if data is None else Path(data), count, device, threads, tick)
    evaluated, strange = tables(record.path)
    text = page(record, drawn, evaluated, waterfall(record.path))
    try:
        write_whole(out, printable(text).encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {why(error)}") from None
    damaged = [record.damaged] if record.damaged else []
    return out, [*dict.fromkeys(drawn.lacking.values()), *strange, *damaged]
