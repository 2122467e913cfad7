"""The flags of the commands that evaluate an encoder: knn, linear, finetune, embed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastmoco.run_options import EngineName
from fastmoco.terminal.parse import FLAT, positional


@dataclass(frozen=True)
class HowFlags:
    """What all of them share."""

    size: int = 0
    """Side of the evaluated view in pixels [default: the recipe's; of other systems' checkpoints,
    which don't tell it, 224, or 32 with a CIFAR stem]."""
    mean: tuple[float, ...] = ()
    """Of the three channels, 0 to 1, to normalise by [default: as for size]."""
    std: tuple[float, ...] = ()
    """Their deviations."""
    device: str = "auto"
    """cuda, cuda:N or cpu."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    engine: EngineName = "auto"
    """Decodes and crops: our threads, all images resident on the device, DALI, FFCV (betons)."""
    keep: bool = True
    """Keep features in the cache ($XDG_CACHE_HOME/fastmoco/features): extracted once."""


@dataclass(frozen=True)
class ScoreFlags(HowFlags):
    """And those that score."""

    per_class: bool = False
    """Also each class, and what is taken for what."""
    json: bool = False
    """Print all that was found as JSON."""


@dataclass(frozen=True)
class KnnArgs:
    """Weighted kNN: the bank is TRAIN, the queries are VAL, the features the pooled trunk's.
    Without VAL every image of TRAIN is classified by all the others (leave one out)."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset: the bank."""
    val: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="VAL")] = None
    """Labelled dataset: the queries."""
    k: tuple[int, ...] = ()
    """Neighbours that vote, instead of the two protocols'."""
    T: tuple[float, ...] = ()
    """Temperatures, each with every k."""
    companions: bool = True
    """Also the same encoder at step 0, and centred raw pixels."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


@dataclass(frozen=True)
class LinearArgs:
    """Linear evaluation of the frozen trunk, by MoCo's official protocol: learning rate 30, 100
    epochs of random crops; or --quick, on features that are extracted once.

    Several rates are trained at once, and a held-out part of TRAIN chooses among them. A killed
    evaluation goes on when it is run again.
    """

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset to learn from."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset to score on."""
    quick: bool = False
    """Learn from cached features of one centred view an image."""
    lr: tuple[float, ...] = ()
    """One rate or several [default: 30; with --quick nine of them]."""
    epochs: int = 0
    """Passes over TRAIN [default: 100; with --quick 20, or 1,000 steps if that is more]."""
    batch: int = 256
    """Images a step."""
    labels: str = "all"
    """Labels to read, class by class the same share: 1%, 10%, 5/class, all."""
    seed: int = 0
    """Decides the order, the crops, the few labels and what is held out."""
    companions: bool = False
    """Also the same encoder at step 0, and centred raw pixels."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


@dataclass(frozen=True)
class FinetuneArgs:
    """Fine-tune trunk and classifier on few labels or all, by SwAV's semi-supervised protocol.
    `linear --quick --labels 1%` is the quick way. A killed one goes on when it is run again."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    train: positional("TRAIN")  # type: ignore[valid-type]
    """Labelled dataset to learn from."""
    val: positional("VAL")  # type: ignore[valid-type]
    """Labelled dataset to score on."""
    labels: str = "all"
    """Labels to read, class by class the same share: 1%, 10%, 5/class, all."""
    lr: float = 0.0
    """Of the trunk, for a batch of 256 [default: 0.01; 0.02 for less than 2% of the labels]."""
    head_lr: float = 0.0
    """Of the classifier, for a batch of 256 [default: 0.2; 5 for less than 2% of the labels]."""
    epochs: int = 0
    """Passes over the labelled images [default: 20, or 1,000 steps if that is more]."""
    batch: int = 0
    """Images a step [default: 256, or an eighth of the labelled images if that is less]."""
    seed: int = 0
    """Decides the order, the crops and the few labels."""
    companions: bool = False
    """Also from the encoder at step 0."""
    how: Annotated[ScoreFlags, FLAT] = field(default_factory=ScoreFlags)


@dataclass(frozen=True)
class EmbedArgs:
    """Write the pooled features of every image, or draw what the encoder finds alike."""

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, ours or another system's."""
    data: positional("DATA")  # type: ignore[valid-type]
    """Dataset, labelled or not."""
    out: Path | None = None
    """A .npy of vectors in the dataset's order, or a .parquet of key, label, class and vector."""
    neighbours: Path | None = None
    """A picture: queries, and the eight images nearest to each."""
    count: int = 12
    """Queries on the picture."""
    seed: int = 0
    """Decides the queries."""
    how: Annotated[HowFlags, FLAT] = field(default_factory=HowFlags)
