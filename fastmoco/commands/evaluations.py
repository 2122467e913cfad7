"""Flags, opening of data and tables that the evaluating commands share: knn, linear, finetune,
embed and selftest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastmoco.commands import datasets
from fastmoco.settings.extraction import ExtractionSettings

if TYPE_CHECKING:
    from fastmoco.evaluation.feature_cache import Extraction
    from fastmoco.evaluation.scores import Score
    from fastmoco.weights.checkpoint import Checkpoint

MOST_CLASSES = 12  # columns of a confusion table that fit a terminal
MOST_PAIRS = 10  # of confused classes, printed if there are more classes


@dataclass(frozen=True)
class HowFlags(ExtractionSettings):
    """Flags of every evaluating command: the view of an image, and the way to extract features."""

    no_keep: bool = False
    """Do not store features in the cache ($XDG_CACHE_HOME/fastmoco/features). Without this flag
    the next evaluation reuses them."""


@dataclass(frozen=True)
class ScoreFlags(HowFlags):
    """Flags of the commands that score: those of every evaluating command, and the output."""

    per_class: bool = False
    """Also print the score of each class, and which classes are confused."""
    json: bool = False
    """Print the full result as JSON."""


VIEW = ("size", "mean", "std")
TIME = ("device", "engine", "threads", "no-keep")
OUTPUT = ("per-class", "json")


class Evaluation(Protocol):
    """The flags of knn, linear and finetune: a checkpoint, and the data to evaluate it on."""

    @property
    def checkpoint(self) -> Path: ...
    @property
    def train(self) -> Path: ...
    @property
    def val(self) -> Path | None: ...


def begin(
    checkpoint: Path, data: Iterable[Path | None], flags: HowFlags, ranks: bool = True
) -> tuple[Checkpoint, Extraction, list[Any]]:
    """Open the checkpoint, the settings of feature extraction, and one store per path.

    ranks: True if the processes that torchrun started can share the work.
    """
    from fastmoco.verbs.inputs import How, open_inputs

    quiet = bool(getattr(flags, "json", False))
    values = {f.name: getattr(flags, f.name) for f in dataclasses.fields(ExtractionSettings)}
    how = How(**values, keep=not flags.no_keep)
    found = open_inputs(checkpoint, tuple(data), how, ranks, *datasets.reports(quiet))
    return found.checkpoint, found.how, found.stores


def about(args: Evaluation, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the origin of a result. A model card finds its results by the weights' digest."""
    from fastmoco.weights.checkpoint import trunk_digest

    return {
        "checkpoint": str(args.checkpoint), "step": checkpoint.step,
        "weights": trunk_digest(checkpoint),
        "size": checkpoint.recipe.eval_size or checkpoint.recipe.size,
        "data": [str(p) for p in (args.train, args.val) if p is not None],
    }


def brief(score: Score) -> dict[str, float]:
    """Return a score without its classes."""
    return {"top1": score.top1, "low": score.low, "high": score.high}


def between(score: Score) -> str:
    """Return the interval in percent."""
    return f"{100 * score.low:.1f} to {100 * score.high:.1f}"


def percent(share: float | None) -> str:
    """Return a share in percent, or nothing if there is none."""
    return "" if share is None else f"{share:.1%}"


def figures(score: Score) -> tuple[str, str, str]:
    """Return top-1, its interval and top-5 as text."""
    return percent(score.top1), between(score), percent(score.top5)


def print_data(labelled: int, train: int, val: int, step: int, held_out: int = 0) -> None:
    """Print the numbers of images for training and scoring."""
    from fastmoco.terminal import console

    held = f", {held_out:,} of them held out to choose the rate" if held_out else ""
    console.say(
        f"labels of {labelled:,} of {train:,} images{held}; scored on {val:,}; step {step:,}; the "
        f"95 % interval is a bootstrap over the images scored"
    )


def print_classes(score: Score) -> None:
    """Print each class, and a confusion table, or the most confused pairs if there are many."""
    from fastmoco.terminal import console

    console.table(
        ("class", "images", "right", "of those named so"),
        [(c.name, f"{c.images:,}", percent(c.right), percent(c.precise)) for c in score.classes],
    )
    names = [c.name for c in score.classes]
    if len(names) <= MOST_CLASSES:
        count = {(true, predicted): n for true, predicted, n in score.confusion}
        console.table(
            ("is \\ named", *(name[:8] for name in names)),
            [
                (name, *(str(count.get((true, predicted), 0)) for predicted in range(len(names))))
                for true, name in enumerate(names)
            ],
        )
        return
    wrong = sorted((c for c in score.confusion if c[0] != c[1]), key=lambda c: -c[2])
    console.table(
        ("is", "named", "images"),
        [(names[true], names[predicted], f"{n:,}") for true, predicted, n in wrong[:MOST_PAIRS]],
    )
