"""Judges a run's figures in plain words: a pure function of the events so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from fastmoco.recipe import Recipe
from fastmoco.runs.events import Evaluated, Event, Judged, Progress, Started
from fastmoco.runs.health_rules import RULES, Seen, Verdict

GRAVITY = {"alarm": 0, "warning": 1, "note": 2}


def verdicts(
    recipe: Recipe, samples: int, history: Iterable[Event], shown: Collection[str] = ()
) -> list[Verdict]:
    """Apply all rules to a run's Progress and Evaluated events so far; most serious first.

    `shown` names the warnings that are shown already, which clear at looser thresholds.
    """
    lines, knn = [], []
    for event in history:
        if isinstance(event, Progress):
            lines.append(event)
        elif isinstance(event, Evaluated):
            knn.append(event)
    seen = Seen(recipe, samples, lines, [p for p in lines if p.queue_fill >= 1], knn, False)
    found = [rule(replace(seen, shown=name in shown)) for name, rule in RULES.items()]
    return sorted((v for v in found if v is not None), key=lambda v: GRAVITY[v.severity])


class Watch:
    """Judges a run while it trains: reports each warning when it appears and when it clears."""

    def __init__(self, history: Iterable[Event] = ()) -> None:
        """`history`: the events that a resumed run reported before."""
        history = list(history)
        self._history = [e for e in history if isinstance(e, Progress | Evaluated)]
        self._recipe, self._samples = Recipe(), 0
        self._shown: dict[str, Judged] = {}
        for event in history:
            if isinstance(event, Judged):
                self._note(event)

    def __call__(self, event: Event) -> list[Judged]:
        """Take the next event; return the warnings that it makes appear or clear."""
        step = 0
        if isinstance(event, Started):
            self._recipe, self._samples, step = event.recipe, event.samples, event.first_step
        elif isinstance(event, Progress | Evaluated):
            self._history.append(event)
            step = event.step
        else:
            return []
        found = verdicts(self._recipe, self._samples, self._history, self._shown)
        now = {v.name for v in found}
        changed = [
            Judged(step, v.name, v.severity, v.text, over=False)
            for v in found if v.name not in self._shown
        ]
        changed += [
            replace(old, step=step, over=True)
            for name, old in self._shown.items() if name not in now
        ]
        for judged in changed:
            self._note(judged)
        return changed

    def _note(self, judged: Judged) -> None:
        if judged.over:
            self._shown.pop(judged.name, None)
        else:
            self._shown[judged.name] = judged
