"""Every command's flags as dataclasses, and their parsing by tyro.

Training's flags are the fields of fastmoco.recipe, prep's those of data_tools.policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from typing import Any, TypeVar

import tyro

from data_tools.errors import UserError
from fastmoco.recipe import AUGMENTATIONS, RECIPES, Recipe, replace
from fastmoco.terminal.flags import RecipeFlags

T = TypeVar("T")


def parse(kind: type[T], argv: list[str], command: str, recipe: Recipe | None = None) -> T:
    """argv as a `kind`; --help prints and exits. Raises UserError, in one line, for a wrong flag.

    --recipe and --augmentation name starting points, so they are looked up before the rest;
    `recipe` is the starting point where --recipe names none.
    """
    refuse_empty(argv)
    defaults: dict[str, Any] = {}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        if f.name == "recipe":
            defaults["recipe"], argv = _starting_point(argv, recipe or RECIPES["moco-v2"])
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            defaults[f.name] = tyro.MISSING
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind, args=argv, prog=f"fastmoco {command}", default=kind(**defaults),
                description=inspect.cleandoc(kind.__doc__ or ""),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise UserError(f"{_one_line(said.getvalue())} (fastmoco {command} --help tells the flags)")


def refuse_empty(argv: list[str]) -> None:
    """UserError for an empty argument: an unset variable of a shell gives one, and as a path it
    would be the current directory."""
    for number, word in enumerate(argv, 1):
        before = argv[number - 2] if number > 1 else ""
        if word.startswith("--") and word.endswith("=") and word.count("=") == 1:
            raise UserError(f"{word[:-1]} is empty: give a value, or leave the flag out")
        if not word and before.startswith("--") and "=" not in before:
            raise UserError(f"{before} is empty: give a value, or leave the flag out")
        if not word:
            raise UserError(f'argument {number} is empty (""): give a path ("." is the current '
                            "directory)")


def _starting_point(argv: list[str], recipe: Recipe) -> tuple[RecipeFlags, list[str]]:
    """The recipe whose values are the flags' defaults, and argv without --augmentation."""
    named = _value(argv, "--recipe")
    if named is not None:
        if named not in RECIPES:
            raise UserError(f"--recipe {named}: there are {', '.join(RECIPES)}")
        recipe = RECIPES[named]
    name = _value(argv, "--augmentation")
    if name is not None:
        if name not in AUGMENTATIONS:
            raise UserError(f"--augmentation {name}: there are {', '.join(AUGMENTATIONS)}")
        recipe = replace(recipe, augmentation=AUGMENTATIONS[name])
        argv = _without(argv, "--augmentation")
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    return RecipeFlags(**values), argv


def _value(argv: list[str], flag: str) -> str | None:
    """The value of a flag; of its last mention, as the parser has it."""
    found = None
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == flag:
            found = following
        elif word.startswith(flag + "="):
            found = word[len(flag) + 1 :]
    return found


def _without(argv: list[str], flag: str) -> list[str]:
    kept, skip = [], False
    for word in argv:
        if not skip and word != flag and not word.startswith(flag + "="):
            kept.append(word)
        skip = word == flag
    return kept


def _one_line(box: str) -> str:
    """tyro's error box without its frame, its title and its pointer to --help. Where the terminal
    has no Unicode, a rule stands below the title instead of beside it."""
    lines = [line.strip().strip("│╭╮╰╯|+").strip() for line in box.splitlines()]
    rest = lines[2:] if len(lines) > 1 and lines[1] and not lines[1].strip("─-") else lines[1:]
    text: list[str] = []
    for line in rest:
        if not line.strip("─-") or line.startswith("For full helptext"):
            break
        text.append(line)
    if text and text[0].startswith("Missing from"):
        found = (re.match(r"[A-Z]+$|--[a-z][\w.-]*", line) for line in text[1:])
        names = [match[0] for match in found if match]
        if names:
            return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return " ".join(text) or " ".join(lines)
