"""CIFAR-10's training set in two parts: 45,000 images to train on, 5,000 to measure with.

All tuning and every comparison uses this split, so that the test set stays unseen. Only
bench.learning.cifar10 and bench.learning.evaluate_cifar read the test set.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from data_tools.prepare import prepare
from fastmoco import draws

TRAIN, HELD_OUT = "train", "held-out"
COUNT = 5000  # images held out
SEED = 0  # chooses them


def split(folder: Path, work: Path, count: int = COUNT) -> tuple[Path, Path]:
    """Return the prepared datasets of both parts, in `work`; make them if they are not there yet.

    `folder` holds cifar10-train.tar (split/class/number.jpg); `count` images are held out.
    """
    parts = work / TRAIN, work / HELD_OUT
    if all((p / "manifest.json").exists() for p in parts):
        return parts
    work.mkdir(parents=True, exist_ok=True)
    tars = [p.with_suffix(".tar") for p in parts]
    with (
        tarfile.open(folder / "cifar10-train.tar") as whole,
        tarfile.open(tars[0], "w") as train,
        tarfile.open(tars[1], "w") as held_out,
    ):
        members = sorted((m for m in whole if m.isfile()), key=lambda m: m.name)
        chosen = set(draws.permutation(SEED, 0, len(members))[:count].tolist())
        for i, member in enumerate(members):
            (held_out if i in chosen else train).addfile(member, whole.extractfile(member))
    for tar, part in zip(tars, parts, strict=True):
        prepare(tar, part)
        tar.unlink()
    return parts
