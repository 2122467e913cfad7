"""Lets a function take the fields of settings as keywords, so that each is written down once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class FieldOf:
    """Default of a keyword that changes a field of another argument, for help: <recipe.epochs>."""

    def __init__(self, argument: str, field: str) -> None:
        self._text = f"<{argument}.{field}>"

    def __repr__(self) -> str:
        return self._text


def takes(*kinds: type, **changes: type) -> Callable[[F], F]:
    """Return a decorator for a function whose `**flags` are fields of settings.

    kinds: dataclasses whose fields the function takes, with their defaults. changes: dataclasses,
    by the argument that takes an instance; their fields are keywords that change it. The decorator
    gives the function a signature that lists all of them.
    """

    def decorated(function: F) -> F:
        shape = inspect.signature(function)
        own = [p for p in shape.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in own} | {"name"}  # a recipe's name is the argument `recipe`
        more = [(f, default_of(f)) for kind in kinds for f in dataclasses.fields(kind)]
        more += [(f, FieldOf(argument, f.name))
                 for argument, kind in changes.items() for f in dataclasses.fields(kind)]
        flags = [
            inspect.Parameter(f.name, _KEYWORD, default=value, annotation=f.type)
            for f, value in more if f.name not in taken
        ]
        described: Any = function
        described.__signature__ = shape.replace(parameters=[*own, *flags])
        described.__settings__ = (*kinds, *changes.values())
        return function

    return decorated


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a dataclass's field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def fields_in(kind: type[S], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a function's keywords that are fields of a dataclass."""
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return {name: value for name, value in flags.items() if name in names}
