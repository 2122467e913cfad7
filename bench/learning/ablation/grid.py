"""The cells of bench.learning.ablation: the trainings that the papers' comparisons consist of.

Each cell of a part differs from the part's base in one field. Cells are in the order of their runs:
the ones that a part needs most come first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastmoco.recipe import AUGMENT_V1, CIFAR_MEAN, CIFAR_STD, MOCO_CIFAR, Mechanism, Recipe

MECHANISMS: tuple[Mechanism, ...] = ("queue", "memory-bank", "end-to-end")
NEGATIVES = (256, 4096, 1024, 64, 16384)
LARGEST_BATCH = 1024  # limits end-to-end, whose negatives are the batch
MOMENTA = (0.99, 0.999, 0.0, 0.9)

# A small net on small views: a run takes a few minutes on two cores.
BASE = replace(
    MOCO_CIFAR, name="ablation", arch="resnet-mini", size=16, eval_size=24, batch=64, bn_splits=4,
    lr=0.03, warmup=0.2, schedule_by="step",
    augmentation=replace(MOCO_CIFAR.augmentation, scale=(0.2, 1.0)),
)
V1 = replace(
    BASE, schedule="step",
    augmentation=replace(AUGMENT_V1, mean=CIFAR_MEAN, std=CIFAR_STD),
)
HEAD, AUGMENTATION, SCHEDULE = (
    {"head": "mlp"}, {"augmentation": BASE.augmentation}, {"schedule": "cosine"},
)
STEPS_TO_V2 = {  # Table 1 of 2003.04297, whose rows add the head, the augmentation, the cosine
    "v1": {},
    "v2: all three": HEAD | AUGMENTATION | SCHEDULE,
    "head": HEAD,
    "augmentation": AUGMENTATION,
    "cosine": SCHEDULE,
    "head, augmentation": HEAD | AUGMENTATION,
}


@dataclass(frozen=True)
class Cell:
    """One training: its part, row and column in the tables, and its recipe."""

    part: str
    row: str
    column: str
    recipe: Recipe

    @property
    def name(self) -> str:
        """A unique name, fit for a file."""
        words = f"{self.part}-{self.row}-{self.column}".replace(":", "").replace(",", "")
        return f"{words.replace(' ', '-')}-seed{self.recipe.seed}".replace("--", "-")


def grid(epochs: int, seed: int) -> list[Cell]:
    """Return all cells of one seed, in the order of their runs."""
    base, v1 = (replace(r, epochs=epochs, seed=seed) for r in (BASE, V1))

    def against(negatives: int) -> list[Cell]:
        cells = [
            Cell("mechanism", mechanism, str(negatives), with_negatives(base, mechanism, negatives))
            for mechanism in MECHANISMS
        ]
        return [c for c in cells if c.recipe.batch <= LARGEST_BATCH]

    first, second, *others = NEGATIVES
    momenta = [Cell("momentum", "queue", str(m), replace(base, m=m)) for m in MOMENTA]
    rows = [
        Cell("v1 to v2", row, "", replace(v1, **changes))  # type: ignore[arg-type]
        for row, changes in STEPS_TO_V2.items()
    ]
    return [
        *against(first), *against(second), *momenta, *rows,
        *(cell for negatives in others for cell in against(negatives)),
    ]


def with_negatives(base: Recipe, mechanism: Mechanism, negatives: int) -> Recipe:
    """Return the recipe with this many negatives, give or take one.

    They are the keys of a queue or memory bank. End-to-end they are the batch, and the learning
    rate grows with it (1706.02677), as in the MoCo paper."""
    if mechanism != "end-to-end":
        return replace(base, mechanism=mechanism, K=negatives)
    return replace(
        base, mechanism=mechanism, batch=negatives, lr=base.lr * negatives / base.batch
    )

