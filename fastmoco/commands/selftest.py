"""fastmoco selftest: does this installation compute what it should?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from data_tools.errors import UserError
from data_tools.quantities import duration
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets, evaluations
from fastmoco.commands.evaluations import HowFlags
from fastmoco.terminal.flags import FLAT
from fastmoco.terminal.parse import parse

if TYPE_CHECKING:
    from fastmoco.checks.selftest import Check


@dataclass(frozen=True)
class SelftestFlags(HowFlags):
    """As an evaluation has them."""

    json: bool = False
    """Print what was compared as JSON."""


@dataclass(frozen=True)
class SelftestArgs:
    """Does this installation compute what it should? A few seconds, with images drawn for it: the
    paper's Algorithm 1, the fast forms against the plain ones, every format read back, a run
    resumed to the bit. Exits with 1 and the failing line where one fails.

    With --checkpoint, --imagenet and --train: do the released MoCo checkpoints give their
    published kNN and linear figures here? Exits with 1 where one does not, or none was compared.
    """

    checkpoint: Path | None = None
    """Released file: moco_v1_200ep, moco_v2_200ep or moco_v2_800ep_pretrain.pth.tar."""
    imagenet: Path | None = None
    """ImageNet's validation set, labelled."""
    train: Path | None = None
    """ImageNet's training set: the bank of kNN, and what --linear learns from [default: `train`
    beside VAL, where there is one]."""
    linear: bool = False
    """Also the linear evaluation, 100 epochs of ImageNet."""
    how: Annotated[SelftestFlags, FLAT] = field(default_factory=SelftestFlags)


def selftest(argv: list[str]) -> int:
    """fastmoco selftest"""
    args = parse(SelftestArgs, argv, "selftest")
    given = {"--imagenet": args.imagenet, "--train": args.train, "--linear": args.linear}
    lost = [name for name, value in given.items() if value]
    if args.checkpoint is None and lost:
        raise UserError(f"{lost[0]} goes with --checkpoint, a released MoCo checkpoint")
    if args.checkpoint is not None and args.imagenet is None:
        raise UserError("--checkpoint is tried on ImageNet: add --imagenet VAL, and --train TRAIN")
    from fastmoco.terminal import console

    begun = time.monotonic()
    told, checks = check_published(args) if args.checkpoint else check_installation(args)
    failed = [c for c in checks if c.passed is False]
    judged = [c for c in checks if c.passed is not None]
    if args.how.json:
        print(shown_json({
            **told, "passed": bool(judged) and not failed,
            "checks": [dataclasses.asdict(c) for c in checks],
        }))
    else:
        took = duration(time.monotonic() - begun)
        passed = f"{len(judged) - len(failed)} of {len(judged)} checks passed"
        console.say(f"{passed if judged else 'nothing was compared'}; {took}")
    for check in failed:
        console.warn(f"failed: {check.name}: {check.found}")
    return 0 if judged and not failed else 1


def check_installation(args: SelftestArgs) -> tuple[dict[str, str], list[Check]]:
    """The checks that need no data."""
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


def check_published(args: SelftestArgs) -> tuple[dict[str, str], list[Check]]:
    """The checks of a released checkpoint."""
    assert args.checkpoint is not None and args.imagenet is not None
    from data_tools.open import open_store
    from fastmoco.checks.published_results import (
        IMAGENET,
        PUBLISHED,
        against_published,
        check_wanted,
        recognise,
    )
    from fastmoco.terminal import console

    saved, how, _ = evaluations.begin(args.checkpoint, (), args.how, ranks=False)
    published, by = recognise(saved, args.checkpoint, PUBLISHED)
    imagenet, beside = args.imagenet, args.imagenet.parent / "train"
    useful = beside.exists() and bool(published.knn or args.linear)
    bank = args.train or (beside if useful else None)
    check_wanted(published, bank is not None, args.linear)
    if not args.how.json:
        console.say(f"{published.name}, known by {by}")
    val, train = (
        None if path is None else open_store(datasets.prepared(path, args.how.json))
        for path in (imagenet, bank)
    )
    assert val is not None
    checks = against_published(
        saved, published, train, val, how, args.linear, data=IMAGENET, tell=show(args)
    )
    return {
        "device": str(how.device), "checkpoint": str(args.checkpoint), "is": published.name,
        "known_by": by,
    }, checks


def show(args: SelftestArgs) -> Callable[[Check], None]:
    """What tells a check to people."""
    from fastmoco.terminal import console

    words = {True: "passed", False: "FAILED", None: "      "}

    def line(check: Check) -> None:
        if not args.how.json:
            console.say(f"{words[check.passed]}  {check.name}: {check.found}")

    return line
