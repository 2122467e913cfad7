"""What only a CUDA device can show: pytest -m gpu."""

import dataclasses
import os
import signal

import pytest
import torch

from fastmoco.augment import augment
from fastmoco.augment_fast import augment_fast
from fastmoco.device import pick_device
from fastmoco.engines.threads import ThreadsEngine
from fastmoco.events import Progress
from fastmoco.loader import TrainLoader
from fastmoco.moco import build_moco
from fastmoco.recipe import MOCO_V2, RunOptions
from fastmoco.train import train
from tests.test_train import assert_equal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet18", size=64, batch=16, bn_splits=2, K=72, epochs=2, precision="float32"
)
# Enough images that only some rows are blurred: at 16 the list of rows is all of them.
SOME_ROWS = dataclasses.replace(RECIPE, batch=32)


def batches(store, device, recipe=RECIPE):
    engine = ThreadsEngine(store, 2)
    try:
        loader = TrainLoader(store, recipe, engine, device)
        yield from loader.epoch(0)
    finally:
        engine.close()


def test_the_loader_brings_the_same_bytes(store):
    pairs = zip(
        batches(store, torch.device("cpu")), batches(store, pick_device("cuda")), strict=True
    )
    for on_cpu, on_gpu in pairs:
        assert torch.equal(on_cpu.views, on_gpu.views.cpu())
        assert torch.equal(on_cpu.shuffle, on_gpu.shuffle.cpu())
        for name, values in on_cpu.colour.arrays().items():
            assert torch.equal(values, on_gpu.colour.arrays()[name].cpu()), name


@pytest.mark.parametrize("form", [augment, augment_fast])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", [RECIPE, SOME_ROWS], ids=["all rows", "some rows"])
def test_augmentation_on_the_gpu_equals_the_cpu(store, compiled, form, recipe):
    function = torch.compile(form, fullgraph=True, dynamic=False) if compiled else form
    on_cpu = next(iter(batches(store, torch.device("cpu"), recipe)))
    some = len(on_cpu.colour.blur_rows) < 2 * recipe.batch
    assert some == (recipe is SOME_ROWS)
    expected = augment(on_cpu.views, on_cpu.colour, RECIPE.augmentation)
    on_gpu = next(iter(batches(store, pick_device("cuda"), recipe)))
    got = function(on_gpu.views, on_gpu.colour, RECIPE.augmentation)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", [augment, augment_fast])
def test_a_whole_step_never_syncs(store, precision, form):
    device = pick_device("cuda")
    moco = build_moco(RECIPE, len(store), device)
    optimizer = torch.optim.SGD(moco.encoder_q.parameters(), lr=0.03, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16")
    dtype = getattr(torch, precision)
    for i, batch in enumerate(batches(store, device, SOME_ROWS)):
        if i == 1:  # the first step allocates and picks kernels
            torch.cuda.set_sync_debug_mode("error")
        try:
            im_q, im_k = form(batch.views, batch.colour, RECIPE.augmentation)
            with torch.autocast("cuda", dtype, enabled=precision != "float32"):
                out = moco(im_q, im_k, batch.index, batch.shuffle)
            scaler.scale(out.loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            moco.update(out)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if i == 2:
            break
    assert out.loss.isfinite()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_stopped_in_mid_epoch_resumes_to_the_same_bits(dataset, tmp_path, compiled):
    def stop(event):
        if isinstance(event, Progress) and event.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(device="cuda", compile=compiled, log_every=1)
    at = [dataclasses.replace(options, out=str(tmp_path / name)) for name in ("whole", "stopped")]
    whole = train(dataset, RECIPE, at[0])
    assert train(dataset, RECIPE, at[1], [stop]).step == 8
    resumed = train(dataset, RECIPE, dataclasses.replace(at[1], resume=True))
    assert whole.step == resumed.step == 12
    assert_equal(whole.moco, resumed.moco)
    assert_equal(whole.optimizer, resumed.optimizer)
