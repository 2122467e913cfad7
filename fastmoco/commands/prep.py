"""fastmoco prep: a dataset of images into files that train fast."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_tools.errors import UserError
from data_tools.policy import Policy
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.datasets import print_found, source_of
from fastmoco.terminal.flags import FLAT
from fastmoco.terminal.parse import parse


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
    shard: str = ""
    """i/n: do only every n-th part, from part i on (from 0); then run prep without it."""
    plan: bool = False
    """Prepare nothing: predict bytes, time and rates for a table of sizes and qualities."""
    target_rate: float | None = None
    """With --plan: images/s that loading should reach."""
    disk: str = ""
    """With --plan: what the dataset may take, 200GB say."""
    json: bool = False
    """Print the manifest (or the plan) as JSON."""

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
        ray = self.policy.engine == "ray"
        wrong = [
            (not self.plan and self.out is None, "OUT is missing: give the directory to write"),
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


def prep(argv: list[str]) -> None:
    """fastmoco prep SOURCE OUT"""
    args = parse(PrepArgs, argv, "prep")
    args.check()
    if args.plan:
        return show_plan(args)
    if args.shard_of is not None:
        return prep_shard(args)
    from data_tools.manifest import read_manifest, summary
    from data_tools.prepare import prepare
    from data_tools.quantities import human
    from fastmoco.terminal import console

    assert args.out is not None
    with console.progress("preparing", "images") as tick:
        manifest = prepare(
            source_of(args.source), args.out, args.policy, args.format,
            labels=args.labels, against=args.against,
            progress=None if args.json else tick, say=None if args.json else console.say,
        )
    if args.json:
        print(shown_json(manifest.to_dict()))
        return
    for line in summary(manifest, warned=not manifest.reused):
        console.say(line)
    for name in args.format[1:]:
        other = read_manifest(args.out / name)
        size = human(sum(other.files[file].bytes for file in other.data))
        console.say(f"the same as {name}: {size} in {len(other.data):,} files")


def prep_shard(args: PrepArgs) -> None:
    from data_tools.prepare import prepare_shard
    from fastmoco.terminal import console

    assert args.out is not None and args.shard_of is not None
    with console.progress("preparing", "images") as tick:
        done, parts = prepare_shard(
            source_of(args.source), args.out, args.shard_of, args.policy, args.format,
            labels=args.labels,
            progress=None if args.json else tick, say=None if args.json else console.say,
        )
    if args.json:
        print(shown_json({"shard": args.shard, "parts_done": done, "parts": parts}, None))
    else:
        console.say(f"{done:,} of {parts:,} parts are done; the same command without --shard does "
                    "what is missing and puts them together")


def show_plan(args: PrepArgs) -> None:
    from data_tools.planning.plan import Target, plan
    from data_tools.planning.plan_text import lines
    from data_tools.quantities import parse_size
    from data_tools.sources.registry import open_source
    from fastmoco.measuring.load_rate import load_rate
    from fastmoco.terminal import console

    disk = parse_size(args.disk) if args.disk else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was tried is removed
    with console.progress("measuring", "trials") as tick:
        found = plan(
            open_source(source_of(args.source), args.labels), args.policy, args.format[0],
            load=load_rate, target=Target(args.target_rate, disk), out=args.out,
            progress=None if args.json else tick,
        )
    print_found(found, lines(found), args.json)
