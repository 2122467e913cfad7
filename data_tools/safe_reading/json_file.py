"""Reads JSON files that this program wrote, and checks every type, since files get damaged.

A dataclass describes each kind of file. `typed` compares parsed JSON with the dataclass's type
hints. So a reader gets either an object whose fields have their types, or one exception.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import stat
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

INT64 = range(-(2**63), 2**63)


class Damaged(ValueError):
    """The content of a file is wrong. `str(error)` is the reason, without the path."""


def parse(data: bytes) -> Any:
    """The value of a JSON text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises Damaged if it is not JSON, if a key occurs twice in one object, if it is nested too deep,
    or if it holds a number that Python refuses to convert.
    """
    try:
        text = data.decode(json.detect_encoding(data))
        return json.loads(text, object_pairs_hook=_object)
    except Damaged:
        raise
    except UnicodeDecodeError:
        raise Damaged("not UTF-8 text") from None
    except RecursionError:
        raise Damaged("nested too deep") from None
    except json.JSONDecodeError as error:
        raise Damaged(f"not JSON: {error}") from None
    except ValueError:  # Python's message recommends a setting that does not help here
        raise Damaged("a number has too many digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Damaged("a key occurs twice")
    return found


def read_bytes(path: Path) -> bytes:
    """All bytes of a file. Raises OSError, or Damaged for a pipe or a device: reading those could
    wait or go on for ever."""
    # Without O_NONBLOCK, opening a pipe waits until another process writes to it.
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Damaged("not a regular file")
        return file.read()


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError or Damaged."""
    return parse(read_bytes(path))


def read_lines(path: Path) -> Iterator[Any]:
    """Yields the value of each line that is not empty; for a damaged line, yields a Damaged.

    Raises OSError, or Damaged if the path is not a plain file.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except Damaged as error:
            yield Damaged(f"line {number}: {error}")


def left_out(path: Path, bad: list[str]) -> str:
    """A line for the user about damaged rows of a log, which are left out; "" if there are none.

    bad: the reason for each row.
    """
    if not bad:
        return ""
    lines = "1 damaged line" if len(bad) == 1 else f"{len(bad):,} damaged lines, the first"
    return f"{path}: {lines} left out ({bad[0]})"


@functools.cache
def hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def typed(hint: Any, value: Any, name: str = "") -> Any:
    """Converts parsed JSON to the type `hint`.

    Types: dataclasses (an object with exactly their fields; those with defaults may be missing),
    int (64 bits), float (finite; an int is accepted), str, bool, None, list, tuple, dict with str
    keys, Literal, unions, Any.

    name: the name of the value in messages. Raises Damaged if the type differs; if `value` is
    itself a Damaged, as read_lines yields it, raises that.
    """
    if isinstance(value, Damaged):
        raise value
    return _typed(hint, value, name)


def _typed(hint: Any, value: Any, name: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, name)
    if origin in (Union, types.UnionType):
        return _union(inner, value, name)
    if origin is Literal and any(type(value) is type(x) and value == x for x in inner):
        return value
    if origin is list and isinstance(value, list):
        return [_typed(inner[0], x, f"{name}[{i}]") for i, x in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        endless = inner[1:] == (...,)
        kinds = inner[:1] * len(value) if endless else inner
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_typed(kind, x, f"{name}[{i}]") for i, (kind, x) in enumerate(pairs))
    if origin is dict and isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: _typed(inner[1], x, _dotted(name, k)) for k, x in value.items()}
    if hint is float and type(value) in (int, float):
        if value in INT64 if isinstance(value, int) else math.isfinite(value):
            return value
        raise Damaged(f"{name or 'it'} is not a finite number")
    if hint is int and type(value) is int:
        if value in INT64:
            return value
        raise Damaged(f"{name or 'it'} is a number of more than 64 bits")
    if hint in (str, bool, type(None)) and type(value) is hint:
        return value
    raise Damaged(f"{name or 'it'} is {_kind(value)}, not {_wanted(hint)}")


def _dataclass(hint: Any, value: Any, name: str) -> Any:
    if isinstance(value, hint):
        return value
    if not isinstance(value, dict):
        raise Damaged(f"{name or 'it'} is {_kind(value)}, not an object")
    hints, fields = hints_of(hint), {f.name: f for f in dataclasses.fields(hint) if f.init}
    found = {}
    for key, x in value.items():
        if key not in fields:
            raise Damaged(f"{_dotted(name, str(key))} is not known")
        found[key] = _typed(hints[key], x, _dotted(name, key))
    for key, field in fields.items():
        default = field.default, field.default_factory
        if key not in found and all(d is dataclasses.MISSING for d in default):
            raise Damaged(f"{_dotted(name, key)} is missing")
    return hint(**found)


def _union(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    for kind in kinds:
        try:
            return _typed(kind, value, name)
        except Damaged as error:
            last = error
    raise last


def _dotted(name: str, key: str) -> str:
    key = key if len(key) <= 60 else key[:60] + "..."
    return f"{name}.{key}" if name else key


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false", int: "a whole number", float: "a number", str: "text",
        list: "a list", dict: "an object", type(None): "null",
    }
    return kinds.get(type(value), type(value).__name__)


def _wanted(hint: Any) -> str:
    kinds = {
        bool: "true or false", int: "a whole number", float: "a number", str: "text",
        list: "a list", tuple: "a list", dict: "an object", type(None): "null",
    }
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple and get_args(hint)[1:] != (...,):
        return f"a list of {len(get_args(hint))}"
    return kinds.get(get_origin(hint) or hint, str(hint))


def shown(value: Any) -> Any:
    """A value that every JSON parser accepts: infinity and NaN become null, and undecodable bytes
    of file names are escaped. Many parsers refuse both."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(k)): shown(x) for k, x in value.items()}
    if isinstance(value, list | tuple):
        return [shown(x) for x in value]
    return value


def shown_json(value: Any, indent: int | None = 1) -> str:
    """The text that a command prints with --json: valid for every JSON parser, and ASCII."""
    return json.dumps(shown(value), indent=indent, allow_nan=False)


def printable(text: str) -> str:
    """Text that can be encoded in UTF-8: undecodable bytes of file names are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
