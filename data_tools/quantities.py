"""Sizes and times as people write them: "200GB" in bytes, seconds as "4.2 min"."""

from __future__ import annotations

import re

from data_tools.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


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
