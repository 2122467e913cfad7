"""Every way of taking a training step, and the models, views and batches to take it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastmoco import draws
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.draws import Colour
from fastmoco.loading.batch import Prepared
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco, compile_parts, make_optimizer
from fastmoco.model.moco import MoCo
from fastmoco.recipe import MOCO_V2, Precision, Recipe
from fastmoco.system.device import pick_precision

CPU = torch.device("cpu")
SAMPLES = 200
# The batch is large enough that some views are blurred and some not; K, that the loss streams.
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=20, batch=32, bn_splits=4, K=1024, precision="float32"
)
FORMS: dict[str, Callable[..., torch.Tensor]] = {
    "torch": augment, "fast": augment_fast, "kornia": augment_kornia,
}


@dataclass(frozen=True)
class How:
    """One way of taking a step: changes to RECIPE, and a run's options."""

    changes: dict = dataclasses.field(default_factory=dict)
    pieces: int = 1
    recomputed: bool = False
    compiled: bool = False
    graphs: bool = False

    @property
    def recipe(self) -> Recipe:
        """RECIPE with the changes."""
        return dataclasses.replace(RECIPE, **self.changes)


STEPS = {
    "queue, streaming loss": How(),
    "queue, plain loss": How({"K": 64}),
    "memory bank": How({"mechanism": "memory-bank"}),
    "end-to-end": How({"mechanism": "end-to-end"}),
    "end-to-end, shared": How({"mechanism": "end-to-end", "shared": True}),
    "symmetric": How({"symmetric": True}),
    "one BatchNorm": How({"bn_splits": 1}),
    "BatchNorm split for keys alone": How({"split": "keys"}),
    "in two pieces": How(pieces=2),
    "activation checkpointing": How(recomputed=True),
}
COMPILED = {
    "compiled": How(compiled=True),
    "compiled, activation checkpointing": How(compiled=True, recomputed=True),
    "CUDA graphs": How(compiled=True, graphs=True),
    "CUDA graphs, symmetric": How({"symmetric": True}, compiled=True, graphs=True),
}
FEW = ("queue, streaming loss", "memory bank", "activation checkpointing")


def ways(device: torch.device) -> dict[str, How]:
    """Return every way of taking a step on a device; on a CPU compiling would take minutes."""
    return STEPS | (COMPILED if device.type == "cuda" else {})


def narrower(device: torch.device) -> tuple[Precision, ...]:
    """Return the device's types narrower than float32; bfloat16 only if a GPU has it."""
    if device.type != "cuda":
        return ("bfloat16",)
    has = pick_precision("auto", device) == "bfloat16"
    return ("bfloat16", "float16") if has else ("float16",)


def compile_it(moco: MoCo, how: How) -> None:
    """Compile as train does if `how` wants it; drop earlier compiled code first."""
    if how.compiled:
        torch.compiler.reset()
        compile_parts(moco, how.graphs)


def views(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, Colour]:
    """Return uint8 views [batch, 2, S, S, 3] of noise, and the recipe's draws for them."""
    n, size, aug = recipe.batch, recipe.size, recipe.augmentation
    arrays = draws.colour(0, 0, np.arange(n), 2, aug).arrays()
    rows = torch.from_numpy(draws.blur_rows(arrays["sigma"], aug.blur_p)).to(device)
    colour = Colour(
        **{k: torch.from_numpy(a).to(device) for k, a in arrays.items()}, blur_rows=rows
    )
    torch.manual_seed(0)
    return torch.randint(0, 256, (n, 2, size, size, 3), dtype=torch.uint8).to(device), colour


def build(how: How, device: torch.device) -> tuple[MoCo, torch.optim.SGD]:
    """Return the model and its optimizer, with the same bits on every device."""
    torch.manual_seed(0)
    moco = build_moco(how.recipe, SAMPLES, CPU, pieces=how.pieces).to(device)
    if how.recomputed:
        recompute_blocks(moco)
    return moco, make_optimizer(moco, how.recipe)


def prepared(recipe: Recipe, images: torch.Tensor, seed: int = 0) -> Prepared:
    """Return a batch of these images, with ids and draws."""
    torch.manual_seed(seed)
    index = torch.randperm(SAMPLES)[: recipe.batch]
    shuffle, drawn = torch.randperm(recipe.batch), torch.randint(SAMPLES, (recipe.K,))
    return Prepared(images, *(t.to(images.device) for t in (index, shuffle, drawn)))
