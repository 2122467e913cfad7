"""Do the released MoCo checkpoints give their published figures here? For those with ImageNet.

The figures, whose runs they are of, and how far apart from them ours may be:

- Linear, of the released files themselves (README of facebookresearch/moco): 0.5 points. They are
  of the epoch that VAL likes best and ours of the last; five runs of MoCo v1 deviate by 0.2.
- kNN of MoCo v2, 800 epochs, of the released file (DINO's table 2, 2104.14294): 0.5 points.
- kNN of MoCo v2, 200 epochs, of mmselfsup's own run of the recipe (its README for mocov2, linear
  67.5 where the released file has 67.7): 1 point, since another run's weights are compared.
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
    """A released checkpoint and what was published of it: top-1 on ImageNet's val, in per cent."""

    name: str
    """Which its file's name begins with."""
    head: str
    epochs: int
    linear: float
    knn: dict[int, float] = field(default_factory=dict)
    """By k, with DINO's temperature; empty where nobody published any."""
    knn_of: str = ""
    """Whose weights the kNN figures are of."""
    knn_allowed: float = 0.5
    """Points that ours may be apart."""
    linear_allowed: float = 0.5
    arch: str = "resnet50"


@dataclass(frozen=True)
class Data:
    """What the figures were measured on."""

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
LOST = 0.001  # of the images: those that a prep had to leave out


def recognise(
    saved: Checkpoint, path: Path, table: Sequence[Published] = PUBLISHED
) -> tuple[Published, str]:
    """Which published checkpoint this is, and by what it was known: its file's name, or the epoch
    and the head in it. Raises UserError where it is none, or where the two don't agree."""
    recipe, epoch = saved.recipe, saved.epoch
    has_head = any(k.startswith("encoder_q.head.") for k in saved.moco)
    inside = f"a {recipe.arch} with " + (
        f"{'an MLP' if recipe.head == 'mlp' else 'a linear'} head" if has_head else "no head"
    ) + ("" if epoch is None else f", after {epoch} epochs")

    def fits(p: Published) -> bool:
        """Whether nothing in the file speaks against it."""
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
    with_linear: bool = False, settings: LinearSettings = LinearSettings(), data: Data = IMAGENET,
    tell: Callable[[Check], None] = lambda check: None,
) -> list[Check]:
    """kNN on val with train as the bank, and with_linear the linear evaluation, against the
    published figures; each check is told as soon as it is made.

    Without train there is no bank that the figures know: kNN leaves one out on val, and its checks
    are neither passed nor failed. Raises UserError for data that are not the figures', and where
    nothing was published that could be compared.
    """
    check_wanted(published, train is not None, with_linear)
    whole(val, data.val, data.classes, "val")
    if train is not None:
        whole(train, data.train, data.classes, "training")
        class_names(train, val)  # before the hours
    out: list[Check] = []

    def made(check: Check) -> None:
        out.append(check)
        tell(check)

    if train is None or published.knn:
        protocol = Protocol(DINO.name, tuple(published.knn) or (20,), DINO.T)
        bank, queries = (val, None) if train is None else (train, val)
        rows = knn(
            saved, bank, queries, how.device, how.threads, companions=False, protocols=(protocol,),
            how=how,
        )
        for row in rows:
            here, there = 100 * row.top1, published.knn.get(row.k)
            if train is None:
                made(Check(
                    f"kNN top-1, k {row.k}, VAL alone", None,
                    f"{here:.1f} % leaving one out: comparable with no published figure, whose "
                    f"bank is the training set ({data.train:,} images); add --train TRAIN",
                ))
            elif there is not None:
                made(compared(
                    f"kNN top-1, k {row.k}, T {row.T:g}", here, there, published.knn_of,
                    published.knn_allowed,
                ))
    if train is not None and with_linear:
        found = linear(saved, train, val, how, settings)
        made(compared(
            "linear top-1", 100 * found.rows[0].score.top1, published.linear,
            f"the released file; {found.protocol}", published.linear_allowed,
        ))
    return out


def check_wanted(published: Published, bank: bool, with_linear: bool) -> None:
    """Raises UserError where what is asked for cannot be had; bank: the training set is there."""
    if with_linear and not bank:
        raise UserError("--linear learns from ImageNet's training set: add --train TRAIN")
    if bank and not published.knn and not with_linear:
        raise UserError(
            f"{published.name}: no kNN figure is published of it; add --linear, which takes hours"
        )


def compared(name: str, here: float, there: float, of: str, allowed: float) -> Check:
    """Two figures in per cent."""
    return Check(
        name, abs(here - there) <= allowed,
        f"{here:.1f} % here, {there:.1f} % published ({of}), {allowed:g} points allowed",
    )


def whole(store: Store, images: int, classes: int, name: str) -> None:
    """Raises UserError unless a store can be the set that the figures are of."""
    found = len(set(store.labels.tolist()) - {-1})
    if not (1 - LOST) * images <= len(store) <= images or found != classes:
        raise UserError(
            f"{store.path}: {len(store):,} images of {found:,} classes; ImageNet's {name} set, "
            f"which the published figures are of, has {images:,} of {classes:,}"
        )
