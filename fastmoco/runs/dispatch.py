"""Sends each event to all listeners, and adds health warnings and disk errors."""

from __future__ import annotations

from collections.abc import Iterable

from data_tools.errors import UserError
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import Ended, Event, Listener, Noted
from fastmoco.runs.health import Watch


class Dispatch:
    """Sends each event to all listeners, then the health warnings that it causes, then a note if
    one of the run's own files can't be written."""

    def __init__(
        self, listeners: Iterable[Listener], watch: Watch, files: Iterable[Appended]
    ) -> None:
        self._listeners, self._watch, self._files = list(listeners), watch, list(files)

    def __call__(self, event: Event) -> None:
        """Send an event. Raises UserError after Ended if a file is not completely on disk."""
        self._send(event)
        for judged in self._watch(event):
            self._send(judged)
        for file in self._files:
            line = file.news()
            if line is not None:
                self._send(Noted(line))
        lost = [f for f in self._files if f.trouble]
        if isinstance(event, Ended) and lost:
            raise UserError(
                f"{lost[0].path}: its last records are not on disk ({lost[0].trouble}); the "
                f"checkpoint is whole"
            )

    def _send(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except BrokenPipeError:  # its reader has gone, which is no reason to stop training
                self._listeners.remove(listener)
