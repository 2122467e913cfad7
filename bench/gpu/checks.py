"""Checks that a GPU computes the same as a CPU, and that the host never waits for it.

Each check has a measured figure and an allowed one. Steps are the real training_step in float64, so
a difference is a fault and not rounding. bench.gpu and pytest -m gpu run the checks. All but the
compiled ones run on the CPU too, so that the checks themselves are tested.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.gpu.ways import (
    CPU,
    FEW,
    FORMS,
    RECIPE,
    How,
    build,
    compile_it,
    narrower,
    prepared,
    views,
    ways,
)
from bench.training.loss import gradient, inputs
from fastmoco.augmentation.plain import augment
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.model.build import make_optimizer
from fastmoco.model.info_nce import info_nce_plain, info_nce_streaming
from fastmoco.recipe import Precision
from fastmoco.system.device import DTYPES, grad_scaler
from fastmoco.training.bad_steps import BadSteps
from fastmoco.training.step import training_step

ALIKE = 1e-9  # float64, two steps, relative norms
COMPILED_ALIKE = 1e-6  # the compiler changes the order of summation
AUGMENTED_ALIKE = 1e-4  # float32, the largest difference of a pixel; pixels have deviation 1
LOSS_ALIKE = 1e-5  # float32, gradients of the two forms, relative
ROUNDED_ALIKE = 2e-2  # bfloat16 and float16 against wider types, relative


@dataclass(frozen=True)
class Check:
    """A measured figure and the largest allowed one."""

    name: str
    measured: float
    allowed: float
    note: str = ""

    @property
    def kept(self) -> bool:
        """True if the figure is within the allowed one; NaN is not."""
        return self.measured <= self.allowed


def after_two_steps(how: How, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the model's state and each step's loss after two steps in float64."""
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
    """Return the largest difference of two states, relative to the norms of b."""
    if a.keys() != b.keys():
        return float("inf")
    return max(float((a[k] - v).norm() / v.norm().clamp(min=1e-30)) for k, v in b.items())


def step_alike(name: str, device: torch.device) -> Check:
    """Compare a way of taking a step on the device with the plain one on a CPU."""
    how = ways(device)[name]
    plain = dataclasses.replace(how, recomputed=False, compiled=False, graphs=False)
    allowed = COMPILED_ALIKE if how.compiled else ALIKE
    far = apart(after_two_steps(how, device), after_two_steps(plain, CPU))
    return Check(f"two steps, {name}", far, allowed)


def augmentation_alike(name: str, device: torch.device) -> Check:
    """Compare a form of the augmentation on the device with itself on a CPU; the fast form with the
    plain one."""
    form = FORMS[name]
    expected = (augment if name == "fast" else form)(*views(RECIPE, CPU), RECIPE.augmentation)
    got = form(*views(RECIPE, device), RECIPE.augmentation).cpu()
    return Check(f"augmentation, {name}", float((got - expected).abs().max()), AUGMENTED_ALIKE)


def losses_alike(device: torch.device) -> Check:
    """Compare the streaming loss's gradient with the plain one's."""
    given = inputs(64, 8192, device)
    plain, streaming = (gradient(f, *given) for f in (info_nce_plain, info_nce_streaming))
    far = float((plain - streaming).norm() / plain.norm())
    return Check("streaming loss against plain", far, LOSS_ALIKE)


def batchnorm_alike(device: torch.device) -> Check:
    """Compare split BatchNorm in bfloat16, channels last, on the device with float64 on a CPU: the
    output and the running statistics."""
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
    """Compare the loss of a step in a narrower type with float32's on the same device."""
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
    """In this context, anything that makes the host wait for a GPU raises RuntimeError."""
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
    """Check that no step waits, from uint8 views to the dictionary's update and the record of
    skipped steps."""
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

    for _ in range(settled):  # the first calls allocate, pick kernels and record graphs
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
    """Yield every check's name and function; `quick` leaves out most ways of taking a step."""
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
