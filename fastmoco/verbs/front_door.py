"""Wraps a verb as the public function: checks its arguments, speaks Python in its errors, and
completes its help. Commands call the verbs without it, so their errors name flags."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, get_type_hints

from data_tools.errors import UserError
from data_tools.policy import Policy
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.settings.field_texts import texts_of
from fastmoco.verbs.argument_types import fitted
from fastmoco.verbs.python_names import in_python

# An error may also advise on the settings of another function.
_SETTINGS: dict[str, Any] = (
    get_type_hints(Policy) | get_type_hints(RunOptions) | get_type_hints(Recipe)
)
FLAGS_LINE = re.compile(r"^( *)\*\*flags: .*$", re.MULTILINE)


def front_door(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the public form of a verb, under the name fastmoco.NAME.

    It raises TypeError, as Python does, for an argument that is missing, unknown or given twice,
    and UserError with Python's names for everything that the user can correct.
    """
    shape, hints = inspect.signature(function), hints_of(function)
    names = _SETTINGS | hints

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = shape.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        try:
            for name, value in bound.arguments.items():
                bound.arguments[name] = _checked(shape.parameters[name], hints[name], value)
            return function(*bound.args, **bound.kwargs)
        except UserError as error:
            error.args = (in_python(Exception.__str__(error), names),)
            raise

    checked.__module__, checked.__qualname__ = "fastmoco", function.__name__
    checked.__doc__ = doc_of(function, hints)
    return checked


def _checked(parameter: inspect.Parameter, hint: Any, value: Any) -> Any:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return tuple(fitted(hint, x, f"{parameter.name}[{i}]") for i, x in enumerate(value))
    return fitted(hint, value, parameter.name)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a verb's arguments by name, those of its settings included."""
    hints: dict[str, Any] = {}
    for kind in getattr(function, "__settings__", ()):
        hints |= get_type_hints(kind)
    return hints | get_type_hints(function)


def doc_of(function: Callable[..., Any], hints: dict[str, Any]) -> str:
    """Return a verb's docstring in which the line `**flags: ...` is replaced by one entry per
    flag, with the text that the settings have for it."""
    texts: dict[str, str] = {}
    for kind in getattr(function, "__settings__", ()):
        texts |= texts_of(kind)
    own = inspect.signature(function).parameters
    doc = inspect.cleandoc(function.__doc__ or "")

    def entries(line: re.Match[str]) -> str:
        return "\n".join(
            textwrap.fill(
                f"{name}: {in_python(text, hints)}", 88, initial_indent=line[1],
                subsequent_indent=line[1] + "    ",
            )
            for name, text in texts.items() if name in own and f"{line[1]}{name}: " not in doc
        )

    return FLAGS_LINE.sub(entries, doc)
