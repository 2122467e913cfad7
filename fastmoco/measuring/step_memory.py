"""What a training step takes of memory: the real step, run once on tensors without data.

Fake tensors have shapes and no bytes, so a ResNet-50 at any batch is walked in seconds; a dispatch
mode counts what lives at each moment (a storage is born with the op that makes it and dies with its
last reference, as the allocator sees it). Nothing is looked up in a table of layers.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmoco import draws
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.loading.batch import Prepared
from fastmoco.loading.ring import RING
from fastmoco.model.activation_checkpointing import recompute_blocks
from fastmoco.model.build import build_moco
from fastmoco.model.info_nce import LARGE, LAUNCHED
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.system.device import DTYPES, grad_scaler
from fastmoco.system.hardware import used_memory
from fastmoco.training.step import training_step

CUDA_ITSELF = 700_000_000  # bytes of a context, its libraries, cuDNN's workspaces: assumed
# A pixel of both views: what the compiled augmentation's kernels leave to each other, assumed from
# the 107 bytes that they move (bench/gpu/model.py); eagerly it is counted.
COMPILED = 48


class Living(TorchDispatchMode):
    """Counts the bytes of the storages that ops make while they live, by what was being done."""

    def __init__(self) -> None:
        super().__init__()
        self.doing = ""
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._known: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return out

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """What was there before, and is counted otherwise."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = storage  # kept: its number is not given out again

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now on, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        doing, size = self.doing, storage.nbytes()

        def died(_: weakref.ref) -> None:
            del self._known[key]
            self.now[doing] -= size

        self._known[key] = weakref.ref(storage, died)
        self.now[doing] += size
        if self.now.total() > self.most.total():
            self.most = self.now.copy()


@dataclass(frozen=True)
class Walk:
    """One step, as it was walked; bytes throughout."""

    lasting: dict[str, int]
    """What is there between steps: encoders, momentum, keys."""
    peak: dict[str, int]
    """What else there is at the moment when it is most, by what made it."""
    kept: int
    """What the queries' forward pass leaves for the backward pass, of one piece."""


class _InPlace:
    """The fused optimizer as the allocator sees it: it works in place."""

    def __init__(self, moco: MoCo) -> None:
        self.moco = moco

    def step(self) -> None:
        """Nothing is allocated."""

    def zero_grad(self, set_to_none: bool) -> None:
        """The gradients' memory is given back."""
        for p in self.moco.trained():
            p.grad = None


@functools.cache
def walked(recipe: Recipe, samples: int, pieces: int = 1, recomputed: bool = False) -> Walk:
    """What walk finds; asked again, at once."""
    return walk(recipe, samples, pieces, recomputed)


def walk(
    recipe: Recipe, samples: int, pieces: int = 1, recomputed: bool = False, real: bool = False
) -> Walk:
    """The memory of one step of a recipe (its precision resolved) on one device.

    With real the tensors have data: the same count on a step that is really taken, for tests.
    """
    device = torch.device("cpu")
    with contextlib.nullcontext() if real else torch.device("meta"):
        moco = build_moco(recipe, samples, torch.get_default_device(), pieces=pieces)
    with contextlib.nullcontext() if real else FakeTensorMode():
        if not real:
            _without_data(moco)
        if recomputed:
            recompute_blocks(moco)
        trained = sum(p.nbytes for p in moco.trained())
        lasting = {
            "query encoder": _bytes(moco.encoder_q),
            "key encoder": 0 if moco.encoder_k is None else _bytes(moco.encoder_k),
            "momentum of SGD": trained if recipe.momentum > 0 else 0,
            "queue" if recipe.mechanism == "queue" else "memory bank": _bytes(moco.dictionary),
        }
        living = Living()
        living.leave_out([*moco.parameters(), *moco.buffers()])
        kept = _name_what_is_done(moco, living)
        n, size = recipe.batch, recipe.size
        with living:
            living.doing = "images"
            images = torch.zeros(2, n, size, size, 3, dtype=DTYPES[recipe.precision])
            batch = Prepared(
                images.permute(0, 1, 4, 2, 3), torch.arange(n), torch.arange(n),
                torch.zeros(recipe.K, dtype=torch.int64),
            )
            training_step(
                moco, _InPlace(moco), grad_scaler(device, "float32"),  # type: ignore[arg-type]
                batch, recipe, pieces, watch=True,
            )
    return Walk({k: v for k, v in lasting.items() if v}, dict(+living.most), max(kept))


@dataclass(frozen=True)
class Part:
    """One line of an estimate."""

    name: str
    bytes: int
    source: str
    """counted, measured or assumed."""


@dataclass(frozen=True)
class Estimate:
    """The device's memory (a CPU's: the process's) at the moment of a step when it is most."""

    batch: int
    parts: list[Part]
    kept: int
    """Of the activations: what a forward pass of the queries leaves for the backward pass."""

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(part.bytes for part in self.parts)

    def with_resident(self, images: int) -> Estimate:
        """The same beside so many bytes of a dataset that lies on the device."""
        if not images:
            return self
        resident = Part("the dataset's images, resident", images, "counted")
        return replace(self, parts=[*self.parts, resident])


def estimate(
    recipe: Recipe, samples: int, options: RunOptions, device: torch.device
) -> Estimate:
    """What training by a recipe (its precision resolved) takes on one such device, which is not
    touched: it need not be there."""
    found = walked(recipe, samples, options.accumulate, options.activation_checkpointing)
    parts = [Part(name, size, "counted") for name, size in (found.lasting | found.peak).items()]
    pixels = 2 * recipe.batch * recipe.size**2
    parts.append(Part("loader's ring", RING * 3 * pixels, "counted"))
    if device.type == "cpu":
        parts.append(Part("Python, torch and what else is here", used_memory(device), "measured"))
        return Estimate(recipe.batch, parts, found.kept)
    # a batch waits for its step, and while one more is made the last is still in its own
    ahead, made = 3 * pixels * DTYPES[recipe.precision].itemsize, "counted"
    if options.augment == "auto" or options.compile:
        peak, made = ahead + COMPILED * pixels, "assumed"
    else:
        peak = max(ahead, augmentation_peak(recipe))
    parts.append(Part("augmentation, two batches ahead", ahead + peak, made))
    negatives = recipe.batch * recipe.K
    if recipe.mechanism != "end-to-end" and negatives >= LARGE:  # the walk had a CPU's
        parts.append(Part("loss, a chunk of logits", 4 * min(LAUNCHED, negatives), "counted"))
    parts.append(Part("CUDA itself", CUDA_ITSELF, "assumed"))
    return Estimate(recipe.batch, parts, found.kept)


def augmentation_peak(recipe: Recipe) -> int:
    """Bytes that the plain augmentation takes, eagerly, its result among them."""
    n, size, aug = recipe.batch, recipe.size, recipe.augmentation_at(recipe.size)
    arrays = draws.colour(0, 0, np.arange(n), 2, aug).arrays()
    with FakeTensorMode():
        colour = Colour(**{
            k: torch.empty(a.shape, dtype=torch.from_numpy(a).dtype) for k, a in arrays.items()
        })
        views, living = torch.empty(n, 2, size, size, 3, dtype=torch.uint8), Living()
        living.leave_out([views, *colour.arrays().values()])
        with living:
            augment(views, colour, aug, DTYPES[recipe.precision])
    return living.most.total()


def _name_what_is_done(moco: MoCo, living: Living) -> list[int]:
    """Hooks that tell `living` what the step is at; returns where the bytes go that each forward
    pass of the queries leaves."""
    kept: list[int] = []

    def now(what: str) -> None:
        living.doing = what

    def queries_done(module: nn.Module, args: object, out: torch.Tensor) -> None:
        if out.requires_grad:
            kept.append(living.now["activations"])
            out.register_hook(lambda _: now("gradients and working space"))
        now("loss")

    moco.encoder_q.register_forward_pre_hook(lambda *_: now("activations"))
    moco.encoder_q.register_forward_hook(queries_done)
    if moco.encoder_k is not None:
        name = "activations" if moco.dictionary.trains_keys else "keys' forward pass"
        moco.encoder_k.register_forward_pre_hook(lambda *_: now(name))
        moco.encoder_k.register_forward_hook(lambda *_: now("loss"))
    return kept


def _without_data(moco: MoCo) -> None:
    """Parameters and buffers of the meta device become fakes of the CPU."""
    for module in moco.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(
                    torch.empty_strided(p.shape, p.stride(), dtype=p.dtype), p.requires_grad
                )
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty_strided(b.shape, b.stride(), dtype=b.dtype)


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in [*module.parameters(), *module.buffers()])
