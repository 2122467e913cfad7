"""Counts the pipes, sockets and devices in a source. They are left out, and one note says so."""

from __future__ import annotations


class Special:
    """The number of special files of each kind, and the first name of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, key: str, kind: str) -> None:
        """Counts a file. kind: "pipe", "socket" or "device"."""
        count, first = self._found.get(kind, (0, key))
        self._found[kind] = count + 1, min(first, key)

    def lines(self) -> list[str]:
        """The note, as a list of one line; an empty list if there is none."""
        if not self._found:
            return []
        kinds = [
            f"1 {kind} ({first})" if count == 1 else f"{count:,} {kind}s (the first: {first})"
            for kind, (count, first) in sorted(self._found.items())
        ]
        return [f"left out, since they are no plain files: {', '.join(kinds)}"]
