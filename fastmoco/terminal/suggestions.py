"""Suggests the word that the user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ": did you mean X?" for the known word that is most like `word`, or nothing.

    prefix: printed before X, and not part of `word` and `known`.
    """
    close = difflib.get_close_matches(word, list(known), 1)
    return f": did you mean {prefix}{close[0]}?" if close else ""
