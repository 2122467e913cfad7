"""Do the released MoCo checkpoints give their published figures here? It takes ImageNet to ask.

The published figures, their sources, and the difference that is allowed:

- Linear, of the released files themselves (README of facebookresearch/moco): 0.5 points. They come
  from the epoch with the best accuracy on VAL, ours from the last; five runs of MoCo v1 deviate by
  0.2.
- kNN of MoCo v2, 800 epochs, of the released file (DINO, 2104.14294, table 2): 0.5 points.
- kNN of MoCo v2, 200 epochs, of mmselfsup's own run of the recipe (its README for mocov2, linear
  67.5; the released file has 67.7): 1 point, because these are another run's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.checks.selftest import Check
from fastmoco.evaluation.feature_cache import Extraction
from fastmoco.evaluation.knn import DINO, Protocol, knn
from fastmoco.evaluation.labels import class_names
from fastmoco.evaluation.linear import linear
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Published:
    """A released checkpoint and its published figures: top-1 on ImageNet's val, in per cent."""

    name: str
    """Start of its file name."""
    head: str
    epochs: int
    linear: float
    knn: dict[int, float] = field(default_factory=dict)
    """kNN by k, with DINO's temperature; empty if nobody published any."""
    knn_of: str = ""
    """Origin of the weights of the kNN figures."""
    knn_allowed: float = 0.5
    """Allowed difference of kNN, in points."""
    linear_allowed: float = 0.5
    arch: str = "resnet50"


@dataclass(frozen=True)
class Data:
    """Sizes of the dataset of the published figures."""

    train: int = 1_281_167
    val: int = 50_000
    classes: int = 1000


PUBLISHED = (
    Published("moco_v1_200ep", "linear", 200, 60.6),
    Published(
        "moco_v2_200ep", "mlp", 200, 67.7, {10: 55.6, 20: 55.7, 100: 53.7, 200: 52.5},
        "mmselfsup's run", 1.0,
    ),
    Published("moco_v2_800ep", "mlp", 800, 71.1, {20: 61.9}, "the released file, by DINO"),
)
IMAGENET = Data()
LOST = 0.001  # share of the images that prep may have left out as unreadable


def recognise(
    saved: Checkpoint, path: Path, table: Sequence[Published] = PUBLISHED
) -> tuple[Published, str]:
    """Return the published checkpoint that this file is, and the evidence: its name, or the epoch
    and the head in it. Raises UserError if it is none of them, or if name and content differ."""
    recipe, epoch = saved.recipe, saved.epoch
    has_head = any(k.startswith("encoder_q.head.") for k in saved.moco)
    inside = f"a {recipe.arch} with " + (
        f"{'an MLP' if recipe.head == 'mlp' else 'a linear'} head" if has_head else "no head"
    ) + ("" if epoch is None else f", after {epoch} epochs")

    def fits(p: Published) -> bool:
        """Return whether the content of the file agrees with it."""
        head = recipe.head == p.head or not has_head
        return p.arch == recipe.arch and head and epoch in (None, p.epochs)

    named = next((p for p in table if path.name.startswith(p.name)), None)
    if named is not None and not fits(named):
        raise UserError(f"{path}: named like {named.name}, but it holds {inside}")
    by_content = [p for p in table if fits(p) and has_head and epoch is not None]
    if named is not None:
        return named, "its name" + (f", and it holds {inside}" if by_content else " alone")
    if not by_content:
        raise UserError(
            f"{path}: it holds {inside}, and its name is none of "
            f"{', '.join(p.name for p in table)}: no published figures to compare with"
        )
    return by_content[0], f"holding {inside}"


def against_published(
    saved: Checkpoint, published: Published, train: Store | None, val: Store, how: Extraction,
    linear_settings: LinearSettings | None = None, data: Data = IMAGENET,
    report: Callable[[Check], None] = lambda check: None,
) -> list[Check]:
    """Compare kNN on val, and the linear evaluation if it has settings, with the published figures.

    report(check) is called after each check. The published figures use the training set as kNN's
    memory bank. Without train, kNN leaves one out on val, and its checks neither pass nor fail.
    Raises UserError for other data than the figures', and if there is no figure to compare with.
    """
    check_wanted(published, train is not None, linear_settings is not None)
    refuse_other_data(val, data.val, data.classes, "val")
    if train is not None:
        refuse_other_data(train, data.train, data.classes, "training")
        class_names(train, val)  # refuses other class names now, not after hours
    out: list[Check] = []

    def made(check: Check) -> None:
        out.append(check)
        report(check)

    if train is None or published.knn:
        for check in knn_checks(saved, published, train, val, how, data):
            made(check)
    if train is not None and linear_settings is not None:
        found = linear(saved, train, val, how, linear_settings)
        made(compared(
            "linear top-1", 100 * found.rows[0].score.top1, published.linear,
            f"the released file; {found.protocol}", published.linear_allowed,
        ))
    return out


def knn_checks(
    saved: Checkpoint, published: Published, train: Store | None, val: Store, how: Extraction,
    data: Data,
) -> list[Check]:
    """Return a check of kNN for each published k; without train, of leaving one out on val."""
    protocol = Protocol(DINO.name, tuple(published.knn) or (20,), DINO.T)
    bank, queries = (val, None) if train is None else (train, val)
    rows = knn(
        saved, bank, queries, how.device, how.threads, companions=False, protocols=(protocol,),
        how=how,
    )
    checks = []
    for row in rows:
        here, there = 100 * row.top1, published.knn.get(row.k)
        if train is None:
            checks.append(Check(
                f"kNN top-1, k {row.k}, VAL alone", None,
                f"{here:.1f} % leaving one out: comparable with no published figure, whose "
                f"bank is the training set ({data.train:,} images); add --train TRAIN",
            ))
        elif there is not None:
            checks.append(compared(
                f"kNN top-1, k {row.k}, T {row.T:g}", here, there, published.knn_of,
                published.knn_allowed,
            ))
    return checks


def check_wanted(published: Published, has_train: bool, with_linear: bool) -> None:
    """Raise UserError if these checks need the training set, or if no figure is published."""
    if with_linear and not has_train:
        raise UserError("--linear learns from ImageNet's training set: add --train TRAIN")
    if has_train and not published.knn and not with_linear:
        raise UserError(
            f"{published.name}: no kNN figure is published of it; add --linear, which takes hours"
        )


def compared(name: str, here: float, there: float, of: str, allowed: float) -> Check:
    """Return the check of a figure against the published one, both in per cent."""
    return Check(
        name, abs(here - there) <= allowed,
        f"{here:.1f} % here, {there:.1f} % published ({of}), {allowed:g} points allowed",
    )


def refuse_other_data(store: Store, images: int, classes: int, name: str) -> None:
    """Raise UserError if a store cannot be the set of the published figures."""
    found = len(set(store.labels.tolist()) - {-1})
    if not (1 - LOST) * images <= len(store) <= images or found != classes:
        raise UserError(
            f"{store.path}: {len(store):,} images of {found:,} classes; ImageNet's {name} set, "
            f"which the published figures are of, has {images:,} of {classes:,}"
        )
