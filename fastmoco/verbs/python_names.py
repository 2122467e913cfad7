"""Translates an error from the command line's words into Python's: `--batch 0` into `batch=0`.

The library checks its settings in one place, for both doors, and names them as flags. Whatever a
public function raises passes through here.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

FLAG = re.compile(r"(?<![\w./=-])--([A-Za-z]\w*(?:[.-]\w+)*)")
NUMBER = re.compile(r"(?:[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?inf|nan|None)")
# A value behind a flag inside a sentence: a number, 90s, resnet18, cuda:0, 2/class, 1%, VAL.
VALUE = re.compile(r" ([-+]?[\w.]*\d[\w.:/%+-]*|[-+]?(?:inf|nan|None)\b|[A-Z]{2,}\b|cuda\b|cpu\b)")
WORD = re.compile(r" ([\w-]+)")
# A sentence that begins with a flag and the value that it refuses: `--batch 0: give 1 or more`.
REFUSED = re.compile(r"--([A-Za-z]\w*(?:[.-]\w+)*) (.+?): ")
SENTENCE = re.compile(r"\b(?:is|are|and|or|goes|with|needs?|takes|leaves|does|has)\b")
SHELL = ("json", "sparse", "help")  # flags that only programs on the command line have


def in_python(text: str, hints: Mapping[str, Any]) -> str:
    """Return an error's text with Python's names for flags.

    hints: types by the names of the function's arguments. They decide how a value is written.
    """
    refused = REFUSED.match(text)
    if refused and "--" not in refused[2] and not SENTENCE.search(refused[2]):
        name, on = _name(refused[1], hints)
        if on:
            start = f"{name}={_written(refused[2], _hint(name, hints))}: "
            return start + _sentence(text[refused.end() :], hints)
    return _sentence(text, hints)


def _sentence(text: str, hints: Mapping[str, Any]) -> str:
    found, at = [], 0
    while match := FLAG.search(text, at):
        found.append(text[at : match.start()])
        name, on = _name(match[1], hints)
        hint, at = _hint(name, hints), match.end()
        choices = _texts(hint)
        if name in SHELL:
            found.append(match[0])
        elif hint is bool:
            found.append(f"{name}={on}")
        elif (word := WORD.match(text, at)) and word[1] in choices:
            found.append(f"{name}={word[1]!r}")
            at = word.end()
        elif value := VALUE.match(text, at):
            shown = value[1].rstrip(".:")
            found.append(f"{name}={_written(shown, hint)}")
            at += 1 + len(shown)
        else:
            found.append(f"`{name}`")
    return "".join(found) + text[at:]


def _name(flag: str, hints: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the argument of a flag, and False if the flag switches it off (--no-keep)."""
    name = flag.replace("-", "_")
    if name.startswith("no_") and name not in hints:
        return name[3:], False
    return name, True


def _hint(name: str, hints: Mapping[str, Any]) -> Any:
    hint = hints.get(name, str)
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    optional = get_origin(hint) in (Union, types.UnionType) and len(inner) == 1
    return inner[0] if optional else hint


def _texts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _written(value: str, hint: Any) -> str:
    """Return a flag's value as Python code."""
    parts = value.split(" ")
    if all(NUMBER.fullmatch(part) for part in parts):
        sequence = get_origin(hint) is tuple or len(parts) > 1
        inside = ", ".join(parts) + ("," if len(parts) == 1 else "")
        return f"({inside})" if sequence else value
    return value if re.fullmatch(r"[A-Z]{2,}", value) else repr(value)
