"""fastmoco selftest: checks that this installation computes correct results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from data_tools.quantities import duration
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets, evaluations
from fastmoco.commands.evaluations import TIME, VIEW, HowFlags
from fastmoco.settings.verbs import PublishedSettings
from fastmoco.terminal.flags import FLAT, Groups
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.checks.selftest import Check


@dataclass(frozen=True)
class SelftestFlags(HowFlags):
    """Flags of an evaluation, and the output."""

    json: bool = False
    """Print the checks as JSON."""


@dataclass(frozen=True)
class Args:
    """Check that this installation computes correct results, in a few seconds, on images that it
    draws: the paper's Algorithm 1, each fast implementation against the plain one, every format
    read back, a run resumed to the same bits. If a check fails, print it and exit with 1.

    With --checkpoint, --imagenet and --train: check that a released MoCo checkpoint reaches its
    published kNN and linear results here. If it does not, or nothing was compared, exit with 1.
    """

    groups: ClassVar[Groups] = {
        "a released checkpoint": ("checkpoint", "imagenet", "train", "linear"),
        "view": VIEW,
        "time and memory": TIME,
        "output": ("json",),
    }

    released: Annotated[PublishedSettings, FLAT] = field(default_factory=PublishedSettings)
    how: Annotated[SelftestFlags, FLAT] = field(default_factory=SelftestFlags)


def run(argv: list[str]) -> int:
    """Run `fastmoco selftest`."""
    args = parse(Args, argv, "selftest")
    args.released.check()
    from fastmoco.terminal import console

    started = time.monotonic()
    about, checks = check_published(args) if args.released.checkpoint else check_installation(args)
    failed = [c for c in checks if c.passed is False]
    judged = [c for c in checks if c.passed is not None]
    if args.how.json:
        print(shown_json({
            **about, "passed": bool(judged) and not failed,
            "checks": [dataclasses.asdict(c) for c in checks],
        }))
    else:
        took = duration(time.monotonic() - started)
        passed = f"{len(judged) - len(failed)} of {len(judged)} checks passed"
        console.say(f"{passed if judged else 'nothing was compared'}; {took}")
    for check in failed:
        console.warn(f"failed: {check.name}: {check.found}")
    return 0 if judged and not failed else 1


def check_installation(args: Args) -> tuple[dict[str, str], list[Check]]:
    """Run the checks that need no data. Returns facts about the machine, and the checks."""
    from fastmoco.checks.selftest import selftest
    from fastmoco.system.device import pick_device
    from fastmoco.system.hardware import describe
    from fastmoco.system.versions import versions
    from fastmoco.terminal import console

    device = pick_device(args.how.device)
    made_by = versions()
    if not args.how.json:
        console.say(
            f"fastmoco {made_by['fastmoco']}, torch {made_by['torch']}, {describe(device)}; with "
            f"small images drawn for it"
        )
    return {"device": str(device)}, selftest(device, show(args))


def check_published(args: Args) -> tuple[dict[str, str], list[Check]]:
    """Compare a released checkpoint with its published results. Returns facts, and the checks."""
    released = args.released
    assert released.checkpoint is not None and released.imagenet is not None
    from data_tools.open import open_store
    from fastmoco.checks.published_results import (
        IMAGENET,
        PUBLISHED,
        against_published,
        check_wanted,
        recognise,
    )
    from fastmoco.settings.classifiers import LinearSettings
    from fastmoco.terminal import console

    saved, how, _ = evaluations.begin(released.checkpoint, (), args.how, ranks=False)
    published, by = recognise(saved, released.checkpoint, PUBLISHED)
    bank = released.bank(bool(published.knn))
    check_wanted(published, bank is not None, released.linear)
    if not args.how.json:
        console.say(f"{published.name}, known by {by}")
    val, train = (
        None if path is None else open_store(datasets.prepared(path, args.how.json))
        for path in (released.imagenet, bank)
    )
    assert val is not None
    checks = against_published(
        saved, published, train, val, how, LinearSettings() if released.linear else None,
        IMAGENET, show(args),
    )
    return {
        "device": str(how.device), "checkpoint": str(released.checkpoint), "is": published.name,
        "known_by": by,
    }, checks


def show(args: Args) -> Callable[[Check], None]:
    """Return a callback that prints a check, unless the output is JSON."""
    from fastmoco.terminal import console

    words = {True: "passed", False: "FAILED", None: "      "}

    def line(check: Check) -> None:
        if not args.how.json:
            console.say(f"{words[check.passed]}  {check.name}: {check.found}")

    return line
