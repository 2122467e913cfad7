"""Sizes and durations in words: 1.5e9 bytes as "1.5 GB", 7300 seconds as "2 h 01 min"."""

from __future__ import annotations

import math
import re

from data_tools.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def human(size: float) -> str:
    """Bytes in words: 999 B, 2 kB, 2.5 MB, 3.2 GB, 4.00 TB."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 1)):
        if round(size, digits) < 1000:  # 999,600 bytes are 1.0 MB, not 1,000 kB
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def duration(seconds: float) -> str:
    """Seconds in words: 4 s, 3 min 20 s, 2 h 05 min; "unknown time" for infinity and NaN."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def parse_size(text: str, flag: str = "--disk") -> int:
    """Convert "200GB", "1.5 TB" or "800GiB" to bytes. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    size = 0
    if match:
        number, unit, binary = match.groups()
        power = list(UNITS).index(unit.upper())
        size = round(float(number) * (1024**power if binary else UNITS[unit.upper()]))
    if size < 1:
        raise UserError(f"{flag} {text}: give a size, such as 200GB or 1.5TB")
    return size
