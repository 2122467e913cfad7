"""Tests that need a CUDA device: pytest -m gpu."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from bench.gpu import checks, ways
from bench.gpu.rates import memory_checks
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.loading.batch import Prepared
from fastmoco.loading.engines.threads import ThreadsEngine
from fastmoco.loading.ring import Ring
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.recipe import MOCO_V2
from fastmoco.run_options import RunOptions
from fastmoco.runs.events import Progress
from fastmoco.system.device import pick_device
from fastmoco.system.streams import Field, one_ahead
from fastmoco.training.train import train
from fastmoco.weights import checkpoint as checkpoints
from tests.support.training_runs import assert_equal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # shown, but not as errors: the sync debug mode is a prototype, TF32 would be faster
    pytest.mark.filterwarnings("default"),
]
RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet18", size=64, batch=16, bn_splits=2, K=72, epochs=2, precision="float32"
)
# Enough images that only some rows are blurred; with 16 all rows would be.
SOME_ROWS = dataclasses.replace(RECIPE, batch=32)
WAYS = ways.STEPS | ways.COMPILED


@pytest.fixture(autouse=True)
def nothing_compiled():
    # Dynamo counts what one process compiles of the same code, and gives up after eight.
    torch.compiler.reset()


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


def supported(precision):
    if precision not in ("float32", *ways.narrower(pick_device("cuda"))):
        pytest.skip(f"no {precision} on this GPU")
    return precision


@pytest.mark.parametrize("form", ways.FORMS)
def test_each_form_of_the_augmentation_is_the_cpus(form):
    assert checks.augmentation_alike(form, pick_device("cuda")).kept


def test_both_losses_have_the_same_gradient():
    assert checks.losses_alike(pick_device("cuda")).kept


def test_split_batchnorm_is_the_cpus():
    assert checks.batchnorm_alike(pick_device("cuda")).kept


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_narrow_types_give_nearly_the_same_loss(precision):
    assert checks.precision_alike(supported(precision), pick_device("cuda")).kept


@pytest.mark.parametrize("name", WAYS)
def test_two_steps_are_the_cpus(name):
    assert checks.step_alike(name, pick_device("cuda")).kept


# Compiling is slow, so compiled forms are tested in one type only.
@pytest.mark.parametrize("name, precision", [
    *((name, p) for name in ways.STEPS for p in ("float32", "bfloat16", "float16")),
    *((name, "float16") for name in ways.COMPILED),
])  # fmt: skip
def test_a_whole_step_never_waits(name, precision):
    assert checks.never_waits(name, pick_device("cuda"), supported(precision)).kept


@pytest.mark.parametrize("form", ["torch", "fast"])
def test_no_form_of_the_augmentation_waits(form):
    assert checks.never_waits("queue, streaming loss", pick_device("cuda"), form=form).kept


def test_a_wait_is_seen():
    device = pick_device("cuda")
    assert checks.losses_alike(device).kept  # nothing is left in "error" mode by a check
    with pytest.raises(RuntimeError, match="synchroniz"), checks.refuse_waits(device):
        torch.ones(2, device=device).sum().item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_takes_the_memory_that_was_predicted(precision):
    recipe = dataclasses.replace(
        MOCO_V2, arch="resnet18", size=128, batch=128, K=4096, precision=supported(precision)
    )
    for check in memory_checks(recipe, pick_device("cuda"), False):
        assert check.kept, check


@pytest.mark.parametrize("how", [
    {}, {"compile": True}, {"compile": True, "cuda_graphs": True},
    {"activation_checkpointing": True},
], ids=str)  # fmt: skip
def test_a_run_stopped_in_mid_epoch_resumes_to_the_same_bits(dataset, tmp_path, how):
    def stop(event):
        if isinstance(event, Progress) and event.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    options = RunOptions(device="cuda", log_every=1, **how)
    at = [dataclasses.replace(options, out=str(tmp_path / name)) for name in ("whole", "stopped")]
    whole = train(dataset, RECIPE, at[0])
    assert train(dataset, RECIPE, at[1], [stop]).step == 8
    resumed = train(dataset, RECIPE, dataclasses.replace(at[1], resume=True))
    assert whole.step == resumed.step == 12
    assert_equal(whole.moco, resumed.moco)
    assert_equal(whole.optimizer, resumed.optimizer)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_ranks_train_over_nccl(dataset, tmp_path):
    """The queue, the shuffle and the votes: the checksum of the last save holds all ranks' state
    together, or the run ends in an error."""
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "fastmoco", "train", str(dataset), "--arch", "resnet18", "--size", "64", "--batch",
        "16", "--bn-splits", "4", "--K", "72", "--epochs", "2", "--out", str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = checkpoints.load(out)
    assert last.versions["ranks"] == "2" and last.step == 12


def test_the_host_does_not_run_away_from_a_slow_device():
    """Three batches at most are prepared before their steps are done, whatever the ring holds."""
    device, done = pick_device("cuda"), []
    layout = {"index": Field(np.int64, (4,))}
    plans = ({"index": np.arange(4)} for _ in range(40))
    made = 0

    def prepare(batch):
        nonlocal made
        made += 1
        lead = made - sum(event.query() for event in done)
        assert lead <= 3, lead
        return Prepared(batch["index"].clone(), batch["index"].clone(), None, None)

    for _ in one_ahead(Ring(None, layout, device).batches(plans), prepare, device):
        torch.cuda._sleep(20_000_000)  # some ten milliseconds
        done.append(torch.cuda.current_stream().record_event())
    assert made == 40


def test_memory_does_not_grow_by_the_epoch():
    device, held = pick_device("cuda"), []

    def prepare(i):
        images = torch.full((4, 2**20), float(i), device=device)  # 16 MB
        index = torch.full((4,), i, device=device)
        return Prepared(images, index, None, None)

    for _ in range(40):  # more epochs than torch has streams
        for _ in one_ahead(iter(range(6)), prepare, device):
            torch.cuda._sleep(2_000_000)
        held.append(torch.cuda.memory_reserved(device))
    assert held[-1] <= held[1]
