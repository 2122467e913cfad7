"""The step never waits: augmentation, loss, update and enqueue on fake CUDA tensors.

FakeTensorMode raises if the host needs a value or a data-dependent shape. The dispatch mode refuses
the other waits: copies between devices, tensors made on the host, list indexing.
"""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastmoco import draws
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment, centre_view
from fastmoco.draws import Colour
from fastmoco.loading.engines.resident_gpu import cut
from fastmoco.model.dictionaries import EndToEnd, MemoryBank, Queue
from fastmoco.model.encoder import build_encoder
from fastmoco.model.geometry import geometry
from fastmoco.model.info_nce import LARGE
from fastmoco.model.moco import MoCo
from fastmoco.recipe import AUGMENT_V1, MOCO_V2
from fastmoco.training.bad_steps import BadSteps

WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class Sync(AssertionError):
    pass


class RefuseSyncs(TorchDispatchMode):
    """Raises Sync for ops that wait, and for any tensor that moves between host and device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITS or name.startswith("unique"):
            raise Sync(name)
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, out))
                   if isinstance(t, torch.Tensor)]
        if name == "index" and any(
            t.dtype in (torch.bool, torch.uint8) for t in args[1] if t is not None
        ):
            raise Sync("indexing by a mask")
        # A scalar on the host is a kernel's argument; anything larger is a copy that waits.
        if len({t.device.type for t in tensors if t.dim() > 0}) > 1 or (
            name in ("_to_copy", "copy_") and len({t.device.type for t in tensors}) > 1
        ):
            raise Sync(f"{name} between host and device")
        return out


@contextmanager
def fake_cuda():
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(), torch.device("cuda"):
        # Module.to cannot swap fakes, and this test does not need the weights' memory format
        patch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
        yield


def fake_colour(aug, batch):
    arrays = draws.colour(0, 0, np.arange(batch), 2, aug).arrays()
    return Colour(
        **{
            k: torch.empty(a.shape, dtype=torch.from_numpy(a).dtype)
            for k, a in arrays.items()
        },
        blur_rows=torch.empty(draws.blur_room(2 * batch, aug.blur_p), dtype=torch.int64),
    )


@pytest.mark.parametrize("aug", [AUGMENT_V1, MOCO_V2.augmentation], ids=["v1", "v2"])
@pytest.mark.parametrize("form", [augment, augment_fast])
@pytest.mark.parametrize("arch", ["resnet-mini", "resnet18"])
@pytest.mark.parametrize("n", [16, 32])
def test_the_step_never_waits(aug, arch, form, n):
    recipe = dataclasses.replace(MOCO_V2, arch=arch, K=64, batch=n, bn_splits=4, augmentation=aug)
    # 16 images have room to blur all rows, 32 only for some: two branches of augment_fast
    assert aug.blur_p == 0 or (draws.blur_room(2 * n, aug.blur_p) < 2 * n) == (n == 32)
    with fake_cuda(), pytest.MonkeyPatch.context() as patch:
        # copying a fake reads its data pointer; another encoder serves as well
        patch.setattr("fastmoco.model.moco.copy.deepcopy", lambda _: build_encoder(recipe))
        moco = MoCo(build_encoder(recipe), Queue(recipe.K, recipe.dim), recipe.m, recipe.T)
        views = torch.empty(n, 2, 32, 32, 3, dtype=torch.uint8)
        colour, shuffle = fake_colour(aug, n), torch.empty(n, dtype=torch.int64)
        window = torch.zeros(())
        with RefuseSyncs():
            im_q, im_k = form(views, colour, aug)
            out = moco(im_q, im_k, None, shuffle)  # autocast for CUDA needs a CUDA device
            moco.update(out)
            window += out.loss.detach()
        assert out.loss.device.type == "cuda" and im_q.shape == (n, 3, 32, 32)


@pytest.mark.parametrize("mechanism", ["queue", "memory-bank", "end-to-end"])
@pytest.mark.parametrize("K", [64, 4096], ids=["plain loss", "streaming loss"])
def test_no_mechanism_waits_nor_what_is_watched(mechanism, K):
    """From uint8 views to the dictionary's update and the records of a step."""
    n = 16
    assert (n * K >= LARGE) == (K == 4096)
    recipe = dataclasses.replace(MOCO_V2, arch="resnet-mini", K=K, batch=n, bn_splits=4)
    with fake_cuda(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmoco.model.moco.copy.deepcopy", lambda _: build_encoder(recipe))
        dictionary = {
            "queue": lambda: Queue(K, recipe.dim), "end-to-end": EndToEnd,
            "memory-bank": lambda: MemoryBank(100, recipe.dim),
        }[mechanism]()  # fmt: skip
        moco = MoCo(build_encoder(recipe), dictionary, recipe.m, recipe.T)
        views = torch.empty(n, 2, 32, 32, 3, dtype=torch.uint8)
        colour, index = fake_colour(recipe.augmentation, n), torch.empty(n, dtype=torch.int64)
        shuffle, drawn = (torch.empty(rows, dtype=torch.int64) for rows in (n, K))
        bad = BadSteps(4, n, torch.device("cuda"))
        with RefuseSyncs():
            for _ in range(2):
                im_q, im_k = augment_fast(views, colour, recipe.augmentation)
                out = moco(im_q, im_k, index, shuffle, drawn)
                watched = geometry(out.q, out.k)
                skipped = 1 - (out.loss.isfinite() & out.keys.isfinite().all()).float()
                moco.update(out)
                bad.add(index, skipped)
        assert {"alignment", "uniformity", "feature_std"} <= set(watched)


def test_cutting_resident_images_never_waits():
    with fake_cuda():
        images = torch.empty(100, 24, 30, 3, dtype=torch.uint8)
        index, windows = torch.empty(8, dtype=torch.int64), torch.empty(8, 2, 4, dtype=torch.int32)
        with RefuseSyncs():
            views = cut(images.index_select(0, index), windows, 16)
        assert views.device.type == "cuda" and views.shape == (8, 2, 16, 16, 3)


def test_evaluation_never_waits():
    with fake_cuda():
        views = torch.empty(4, 1, 32, 32, 3, dtype=torch.uint8)
        encoder = build_encoder(dataclasses.replace(MOCO_V2, arch="resnet-mini")).eval()
        with RefuseSyncs(), torch.no_grad():
            assert encoder.trunk(centre_view(views, AUGMENT_V1, torch.float32)).shape[0] == 4


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor([1.0, 2.0], device="cuda")[0],
        lambda x: x[[0, 1]],
        lambda x: x[x > 0],
        lambda x: torch.zeros(4, device="cpu").to("cuda") + x,
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
    ],
    ids=["item", "cpu", "tensor", "list", "mask", "upload", "nonzero", "bool"],
)
def test_the_law_can_be_broken(bad):
    with fake_cuda():
        x = torch.zeros(4)
        with pytest.raises((Sync, torch._subclasses.fake_tensor.DataDependentOutputException,
                            torch._subclasses.fake_tensor.DynamicOutputShapeException)):
            with RefuseSyncs():
                bad(x)
