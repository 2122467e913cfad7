"""What a card must do as a CPU does, and without waiting: a figure each, and what is allowed.

Steps are the real training_step, taken in float64: what differs there is a fault, not rounding.
Run by bench.gpu and by pytest -m gpu; on the CPU all but what is compiled runs as well, so that
the checks themselves are tested.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bench.training.loss import gradient, inputs
from fastmoco import draws
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.draws import Colour
from fastmoco.loading.batch import Prepared
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.build import build_moco, compile_parts, make_optimizer
from fastmoco.model.info_nce import info_nce_plain, info_nce_streaming
from fastmoco.model.moco import MoCo
from fastmoco.recipe import MOCO_V2, Precision, Recipe
from fastmoco.system.device import DTYPES, grad_scaler, pick_precision
from fastmoco.training.bad_steps import BadSteps
from fastmoco.training.step import training_step

CPU = torch.device("cpu")
SAMPLES = 200
# As many images that only some of their views are blurred, as many keys that the loss streams.
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=20, batch=32, bn_splits=4, K=1024, precision="float32"
)
FORMS: dict[str, Callable[..., torch.Tensor]] = {
    "torch": augment, "fast": augment_fast, "kornia": augment_kornia,
}
ALIKE = 1e-9  # float64, two steps, norms relative
COMPILED_ALIKE = 1e-6  # other orders of summation
AUGMENTED_ALIKE = 1e-4  # float32, the largest difference of a pixel, whose deviation is 1
LOSS_ALIKE = 1e-5  # float32, gradients of the two forms, relative
ROUNDED_ALIKE = 2e-2  # bfloat16 and float16 against wider types, relative


@dataclass(frozen=True)
class Check:
    """A figure, and the most that it may be."""

    name: str
    measured: float
    allowed: float
    note: str = ""

    @property
    def kept(self) -> bool:
        """What is not a number is not kept."""
        return self.measured <= self.allowed


@dataclass(frozen=True)
class How:
    """One way of taking a step: changes to RECIPE, and what a run's options say."""

    changes: dict = dataclasses.field(default_factory=dict)
    pieces: int = 1
    recomputed: bool = False
    compiled: bool = False
    graphs: bool = False

    @property
    def recipe(self) -> Recipe:
        """RECIPE, changed."""
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
    """Every way of taking a step on a device; a CPU's compiler would take minutes."""
    return STEPS | (COMPILED if device.type == "cuda" else {})


def narrower(device: torch.device) -> tuple[Precision, ...]:
    """Types to multiply in, but for float32; bfloat16 where a GPU has it."""
    if device.type != "cuda":
        return ("bfloat16",)
    has = pick_precision("auto", device) == "bfloat16"
    return ("bfloat16", "float16") if has else ("float16",)


def compile_it(moco: MoCo, how: How) -> None:
    """As train does, where that is asked for; nothing is left of what was compiled before."""
    if how.compiled:
        torch.compiler.reset()
        compile_parts(moco, how.graphs)


def views(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, Colour]:
    """uint8 views [batch, 2, S, S, 3] of noise and the recipe's draws for them."""
    n, size, aug = recipe.batch, recipe.size, recipe.augmentation
    arrays = draws.colour(0, 0, np.arange(n), 2, aug).arrays()
    rows = torch.from_numpy(draws.blur_rows(arrays["sigma"], aug.blur_p)).to(device)
    colour = Colour(
        **{k: torch.from_numpy(a).to(device) for k, a in arrays.items()}, blur_rows=rows
    )
    torch.manual_seed(0)
    return torch.randint(0, 256, (n, 2, size, size, 3), dtype=torch.uint8).to(device), colour


def build(how: How, device: torch.device) -> tuple[MoCo, torch.optim.SGD]:
    """The model and its optimizer, from the same bits on every device."""
    torch.manual_seed(0)
    moco = build_moco(how.recipe, SAMPLES, CPU, pieces=how.pieces).to(device)
    if how.recomputed:
        recompute_blocks(moco)
    return moco, make_optimizer(moco, how.recipe)


def prepared(recipe: Recipe, images: torch.Tensor, seed: int = 0) -> Prepared:
    """A batch of these images, with ids and draws."""
    torch.manual_seed(seed)
    index = torch.randperm(SAMPLES)[: recipe.batch]
    shuffle, drawn = torch.randperm(recipe.batch), torch.randint(SAMPLES, (recipe.K,))
    return Prepared(images, *(t.to(images.device) for t in (index, shuffle, drawn)))


def after_two_steps(how: How, device: torch.device) -> dict[str, torch.Tensor]:
    """The model's state, and each step's loss, in float64."""
    recipe = how.recipe
    moco, _ = build(how, device)
    moco.double()
    optimizer, scaler = make_optimizer(moco, recipe), grad_scaler(device, "float32")
    compile_it(moco, how)
    losses = []
    for i in range(2):
        torch.manual_seed(i)
        images = torch.randn(2, recipe.batch, recipe.size, recipe.size, 3, dtype=torch.float64)
        batch = prepared(recipe, images.to(device).permute(0, 1, 4, 2, 3), i)
        out = training_step(moco, optimizer, scaler, batch, recipe, how.pieces, watch=True)
        losses.append(out.loss.detach().clone())
    return {k: v.cpu().double() for k, v in moco.state_dict().items()} | {
        "loss": torch.stack(losses).cpu()
    }


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of two states, relative to the second's norms."""
    if a.keys() != b.keys():
        return float("inf")
    return max(float((a[k] - v).norm() / v.norm().clamp(min=1e-30)) for k, v in b.items())


def step_alike(name: str, device: torch.device) -> Check:
    """A way of taking a step, on the device, against the plain one of a CPU."""
    how = ways(device)[name]
    plain = dataclasses.replace(how, recomputed=False, compiled=False, graphs=False)
    allowed = COMPILED_ALIKE if how.compiled else ALIKE
    far = apart(after_two_steps(how, device), after_two_steps(plain, CPU))
    return Check(f"two steps, {name}", far, allowed)


def augmentation_alike(name: str, device: torch.device) -> Check:
    """A form of the augmentation on the device against itself on a CPU, and the fast form against
    the plain one."""
    form = FORMS[name]
    expected = (augment if name == "fast" else form)(*views(RECIPE, CPU), RECIPE.augmentation)
    got = form(*views(RECIPE, device), RECIPE.augmentation).cpu()
    return Check(f"augmentation, {name}", float((got - expected).abs().max()), AUGMENTED_ALIKE)


def losses_alike(device: torch.device) -> Check:
    """The streaming loss's gradient against the plain one's."""
    given = inputs(64, 8192, device)
    plain, streaming = (gradient(f, *given) for f in (info_nce_plain, info_nce_streaming))
    far = float((plain - streaming).norm() / plain.norm())
    return Check("streaming loss against plain", far, LOSS_ALIKE)


def batchnorm_alike(device: torch.device) -> Check:
    """Split BatchNorm of bfloat16, channels last, on the device against float64 on a CPU: its
    output and its running statistics."""
    torch.manual_seed(0)
    x = torch.randn(16, 8, 6, 5).bfloat16().to(memory_format=torch.channels_last)
    found = []
    for where, dtype in ((device, torch.bfloat16), (CPU, torch.float64)):
        layer = SplitBatchNorm2d(8, 4).to(where)
        if dtype == torch.float64:
            layer.double()
        y = layer(x.to(where, dtype))
        if not y.is_contiguous(memory_format=torch.channels_last):
            return Check("split BatchNorm, channels last", float("nan"), 0, "not channels last")
        found.append({"y": y, **layer.state_dict()})
    states = [{k: v.detach().cpu().double() for k, v in state.items()} for state in found]
    return Check("split BatchNorm in bfloat16", apart(*states), ROUNDED_ALIKE)


def precision_alike(precision: Precision, device: torch.device) -> Check:
    """The loss of a step in a narrower type against float32's on the same device."""
    losses = []
    for chosen in ("float32", precision):
        how = How({"precision": chosen})
        moco, optimizer = build(how, device)
        images = augment(*views(how.recipe, device), how.recipe.augmentation, DTYPES[chosen])
        batch = prepared(how.recipe, images)
        out = training_step(moco, optimizer, grad_scaler(device, chosen), batch, how.recipe)
        losses.append(float(out.loss.detach()))
    return Check(f"loss in {precision}", abs(losses[1] / losses[0] - 1), ROUNDED_ALIKE)


@contextlib.contextmanager
def refuse_waits(device: torch.device) -> Iterator[None]:
    """In here whatever makes the host wait for a GPU raises RuntimeError."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def never_waits(
    name: str, device: torch.device, precision: Precision = "float32", form: str = "fast"
) -> Check:
    """From uint8 views to the dictionary's update and the record of skipped steps."""
    how = ways(device)[name]
    recipe = dataclasses.replace(how.recipe, precision=precision)
    moco, optimizer = build(how, device)
    compile_it(moco, how)
    scaler, bad = grad_scaler(device, precision), BadSteps(4, recipe.batch, device)
    pixels, colour = views(recipe, device)
    window, settled = torch.zeros((), device=device), 4 if how.compiled else 1
    batch = prepared(recipe, pixels)

    def step() -> None:
        images = FORMS[form](pixels, colour, recipe.augmentation, DTYPES[precision])
        now = dataclasses.replace(batch, images=images)
        out = training_step(moco, optimizer, scaler, now, recipe, how.pieces, watch=True)
        bad.add(batch.index, out.stats["skipped"])
        window.add_(out.stats["loss"])

    for _ in range(settled):  # what allocates, picks kernels and records graphs
        step()
    note = ""
    try:
        with refuse_waits(device):
            for _ in range(2):
                step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        note = str(error).splitlines()[0]
    if not note and not window.isfinite():
        note = "the loss is not finite"
    return Check(f"no wait, {name}, {precision}, {form}", float(bool(note)), 0, note)


def all_checks(
    device: torch.device, quick: bool = False
) -> Iterator[tuple[str, Callable[[], list[Check]]]]:
    """Every check by its name, to be made; quick leaves out most ways of taking a step."""
    names = FEW if quick else tuple(ways(device))
    for form in FORMS:
        yield f"augmentation, {form}", lambda form=form: [augmentation_alike(form, device)]
    yield "streaming loss", lambda: [losses_alike(device)]
    yield "split BatchNorm", lambda: [batchnorm_alike(device)]
    for p in narrower(device):
        yield f"loss in {p}", lambda p=p: [precision_alike(p, device)]
    for name in names:
        yield f"two steps, {name}", lambda name=name: [step_alike(name, device)]
    for name in names:
        yield f"no wait, {name}", lambda name=name: [never_waits(name, device)]
    for p in narrower(device):
        yield f"no wait, {p}", lambda p=p: [never_waits(names[0], device, p, "torch")]
