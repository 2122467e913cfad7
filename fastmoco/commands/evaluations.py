"""Flags, opening of data and tables that the evaluating commands share: knn, linear, finetune,
embed and selftest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_tools.errors import UserError
from fastmoco.commands import datasets
from fastmoco.run_options import EngineName

if TYPE_CHECKING:
    from fastmoco.evaluation.feature_cache import Extraction
    from fastmoco.evaluation.scores import Score
    from fastmoco.weights.checkpoint import Checkpoint

MOST_CLASSES = 12  # columns of a confusion table that fit a terminal
MOST_PAIRS = 10  # of confused classes, printed if there are more classes


@dataclass(frozen=True)
class HowFlags:
    """Flags of every evaluating command: the view of an image, and the way to extract features."""

    size: int = 0
    """Side of the views in pixels [default: that of the recipe; for checkpoints of other systems,
    which do not record it, 224, or 32 with a CIFAR stem]."""
    mean: tuple[float, ...] = ()
    """Mean of each of the three channels for normalisation, 0 to 1 [default: that of the recipe;
    for checkpoints of other systems ImageNet's, or CIFAR-10's with a CIFAR stem]."""
    std: tuple[float, ...] = ()
    """Standard deviation of each of the three channels, 0 to 1 [default: like --mean]."""
    device: str = "auto"
    """Device: auto, cuda, cuda:N or cpu. auto takes a GPU if there is one."""
    threads: int = 0
    """Number of decoding threads [default: one per core]."""
    engine: EngineName = "auto"
    """Decoder: threads of this program, resident (all images decoded in memory), dali, or ffcv for
    betons. auto picks the fastest that works."""
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
    from data_tools.open import open_store
    from data_tools.progress import silent
    from data_tools.safe_reading.checksum import unsaid
    from fastmoco.evaluation.feature_cache import Extraction
    from fastmoco.system.device import pick_device
    from fastmoco.system.torchrun import join
    from fastmoco.terminal import console
    from fastmoco.weights.open import open_checkpoint

    if flags.threads < 0:
        raise UserError(f"--threads {flags.threads}: give 1 or more, or 0 for all cores")
    quiet = bool(getattr(flags, "json", False))
    device = pick_device(flags.device)
    loaded = viewed(open_checkpoint(checkpoint, device), flags)
    joined = join()
    if joined.size > 1 and (flags.no_keep or not ranks):
        raise UserError("torchrun: this evaluation works on one device; start it without torchrun")
    quiet = quiet or joined.rank > 0
    for line in (loaded.origin, loaded.note):
        if line and not quiet:
            console.say(f"{checkpoint}: {line}")
    if joined.rank > 0:
        joined.barrier()  # the first rank prepares a dataset that is not prepared yet
    stores = [None if p is None else open_store(datasets.prepared(p, quiet)) for p in data]
    if joined.rank == 0:
        joined.barrier()
    how = Extraction(
        device, flags.threads, flags.engine, not flags.no_keep, joined,
        silent if quiet else console.progress, unsaid if quiet else console.say,
    )
    return loaded, how, stores


def viewed(saved: Checkpoint, flags: HowFlags) -> Checkpoint:
    """Return the checkpoint with the view of --size, --mean and --std."""
    from fastmoco.recipe import replace

    if flags.size < 0:
        raise UserError(f"--size {flags.size}: give a side in pixels")
    recipe = replace(saved.recipe, eval_size=flags.size or saved.recipe.eval_size)
    for name in ("mean", "std"):
        values = getattr(flags, name)
        if not values:
            continue
        good = len(values) == 3 and all(0 <= v <= 1 for v in values)
        if not good or (name == "std" and 0 in values):
            raise UserError(f"--{name} {' '.join(map(str, values))}: give three numbers, 0 to 1")
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, **{name: values}))
    return replace(saved, recipe=recipe)


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
