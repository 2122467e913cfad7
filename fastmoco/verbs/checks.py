"""selftest and doctor: is this installation right, and is this machine fast?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.errors import UserError
from fastmoco.checks import doctor as machine
from fastmoco.checks import selftest as installation
from fastmoco.checks.published_results import (
    IMAGENET,
    PUBLISHED,
    against_published,
    check_wanted,
    recognise,
)
from fastmoco.checks.selftest import Check
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.settings.verbs import PublishedSettings
from fastmoco.system.device import pick_device
from fastmoco.verbs.inputs import How, PathLike, open_inputs
from fastmoco.verbs.keywords import fields_in, takes


@takes(PublishedSettings, How)
def selftest(*, show: Callable[[Check], None] | None = None, **flags: Any) -> list[Check]:
    """Check that this installation computes the right results. Takes a few seconds.

    It compares the training with the paper's Algorithm 1, the fast implementations with plain
    ones, every format with its source, and a resumed run with one that was never stopped. With
    `checkpoint`, it compares a released MoCo checkpoint with its published kNN and linear figures.

    Arguments:
        show: called with each check as soon as it is done, for example print.
        **flags: fields of PublishedSettings and How.

    Returns the checks: `name`, `passed` (None if there is nothing to compare with) and `found`.

    Raises UserError for a checkpoint without published figures, or data that cannot be read.

    Example:
        assert all(check.passed for check in fastmoco.selftest())
    """
    released = PublishedSettings(**fields_in(PublishedSettings, flags))
    how = How(**fields_in(How, flags))
    released.check()
    show = show or (lambda check: None)
    if released.checkpoint is None:
        return installation.selftest(pick_device(how.device), show)
    return published(released, how, show)


def published(released: PublishedSettings, how: How, show: Callable[[Check], None]) -> list[Check]:
    """Return the checks of a released checkpoint."""
    assert released.checkpoint is not None and released.imagenet is not None
    saved = open_inputs(released.checkpoint, (), how, shared=False).checkpoint
    figures, _ = recognise(saved, released.checkpoint, PUBLISHED)
    bank = released.bank(bool(figures.knn))
    check_wanted(figures, bank is not None, released.linear)
    opened = open_inputs(saved, (bank, released.imagenet), how, shared=False)
    voters, val = opened.stores
    return against_published(
        opened.checkpoint, figures, voters, val, opened.how,
        LinearSettings() if released.linear else None, IMAGENET, show,
    )


def doctor(dir: PathLike = ".") -> machine.Diagnosis:
    """Measure this machine: its devices and packages, its rates, and the choices of a run.

    Arguments:
        dir: folder on the disk to measure: the future place of datasets and runs.

    Returns `findings`, each with a `remedy` if something should be changed, and the rates of
    decoding, writing and reading.

    Raises UserError if the folder does not exist.

    Example:
        print([f for f in fastmoco.doctor().findings if f.remedy])
    """
    folder = Path(dir)
    if not folder.is_dir():
        raise UserError(f"--dir {folder}: no such folder; give a folder on the disk to measure")
    return machine.doctor(folder)
