"""The plan for people, and the sizes that they write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_tools.errors import UserError

if TYPE_CHECKING:
    from data_tools.plan import Plan

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def lines(found: Plan) -> list[str]:
    """The plan for people."""
    heads = ("", "on disk", "+-", "prep img/s", "prep takes", "load img/s", "loader", "FFCV's")
    table = [heads] + [
        (row.name, human(row.bytes), f"{row.bytes_error:.0%}", f"{row.prepare_rate:,.0f}",
         duration(row.prepare_seconds), f"{row.load_rate:,.0f}", human(row.loader_bytes),
         human(row.ffcv_bytes))
        for row in found.rows
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    out = [f"{found.source}: predicted from {found.sampled:,} of {found.images:,} images, tried on "
           "this machine", f"loading: {found.loading}; disk: {human(found.disk_rate)}/s"]
    for name, *cells in table:
        right = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        out.append("  ".join([f"{name:<{widths[0]}}", *right]).rstrip())
    bad = found.rows[0].quarantined if found.rows else 0
    if bad:
        out.append(f"about {bad:.1%} of the images would be quarantined")
    if found.chosen < 0:
        return [*out, found.reason]
    row = found.rows[found.chosen]
    flags = f" {row.flags}" if row.flags else ""
    return [*out, f"choose: {row.name}: {found.reason}", f"  fastmoco prep SOURCE OUT{flags}"]


def human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit in ("B", "kB") else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def duration(seconds: float) -> str:
    steps = ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h"))
    divisor, unit = next((divisor, unit) for limit, divisor, unit in steps if seconds < limit)
    return f"{max(seconds / divisor, 0.1):,.1f} {unit}"


def parse_size(text: str, flag: str = "--disk") -> int:
    """"200GB", "1.5 TB", "800GiB" in bytes. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    size = 0
    if match:
        number, unit, binary = match.groups()
        power = list(UNITS).index(unit.upper())
        size = round(float(number) * (1024**power if binary else UNITS[unit.upper()]))
    if size < 1:
        raise UserError(f"{flag} {text}: give a size, such as 200GB or 1.5TB")
    return size
