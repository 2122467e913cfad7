"""The lines that `prep --plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_tools.quantities import duration, human

if TYPE_CHECKING:
    from data_tools.planning.plan import Plan


def lines(found: Plan) -> list[str]:
    """The plan as lines of text: a table of the ways, then the choice."""
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
    damaged = max((row.undecodable for row in found.rows), default=0)
    if damaged:
        out.append(f"about {damaged:.1%} of the images are stored but can't be decoded; they were "
                   "not loaded here: --check decode quarantines them")
    if found.chosen < 0:
        return [*out, found.reason]
    row = found.rows[found.chosen]
    flags = f" {row.flags}" if row.flags else ""
    return [*out, f"choose: {row.name}: {found.reason}", f"  fastmoco prep SOURCE OUT{flags}"]
