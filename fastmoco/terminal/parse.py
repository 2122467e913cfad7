"""Every command's flags as dataclasses, and their parsing by tyro.

Training's flags are the fields of fastmoco.recipe, prep's those of data_tools.policy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from data_tools.errors import UserError
from data_tools.policy import Policy
from fastmoco.recipe import AUGMENTATIONS, RECIPES, Recipe, replace
from fastmoco.run_options import EngineName, RunOptions

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
    """Prepare images for training: whatever lies at SOURCE becomes a dataset in OUT.

    SOURCE is found out by looking: image folders (labelled by folder, or flat), tars of them,
    ImageNet's tars, WebDataset shards, Parquet or Arrow files, CSV, TSV or JSONL lists of paths,
    CIFAR and MNIST archives ("ARCHIVE#test" is the other split), another prepared dataset or file
    of its formats, torchvision:NAME. Patterns (train-*.parquet, {000..99}.tar) and URLs work too.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Path, pattern, URL or torchvision:NAME."""
    out: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = None
    """Directory of the prepared dataset: new or empty. A killed prep goes on there."""
    format: tuple[Literal["beton", "tfrecord", "recordio", "webdataset"], ...] = ("beton",)
    """One or several; several go into a directory each, in one pass."""
    policy: Annotated[Policy, FLAT] = field(default_factory=Policy)
    labels: Path | None = None
    """File that labels a flat set: ImageNet's ground truth, a list of synsets, `name label`."""
    against: tuple[Path, ...] = ()
    """Prepared datasets in which to look for images of this one (a train and val leak)."""
    shard_size: float = 128
    """MB of source a part, which is a file in all formats but beton."""
    shard: str = ""
    """i/n: do only every n-th part, from part i on (from 0); then run prep without it."""
    engine: Literal["threads", "ray"] = "threads"
    """ray: the parts on a Ray cluster."""
    ray_address: str = ""
    """Of a cluster that runs [default: start one on this machine]."""
    plan: bool = False
    """Prepare nothing: predict bytes, time and rates for a table of sizes and qualities."""
    target_rate: float | None = None
    """With --plan: images/s that loading should reach."""
    disk: str = ""
    """With --plan: what the dataset may take, 200GB say."""
    json: bool = False
    """Print the manifest (or the plan) as JSON."""

    @property
    def part_bytes(self) -> int:
        return round(self.shard_size * 1e6)

    @property
    def shard_of(self) -> tuple[int, int] | None:
        """(i, n) of --shard."""
        if not self.shard:
            return None
        i, slash, n = self.shard.partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
            raise UserError(f"--shard {self.shard}: give i/n, with i from 0 to n - 1")
        return int(i), int(n)

    def check(self) -> None:
        """Raises UserError for flags that don't go together."""
        ray = self.engine == "ray"
        wrong = [
            (not self.plan and self.out is None, "OUT is missing: give the directory to write"),
            (not 0 < self.shard_size <= 1e6, f"--shard-size {self.shard_size:g}: give MB above 0"),
            (bool(self.ray_address) and not ray, "--ray-address goes with --engine ray"),
            (bool(self.shard) and ray, "--shard and --engine ray: give one of them"),
            (bool(self.shard) and bool(self.against), "--against goes without --shard"),
            (bool(self.disk) and not self.plan, "--disk goes with --plan"),
            (self.target_rate is not None and not self.plan, "--target-rate goes with --plan"),
            (self.target_rate is not None and not (self.target_rate or 0) > 0,
             "--target-rate: give images/s above 0"),
        ]
        for is_so, line in wrong:
            if is_so:
                raise UserError(line)


@dataclass(frozen=True)
class VerifyArgs:
    """Check a prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file of anybody."""

    path: positional("PATH")  # type: ignore[valid-type]
    """Prepared dataset, or file."""
    quick: int = 0
    """Decode only so many images, evenly spread [default: all]."""
    workers: int = 0
    """Threads that decode; 0: one a core."""
    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class InspectArgs:
    """Tell what a dataset holds: counts, classes, sizes, bytes, colours, duplicates."""

    path: positional("PATH")  # type: ignore[valid-type]
    """Prepared dataset, or a beton, TFRecord, RecordIO or WebDataset file."""
    sheet: Path | None = None
    """Also draw a contact sheet by class: a .png or .jpg."""
    sample: int = 500
    """Images to decode for colours, evenly spread."""
    json: bool = False
    """Print the figures as JSON."""


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
    engine: EngineName = "auto"
    """Decodes and crops: our threads, all images resident on the device, DALI, FFCV (betons)."""
    compile: bool = False
    """Compile encoders and augmentation."""
    rounds: int = 7
    """Interleaved rounds; medians are shown."""
    seconds: float = 1.0
    """Seconds of each stage in a round."""
    against: Path | None = None
    """A report saved with --json: name what has become slower, and exit with 1."""
    json: bool = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class TrainArgs:
    """Pre-train an encoder. A folder that was never prepared is prepared into a cache first."""

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags)
    options: Annotated[RunOptions, FLAT] = field(default_factory=RunOptions)
    dry_run: bool = False
    """Train nothing: tell the memory, part by part, the largest batch, and how K, m, the learning
    rate and epochs might follow the dataset. With --device cuda also where there is none."""
    memory: str = ""
    """With --dry-run: what a step may take, 8GB say [default: all of the device]."""
    json: bool = False
    """Tell the run as JSON, one event a line (with --dry-run: one object)."""


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
