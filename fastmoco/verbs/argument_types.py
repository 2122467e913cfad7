"""Checks the types of a public function's arguments, and converts the harmless ones: a list to a
tuple, NumPy's numbers to Python's, a Path to text."""

from __future__ import annotations

import collections.abc
import dataclasses
import numbers
import os
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np

from data_tools.errors import UserError

LONGEST = 60  # characters of a value that an error shows


class WrongType(UserError, TypeError):
    """An argument has a type that the function does not take."""


def fitted(hint: Any, value: Any, name: str) -> Any:
    """Return an argument as a value of its type `hint`.

    Raises WrongType, which names the argument, its type and the wanted type, or UserError for a
    text that is not one of the allowed ones.
    """
    found = _fitted(hint, value, name)
    if found is _NO:
        if isinstance(value, str) and (allowed := _choices(hint)):
            raise UserError(f"{name}={value!r}: give {allowed}")
        raise WrongType(
            f"{name}={_short(value)}: is of type {type(value).__name__}; give {wanted(hint)}"
        )
    return found


_NO: Any = object()  # the value does not fit


def _fitted(hint: Any, value: Any, name: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if is_empty(value) and any(get_origin(kind) is os.PathLike for kind in inner):
            refuse_empty(name)
        each = (_fitted(kind, value, name) for kind in inner)
        return next((found for found in each if found is not _NO), _NO)
    if origin is Literal:
        return value if any(type(value) is type(x) and value == x for x in inner) else _NO
    if origin in (tuple, collections.abc.Sequence):
        return _sequence(inner, value, name)
    if origin is collections.abc.Callable:
        return value if callable(value) else _NO
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, value, name)
    return _plain(origin or hint, value, name)


def _plain(kind: Any, value: Any, name: str) -> Any:
    if kind is type(None):
        return None if value is None else _NO
    if kind is bool:
        return bool(value) if isinstance(value, bool | np.bool_) else _NO
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        fits = isinstance(value, number) and not isinstance(value, bool)
        return kind(value) if fits else _NO
    if kind is Path:
        if is_empty(value):
            refuse_empty(name)
        return Path(value) if isinstance(value, str | os.PathLike) else _NO
    if kind is os.PathLike:
        return value if isinstance(value, os.PathLike) else _NO
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, kind) else _NO


def is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def refuse_empty(name: str) -> NoReturn:
    """Raise UserError for an empty text, which as a path would be the current folder."""
    raise UserError(f'{name}="": an empty path; give "." for the current folder')


def _sequence(inner: tuple[Any, ...], value: Any, name: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return _NO
    some = [kind for kind in inner if kind is not ...]
    kinds = some * len(value) if len(some) == 1 else some
    if len(kinds) != len(value):
        return _NO
    found = tuple(_fitted(kind, x, name) for kind, x in zip(kinds, value, strict=True))
    return _NO if any(x is _NO for x in found) else found


def _dataclass(hint: type, value: Any, name: str) -> Any:
    """Settings are checked field by field: a dataclass itself accepts anything."""
    if not isinstance(value, hint):
        return _NO
    if not dataclasses.fields(hint) or not _is_settings(hint):
        return value
    hints = get_type_hints(hint)
    changed = {}
    for f in dataclasses.fields(hint):
        now = getattr(value, f.name)
        fits = fitted(hints[f.name], now, f"{name}.{f.name}")
        if fits is not now:
            changed[f.name] = fits
    return dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]


def _is_settings(hint: type) -> bool:
    """True for frozen dataclasses, which hold settings; a Checkpoint holds results."""
    return bool(hint.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def wanted(hint: Any) -> str:
    """Return the type `hint` in words for an error."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(wanted, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (tuple, collections.abc.Sequence):
        return f"a sequence of {' and '.join(wanted(kind) for kind in inner if kind is not ...)}"
    if origin is collections.abc.Callable:
        return "a function"
    return str((origin or hint).__name__).replace("NoneType", "None")


def _choices(hint: Any) -> str:
    """Return the allowed texts of a type, in words, if it allows nothing but some texts."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = tuple(kind for kind in inner if kind is not type(None))
        return _choices(inner[0]) if len(inner) == 1 else ""
    return wanted(hint) if origin is Literal else ""


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
