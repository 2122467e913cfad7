"""fastmoco train: pre-trains an encoder."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json
from data_tools.safe_reading.limits import reason
from fastmoco.commands import datasets
from fastmoco.run_options import RunOptions
from fastmoco.system.process import is_out_of_memory, several_ranks
from fastmoco.terminal.flags import (
    FLAT,
    MODEL,
    SCHEDULE,
    VIEWS,
    Groups,
    RecipeFlags,
    positional,
)
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.measuring.dry_run import DryRun


@dataclass(frozen=True)
class Args:
    """Pre-train an encoder. An image folder that is not prepared is prepared into a cache first."""

    groups: ClassVar[Groups] = {
        "": ("recipe",),
        "data and views": VIEWS,
        "model and loss": (*MODEL, "init", "force"),
        "schedule": (*SCHEDULE, "budget", "until"),
        "time and memory": (
            "device", "precision", "engine", "threads", "augment", "compile", "cuda-graphs",
            "accumulate", "activation-checkpointing", "dry-run", "memory",
        ),
        "records": (
            "out", "resume", "checkpoint-minutes", "keep", "val", "val-every", "log-every", "wandb",
            "json",
        ),
    }

    data: positional("DATA")  # type: ignore[valid-type]
    """Prepared dataset, image folder or beton (FFCV's file format)."""
    recipe: Annotated[RecipeFlags, FLAT] = field(default_factory=RecipeFlags.of)
    options: Annotated[RunOptions, FLAT] = field(default_factory=RunOptions)
    dry_run: bool = False
    """Train nothing. Print the memory that a step needs, the largest batch that fits, and advice on
    K, m, the learning rate and epochs for this dataset. --device cuda works without a GPU."""
    memory: str = ""
    """With --dry-run: memory that a step may use, such as 8GB [default: all of the device]."""
    json: bool = False
    """Print one JSON object per event and line (with --dry-run: one object)."""


def run(argv: list[str]) -> None:
    """Run `fastmoco train DATA`."""
    started = time.monotonic()  # a budget includes the imports and the preparation
    args = parse(Args, argv, "train")
    if args.dry_run or args.memory:
        return dry_run(args)
    from fastmoco.run_options import default_out
    from fastmoco.runs.lock import own_run
    from fastmoco.terminal import console

    options = args.options
    if not options.out:  # named after what the user typed, not after a cache
        options = dataclasses.replace(options, out=default_out(args.data, args.recipe))
    with own_run(options.out, options.resume, console.warn):
        train_in(args, argv, options, started)


def train_in(args: Args, argv: list[str], options: RunOptions, started: float) -> None:
    """Train in the run directory options.out, whose lock this process holds."""
    from data_tools.open import is_store
    from fastmoco.terminal import live_panel
    from fastmoco.training.train import train
    from fastmoco.weights.checkpoint import load

    if options.resume:  # a run has its recipe; flags that are given again must agree with it
        args = parse(Args, argv, "train", load(options.out).recipe)
    recipe = args.recipe.plain()
    quiet = args.json or os.environ.get("RANK", "0") != "0"
    for path in (args.data, *([Path(options.val)] if options.val else [])):
        if several_ranks() and path.is_dir() and not is_store(path):  # every rank would prepare it
            raise UserError(f"{path} is not prepared: run fastmoco prep {path} OUT, train on OUT")
    data = datasets.prepared(args.data, quiet)
    if options.val:
        options = dataclasses.replace(options, val=str(datasets.prepared(Path(options.val), quiet)))
    try:
        if quiet:
            train(data, recipe, options, [live_panel.print_event_json], started)
        else:
            with live_panel.live_run() as listener:
                train(data, recipe, options, [listener], started)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        limited = reason(error).removeprefix("out of memory").removeprefix(": ")
    # Outside the handler, where the failed step's tensors are freed.
    from data_tools.open import open_store
    from fastmoco.measuring.dry_run import out_of_memory

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    line = out_of_memory(recipe, open_store(data), options, ranks)
    raise UserError(line + (f"; {limited}" if limited else ""))


def dry_run(args: Args) -> None:
    """Run `fastmoco train DATA --dry-run`."""
    if not args.dry_run:
        raise UserError("--memory goes with --dry-run")
    from data_tools.open import open_store
    from data_tools.quantities import parse_size
    from fastmoco.measuring.dry_run import dry_run
    from fastmoco.terminal import console

    room = parse_size(args.memory, "--memory") if args.memory else None
    store = open_store(datasets.prepared(args.data, quiet=args.json))
    with console.progress("walking through steps", "steps") as tick:
        found = dry_run(
            args.recipe.plain(), store, args.options, room, None if args.json else tick
        )
    if args.json:
        totals = {"bytes": found.estimate.bytes}
        print(shown_json(dataclasses.asdict(found) | totals))
    else:
        print_dry_run(found)


def print_dry_run(found: DryRun) -> None:
    """Print the result of `fastmoco train --dry-run`."""
    from fastmoco.terminal import console

    e = found.estimate
    console.say(
        f"a step of {e.batch:,} images on {found.device}, {found.precision}, at its peak:"
    )
    rows = [(p.name, f"{p.bytes / 1e6:,.1f}", p.source) for p in e.parts]
    console.table(("part", "MB", ""), [*rows, ("all", f"{e.bytes / 1e6:,.1f}", "")])
    if found.room is not None:
        fits = "no batch fits" if found.largest is None else (
            f"the largest batch that fits is {found.largest.batch:,} "
            f"({found.largest.bytes / 1e9:.2f} GB)"
        )
        console.say(f"of {found.room / 1e9:.2f} GB: {fits}")
    console.say(f"settings for the dataset of {found.samples:,} images:")
    for a in found.advice:
        same = "is right" if a.now == a.suggested else f"{a.now:g}; {a.suggested:g} might be better"
        console.say(f"  {a.setting} {same}: {a.reason}")
    if found.refused:
        console.say(f"as it is, train refuses it: {found.refused}")
