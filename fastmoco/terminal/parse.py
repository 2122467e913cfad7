"""Parses a command's flags into its dataclass with tyro. Every error is one line.

The flags of training are the fields of fastmoco.recipe, those of prep are in data_tools.policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from typing import Any, TypeVar

import tyro

from data_tools.errors import UserError
from fastmoco.recipe import AUGMENTATIONS, MOCO_V2, RECIPES, Recipe, replace
from fastmoco.terminal.flag_list import flags_of, opposite
from fastmoco.terminal.flags import RecipeFlags
from fastmoco.terminal.help import page
from fastmoco.terminal.suggestions import did_you_mean

T = TypeVar("T")


def parse(kind: type[T], argv: list[str], command: str, recipe: Recipe | None = None) -> T:
    """Return argv as a `kind`. --help prints the help page and exits with 0.

    --recipe and --augmentation name starting points, so they are looked up before the other flags.
    recipe: the starting point if there is no --recipe [default: moco-v2].
    Raises UserError, in one line, for a wrong flag.
    """
    refuse_empty(argv)
    given = argv
    defaults: dict[str, Any] = {}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        if f.name == "recipe":
            defaults["recipe"], argv = _starting_point(argv, recipe or MOCO_V2)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            defaults[f.name] = tyro.MISSING
    if "-h" in argv or "--help" in argv:
        print(page(kind, command, defaults.get("recipe")), end="")
        raise SystemExit(0)
    # A resumed run's recipe may have switched anything on; the flag that did so must still parse.
    pairs = () if "recipe" in defaults else (tyro.conf.FlagCreatePairsOff,)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                kind, args=argv, prog=f"fastmoco {command}", default=kind(**defaults),
                description="", config=pairs,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    line = _unknown_flag(kind, given, command) or _one_line(printed.getvalue())
    raise UserError(f"{line} (fastmoco {command} --help lists the flags)")


def _unknown_flag(kind: type, argv: list[str], command: str) -> str:
    """Return the error for the first flag that the command does not have, or nothing."""
    flags = [f for f in flags_of(kind) if not f.positional]
    listed = {f.name.removeprefix("--"): f.name for f in flags}
    known = set(listed.values())
    if "--recipe" in known:
        known |= {opposite(f.name) for f in flags if not f.value}
    for word in argv:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            bare = name.removeprefix("--")
            inner = next((n for n in listed if n.endswith(f".{bare}")), "")
            hint = f": did you mean --{inner}?" if inner else did_you_mean(bare, listed, "--")
            return f"{command} has no flag {name}{hint}"
    return ""


def refuse_empty(argv: list[str]) -> None:
    """Raise UserError for an empty argument. A shell passes one for a variable that is not set,
    and as a path it would mean the current directory."""
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
    """Return the recipe whose values are the defaults, and argv without --augmentation."""
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
    return RecipeFlags.of(recipe), argv


def _value(argv: list[str], flag: str) -> str | None:
    """Return the last value of a flag, which is also the one that tyro takes."""
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
    """Return the text of tyro's error box without its frame, its title and its hint at --help. If
    the terminal has no Unicode, the box has a line of dashes below its title."""
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
