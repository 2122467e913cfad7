"""Lists the flags that a dataclass describes, for help pages, completion and "did you mean"."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastmoco.recipe import AUGMENTATIONS
from fastmoco.settings.field_texts import texts_of
from fastmoco.settings.rules import flag
from fastmoco.terminal.flags import FLAT, RecipeFlags

IN_WORDS = re.compile(r"(.*?)\.? \[default: (.*)\]\.")  # at the end of a field's docstring
SPELLINGS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Flag:
    """One flag, or one argument that is given by its position."""

    name: str
    """As typed: --bn-splits, or DATA for a position."""
    value: str
    """Placeholder of the value: INT, NAME, {imagenet,cifar}, or empty for a switch."""
    choices: tuple[str, ...]
    """All values, if they are a fixed list."""
    text: str
    """Description on one line, without the default."""
    default: str
    """Default as typed or in words, or empty if there is none."""
    required: bool
    """True if the command needs it."""
    many: bool
    """True if it takes any number of values."""

    @property
    def positional(self) -> bool:
        """True if it is given by its position, without a name."""
        return not self.name.startswith("--")


def flags_of(kind: type, recipe: RecipeFlags | None = None) -> list[Flag]:
    """Return the flags of a command's dataclass, positions included.

    recipe: the recipe whose values are the defaults [default: moco-v2].
    """
    given = {} if recipe is None else {"recipe": recipe}
    return list(_flags(kind, "", given))


def _flags(kind: type, prefix: str, given: dict[str, Any]) -> Iterator[Flag]:
    hints, texts = typing.get_type_hints(kind, include_extras=True), texts_of(kind)
    for f in dataclasses.fields(kind):
        base: Any = hints[f.name]
        extras: list[Any] = []
        if typing.get_origin(base) is Annotated:
            base, *extras = typing.get_args(base)
        value = given.get(f.name, _default(f))
        settings: list[Any] = [e for e in extras if isinstance(e, type(FLAT))]
        if isinstance(base, type) and dataclasses.is_dataclass(base):
            inner = {} if value is dataclasses.MISSING else vars(value)
            if f.name == "augmentation":
                yield _named_augmentation()
            flat = FLAT in settings
            yield from _flags(base, "" if flat else f"{prefix}{flag(f.name)}.", inner)
        elif tyro.conf.Positional in extras:
            name = next(s.metavar for s in settings if s.metavar)
            yield _flag(name.removesuffix("..."), base, value, texts.get(f.name, ""), "")
        else:
            name = next((s.name for s in settings if s.name), f.name)
            text = texts.get(f.name, "")
            text = f.metadata.get("off", text) if value is True else text
            metavar = next((s.metavar for s in settings if s.metavar), "")
            yield _flag(f"--{prefix}{flag(name)}", base, value, text, metavar)


def _flag(name: str, base: Any, value: Any, text: str, metavar: str) -> Flag:
    required = value is dataclasses.MISSING
    if base is bool:
        return Flag(opposite(name) if value is True else name, "", (), text, "", required, False)
    choices = next((typing.get_args(t) for t in _leaves(base)
                    if typing.get_origin(t) is Literal), ())
    default = "" if required else _shown(value)
    if in_words := IN_WORDS.fullmatch(text):
        text, default = f"{in_words[1]}.", in_words[2]
    if metavar and choices:
        text += f" One of {', '.join(choices)}."
    value_name = metavar or _spelled(base)
    return Flag(name, value_name, choices, text, default, required, Ellipsis in _parts(base))


def opposite(name: str) -> str:
    """Return the other spelling of a switch: --a.no-gray-first for --a.gray-first, or back."""
    before, dot, last = name.removeprefix("--").rpartition(".")
    last = last.removeprefix("no-") if last.startswith("no-") else f"no-{last}"
    return f"--{before}{dot}{last}"


def _named_augmentation() -> Flag:
    """Return --augmentation NAME, which the parser handles before the dataclass."""
    names = tuple(AUGMENTATIONS)
    text, default = "Start from this named augmentation.", "that of the recipe"
    return Flag("--augmentation", f"{{{','.join(names)}}}", names, text, default, False, False)


def _default(f: dataclasses.Field[Any]) -> Any:
    factory = f.default_factory
    return f.default if factory is dataclasses.MISSING else factory()


def _parts(base: Any) -> tuple[Any, ...]:
    return typing.get_args(base) if typing.get_origin(base) is tuple else ()


def _leaves(base: Any) -> list[Any]:
    """Return the types of single values in a tuple or an optional type."""
    if typing.get_origin(base) in (tuple, typing.Union, types.UnionType):
        return [t for t in typing.get_args(base) if t not in (Ellipsis, type(None))]
    return [base]


def _spelled(base: Any) -> str:
    words = [
        f"{{{','.join(map(str, typing.get_args(t)))}}}" if typing.get_origin(t) is Literal
        else SPELLINGS[t] for t in _leaves(base)
    ]
    return " ".join(words) + (" ..." if Ellipsis in _parts(base) else "")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
