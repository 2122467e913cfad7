"""The commands of the data: prep, verify, inspect. None of them needs torch."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json

if TYPE_CHECKING:
    from data_tools.sources.source import Source
    from fastmoco.terminal.parse import PrepArgs


def prep(argv: list[str]) -> None:
    """fastmoco prep SOURCE OUT"""
    from fastmoco.terminal.parse import PrepArgs, parse

    args = parse(PrepArgs, argv, "prep")
    args.check()
    if args.plan:
        return show_plan(args)
    if args.shard_of is not None:
        return prep_shard(args)
    from data_tools.manifest import read_manifest, summary
    from data_tools.prepare import prepare
    from fastmoco.terminal import console

    assert args.out is not None
    with console.progress("preparing", "images") as tick:
        manifest = prepare(
            source_of(args.source), args.out, args.policy, args.format,
            labels=args.labels, against=args.against, part_bytes=args.part_bytes,
            ray=args.ray_address if args.engine == "ray" else None,
            progress=None if args.json else tick, say=None if args.json else console.say,
        )
    if args.json:
        print(shown_json(manifest.to_dict()))
        return
    console.say(summary(manifest, warned=not manifest.reused))
    for name in args.format[1:]:
        other = read_manifest(args.out / name)
        size = sum(other.files[file].bytes for file in other.data) / 1e6
        console.say(f"the same as {name}: {size:,.1f} MB in {len(other.data):,} files")


def prep_shard(args: PrepArgs) -> None:
    from data_tools.prepare import prepare_shard
    from fastmoco.terminal import console

    assert args.out is not None and args.shard_of is not None
    with console.progress("preparing", "images") as tick:
        done, parts = prepare_shard(
            source_of(args.source), args.out, args.shard_of, args.policy, args.format,
            labels=args.labels, part_bytes=args.part_bytes,
            progress=None if args.json else tick, say=None if args.json else console.say,
        )
    if args.json:
        print(shown_json({"shard": args.shard, "parts_done": done, "parts": parts}, None))
    else:
        console.say(f"{done:,} of {parts:,} parts are done; the same command without --shard does "
                    "what is missing and puts them together")


def show_plan(args: PrepArgs) -> None:
    from data_tools.planning.plan import plan
    from data_tools.planning.plan_text import lines
    from data_tools.quantities import parse_size
    from fastmoco.measuring.load_rate import load_rate
    from fastmoco.terminal import console

    disk = parse_size(args.disk) if args.disk else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was tried is removed
    with console.progress("measuring", "trials") as tick:
        found = plan(
            source_of(args.source), args.policy, args.format[0], labels=args.labels, load=load_rate,
            target_rate=args.target_rate, disk=disk, out=args.out,
            progress=None if args.json else tick,
        )
    print_found(found, lines(found), args.json)


def verify(argv: list[str]) -> None:
    """fastmoco verify PATH"""
    from fastmoco.terminal.parse import VerifyArgs, parse

    args = parse(VerifyArgs, argv, "verify")
    if args.quick < 0 or args.workers < 0:
        raise UserError("--quick and --workers: give 0 or more")
    from data_tools.inspection.verify import verify
    from fastmoco.terminal import console

    with contextlib.suppress(UserError):  # which then is part of the report
        index(args.path, args.json)
    with console.progress("verifying", "images") as tick:
        reports = verify(args.path, args.quick, args.workers, None if args.json else tick)
    if args.json:
        found = [dataclasses.asdict(r) | {"verdict": r.verdict} for r in reports]
        print(shown_json(found))
    else:
        for report in reports:
            console.say(f"{report.path}: {report.format}, {report.verdict}")
            for line in report.problems:
                console.say(f"  {line}")
            if report.found > len(report.problems):
                console.say(f"  and {report.found - len(report.problems):,} more")
            for line in report.warnings:
                console.say(f"  note: {line}")
    bad = [report for report in reports if report.found]
    if bad:
        raise UserError(f"{bad[0].path}: {bad[0].verdict} ({bad[0].problems[0]})")


def inspect(argv: list[str]) -> None:
    """fastmoco inspect PATH"""
    from fastmoco.terminal.parse import InspectArgs, parse

    args = parse(InspectArgs, argv, "inspect")
    if args.sample < 1:
        raise UserError(f"--sample {args.sample}: give 1 or more")
    from data_tools.inspection.contact_sheet import contact_sheet
    from data_tools.inspection.survey import survey
    from data_tools.inspection.survey_text import lines
    from data_tools.open import open_store
    from fastmoco.terminal import console

    index(args.path, args.json)
    with console.progress("reading", "images") as tick:
        found = survey(args.path, args.sample, progress=None if args.json else tick)
    print_found(found, lines(found), args.json)
    if args.sheet is not None:
        shown = contact_sheet(open_store(args.path), args.sheet)
        if not args.json:
            console.say(f"{args.sheet}: {shown:,} images")


def index(path: Path, quiet: bool) -> None:
    """A file of others is read through once, which may take a minute; its index is kept."""
    from data_tools.open import open_store
    from fastmoco.terminal import console

    if path.is_file():
        with console.progress("indexing", "bytes") as tick:
            open_store(path) if quiet else open_store(path, tick, console.say)


def print_found(found: Any, lines: list[str], as_json: bool) -> None:
    """A dataclass as JSON, or its lines for people."""
    from fastmoco.terminal import console

    if as_json:
        print(shown_json(dataclasses.asdict(found)))
        return
    for line in lines:
        console.say(line)


def source_of(text: str) -> str | Source:
    """What prep is to read; torchvision's datasets are opened here, the rest by data_tools."""
    from fastmoco.loading import torchvision_source

    return torchvision_source.open(text) if torchvision_source.recognises(text) else text


def prepared(path: Path, quiet: bool = False) -> Path:
    """The dataset at a path; a folder of images is prepared into the cache, and that is said."""
    from data_tools.open import is_store
    from fastmoco.loading.open_dataset import prepared
    from fastmoco.terminal import console

    if is_store(path):
        index(path, quiet)
        return path
    if quiet:
        return prepared(path, lambda _: None)
    with console.progress("preparing", "images") as tick:
        return prepared(path, console.say, tick)
