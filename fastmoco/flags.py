"""Every command's flags as dataclasses, and their parsing by tyro.

Training's flags are the fields of fastmoco.recipe, prep's those of data_tools.policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from data_tools.errors import UserError
from data_tools.policy import Policy
from fastmoco.recipe import AUGMENTATIONS, RECIPES, Recipe, RunOptions, replace

T = TypeVar("T")
FLAT = tyro.conf.arg(name="")


def positional(name: str) -> Any:
    """A path that stands by its place; `name` is what help and errors call it."""
    return Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar=name)]




@dataclass(frozen=True)
class RecipeFlags(Recipe):
    """A recipe whose name is the flag --recipe."""

    name: Annotated[Literal[tuple(RECIPES)], tyro.conf.arg(name="recipe")] = "moco-v2"  # type: ignore
    """Named recipe to begin from; the other flags change it. Also: --augmentation v1|v2|cifar."""

    def plain(self) -> Recipe:
        """The same values as a Recipe."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


@dataclass(frozen=True)
class PrepArgs:
    """Prepare an image folder (class folders, or flat), or a tar of one, for training."""

    source: positional("SOURCE")  # type: ignore[valid-type]
    """Image folder, or a tar of one."""
    out: positional("OUT")  # type: ignore[valid-type]
    """Directory of the prepared dataset: new or empty."""
    policy: Annotated[Policy, FLAT] = field(default_factory=Policy)
    json: bool = False
    """Print the manifest as JSON."""


@dataclass(frozen=True)
class ViewsArgs:
    """Draw a contact sheet: each source with its two windows, and the views q and k."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    out: Path = Path("views.png")
    """Image file to write."""
    count: int = 24
    """Images on the sheet."""
    epoch: int = 0
    """Epoch whose draws are shown."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)


@dataclass(frozen=True)
class BenchArgs:
    """Measure images/s of every stage, alone and together, and say what to change."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)
    device: str = "auto"
    """cuda, cuda:N or cpu."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    compile: bool = False
    """Compile encoders and augmentation."""
    rounds: int = 7
    """Interleaved rounds; medians are shown."""
    seconds: float = 1.0
    """Seconds of each stage in a round."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class TrainArgs:
    """Pre-train an encoder. A folder that was never prepared is prepared into a cache first."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)
    options: Annotated[RunOptions, FLAT] = field(default_factory=RunOptions)
    json: bool = False
    """Tell the run as JSON, one event a line."""


@dataclass(frozen=True)
class KnnArgs:
    """Weighted kNN: the bank is TRAIN, the queries are VAL, the features the pooled trunk's."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset: the bank."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset: the queries."""
    companions: bool = True
    """Also the same encoder at step 0, and centred raw pixels."""
    device: str = "auto"
    """cuda, cuda:N or cpu."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    json: bool = False
    """Print the rows as JSON."""


def parse(kind: type[T], argv: list[str], command: str, recipe: Recipe | None = None) -> T:
    """argv as a `kind`; --help prints and exits. Raises UserError, in one line, for a wrong flag.

    --recipe and --augmentation name starting points, so they are looked up before the rest;
    `recipe` is the starting point where --recipe names none.
    """
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
                description=kind.__doc__, config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    raise UserError(f"{_one_line(said.getvalue())} (fastmoco {command} --help tells the flags)")


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
    """tyro's error box without its frame, its title and its pointer to --help."""
    lines = [line.strip().strip("│╭╮╰╯|+").strip() for line in box.splitlines()]
    text: list[str] = []
    for line in lines[1:]:
        if not line.strip("─-") or line.startswith("For full helptext"):
            break
        text.append(line)
    return " ".join(text) or " ".join(lines)
