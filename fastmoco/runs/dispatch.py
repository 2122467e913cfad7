"""How a run's events reach its listeners, and what is told besides."""

from __future__ import annotations

from collections.abc import Iterable

from data_tools.errors import UserError
from fastmoco.runs.append_file import Appended
from fastmoco.runs.events import Ended, Event, Listener, Noted
from fastmoco.runs.health import Watch


class Telling:
    """Hands each event to all listeners, then what health says of it, then which of the run's own
    files could not be written."""

    def __init__(
        self, listeners: Iterable[Listener], watch: Watch, files: Iterable[Appended]
    ) -> None:
        self._listeners, self._watch, self._files = list(listeners), watch, list(files)

    def __call__(self, event: Event) -> None:
        """Raises UserError after the last event where a file is not wholly on disk."""
        self._hand(event)
        for judged in self._watch(event):
            self._hand(judged)
        for file in self._files:
            line = file.news()
            if line is not None:
                self._hand(Noted(line))
        lost = [f for f in self._files if f.trouble]
        if isinstance(event, Ended) and lost:
            raise UserError(
                f"{lost[0].path}: its last records are not on disk ({lost[0].trouble}); the "
                f"checkpoint is whole"
            )

    def _hand(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except BrokenPipeError:  # nobody reads it any more: no reason to stop training
                self._listeners.remove(listener)
