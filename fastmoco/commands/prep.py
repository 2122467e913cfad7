"""fastmoco prep: converts a dataset of images into files that train fast."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from data_tools.errors import UserError
from data_tools.policy import Policy
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands.datasets import print_found
from fastmoco.settings.verbs import Format, PrepSettings
from fastmoco.terminal.flags import FLAT, Groups, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Convert the images of SOURCE into a dataset for training in OUT.

    prep recognises the kind of SOURCE: image folders (with one folder per class, or flat), tars of
    them, ImageNet's tars, WebDataset shards, Parquet or Arrow files, CSV, TSV or JSONL lists of
    paths, CIFAR and MNIST archives ("ARCHIVE#test" is the other split), prepared datasets or files
    of their formats, and torchvision:NAME. Patterns (train-*.parquet, {000..99}.tar) and URLs work
    too.
    """

    groups: ClassVar[Groups] = {
        "data": ("labels", "against"),
        "images": (
            "max-side", "short-side", "min-side", "quality", "reencode", "raw-fraction", "check",
            "max-pixels", "strict",
        ),
        "files": ("format", "shard-size"),
        "time and machines": ("workers", "shard", "engine", "ray-address"),
        "plan": ("plan", "target-rate", "disk"),
        "output": ("json",),
    }

    source: positional("SOURCE", str)  # type: ignore[valid-type]
    """Path, pattern, URL or torchvision:NAME."""
    out: positional("OUT", Path | None) = None  # type: ignore[valid-type]
    """Directory of the prepared dataset, new or empty. Only --plan works without it. After a kill,
    the same command continues there."""
    format: tuple[Format, ...] = ("beton",)
    """Format of the files. Several formats are written in one pass, each into its own directory."""
    policy: Annotated[Policy, FLAT] = field(default_factory=Policy)
    labels: Path | None = None
    """File with the labels of a flat folder: ImageNet's ground truth, a list of synsets, or lines
    of `name label`."""
    against: tuple[Path, ...] = ()
    """Prepared datasets to search for images of this one, such as a training set for images of its
    validation set."""
    work: Annotated[PrepSettings, FLAT] = field(default_factory=PrepSettings)
    plan: bool = False
    """Prepare nothing. Predict bytes, time and loading rates for several sizes and qualities."""
    json: bool = False
    """Print the manifest (or the plan) as JSON."""

    def check(self) -> None:
        """Raise UserError for flags that do not go together."""
        if not self.plan and self.out is None:
            raise UserError("OUT is missing: give the directory to write")
        self.work.check(self.policy, self.plan, self.against)


def run(argv: list[str]) -> None:
    """Run `fastmoco prep SOURCE OUT`."""
    args = parse(Args, argv, "prep")
    args.check()
    if args.plan:
        return show_plan(args)
    if args.work.shard:
        return prep_shard(args)
    from data_tools.manifest import read_manifest, summary
    from data_tools.prepare import prepare
    from data_tools.quantities import human
    from fastmoco.terminal import console
    from fastmoco.verbs.data import opened

    assert args.out is not None
    with console.progress("preparing", "images") as tick:
        manifest = prepare(
            opened(args.source), args.out, args.policy, args.format,
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


def prep_shard(args: Args) -> None:
    """Run `fastmoco prep SOURCE OUT --shard i/n`."""
    from data_tools.prepare import prepare_shard
    from fastmoco.terminal import console
    from fastmoco.verbs.data import opened

    assert args.out is not None
    with console.progress("preparing", "images") as tick:
        done, parts = prepare_shard(
            opened(args.source), args.out, args.work.part, args.policy, args.format,
            labels=args.labels,
            progress=None if args.json else tick, say=None if args.json else console.say,
        )
    if args.json:
        print(shown_json({"shard": args.work.shard, "parts_done": done, "parts": parts}, None))
    else:
        console.say(f"{done:,} of {parts:,} parts are done; run the same command without "
                    "--shard to prepare the missing parts and put them together")


def show_plan(args: Args) -> None:
    """Run `fastmoco prep SOURCE --plan`."""
    from data_tools.planning.plan_text import lines
    from fastmoco.terminal import console
    from fastmoco.verbs.data import opened, planned

    # SIGTERM raises KeyboardInterrupt meanwhile, so that the trial files are removed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.progress("measuring", "trials") as tick:
            found = planned(
                opened(args.source), args.out, args.policy, args.format[:1], args.labels,
                args.work, None if args.json else tick,
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    print_found(found, lines(found), args.json)
