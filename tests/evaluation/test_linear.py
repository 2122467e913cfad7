"""The official protocol against plain torch; resuming; the frozen trunk; the held-out choice."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmoco.evaluation.linear as linear_module
import fastmoco.evaluation.resume_state as state_module
from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.crop_loader import CropLoader
from fastmoco.evaluation.feature_cache import Extraction
from fastmoco.evaluation.features import extract
from fastmoco.evaluation.linear import linear
from fastmoco.evaluation.linear_classifiers import Heads
from fastmoco.evaluation.raw_pixels import pixel_encoder, raw_pixels
from fastmoco.loading.engines.registry import open_engine
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.weights.encoders import load_encoder
from tests.support.evaluation_parts import CPU, RECIPE, untrained


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fastmoco"


@pytest.fixture(scope="module")
def sets(store):
    return Subset(store, np.arange(0, 96, 3)), Subset(store, np.arange(1, 96, 6))


def test_it_is_main_lincls_in_plain_torch(sets, monkeypatch):
    train, val = sets
    seen = []
    predict = Heads.predict
    monkeypatch.setattr(
        Heads, "predict", lambda self, x: (seen.append(self), predict(self, x))[1]
    )
    found = linear(untrained(), train, val, Extraction(CPU), LinearSettings(epochs=5, batch=10))
    ours = seen[-1]

    encoder = load_encoder(untrained(), CPU)
    fc = nn.Linear(encoder.width, 2)
    start = Heads(encoder.width, 2, (30.0,), CPU, seed=0)
    with torch.no_grad():
        fc.weight.copy_(start.weight)
        fc.bias.copy_(start.bias)
    optimizer = torch.optim.SGD(fc.parameters(), lr=30.0, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4], gamma=0.1)
    loader = CropLoader(train, RECIPE, open_engine("threads", train, 1, CPU).engine, CPU, 10, 0)
    for epoch in range(5):
        for images, label in loader.epoch(epoch):
            with torch.no_grad():
                pooled = encoder.trunk(images)
            optimizer.zero_grad()
            F.cross_entropy(fc(pooled), label).backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(ours.weight, fc.weight.data, rtol=1e-3, atol=1e-2)
    likely = fc(extract(encoder, val, RECIPE, CPU)).argmax(dim=1).numpy()
    assert found.rows[0].score.top1 == pytest.approx((likely == val.labels).mean())
    assert found.rows[0].rate == 30 and not found.rows[0].held_out and found.held_out == 0
    assert found.protocol.startswith("official linear protocol, changed: ")
    assert "5 epochs, x0.1 at 3 and 4" in found.protocol and "lr 30," in found.protocol


def test_a_killed_one_goes_on_to_the_same_bits(sets, cache, monkeypatch):
    train, val = sets
    monkeypatch.setattr(state_module.time, "monotonic", lambda: 1e9)  # always time to save
    kept = []

    class Eager(state_module.EpochState):
        def __init__(self, identity):
            super().__init__(identity, seconds=0)
            kept.append(self.path)

    monkeypatch.setattr(linear_module, "EpochState", Eager)
    heads = []
    scored = linear_module.scored
    monkeypatch.setattr(
        linear_module, "scored", lambda n, h, *rest: (heads.append(h), scored(n, h, *rest))[1]
    )
    settings = LinearSettings(lr=(30.0,), epochs=4, batch=10)
    linear(untrained(), train, val, Extraction(CPU), settings)
    assert not kept[0].exists()

    step, steps = Heads.step, []

    def dies(self, *args):
        steps.append(1)
        if len(steps) == 11:  # in the third epoch of four batches
            raise KeyboardInterrupt
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Heads, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            linear(untrained(), train, val, Extraction(CPU), settings)
    assert kept[1].exists()
    other = dataclasses.replace(settings, seed=1)
    linear(untrained(), train, val, Extraction(CPU), other)
    monkeypatch.setattr(Heads, "step", lambda self, *args: (steps.append(1), step(self, *args))[1])
    steps.clear()
    linear(untrained(), train, val, Extraction(CPU), settings)
    assert len(steps) == 8  # two epochs were behind it
    assert torch.equal(heads[0].weight, heads[-1].weight) and not kept[1].exists()
    assert not torch.equal(heads[0].weight, heads[1].weight)


def test_the_trunk_is_proved_to_be_what_it_was(sets, monkeypatch):
    train, val = sets
    settings = LinearSettings(epochs=1)
    found = linear(untrained(), train, val, Extraction(CPU), settings)
    tensors = len(load_encoder(untrained(), CPU).trunk.state_dict())
    assert f"unchanged, bit for bit: {tensors} tensors" in found.trunk
    load = linear_module.load_encoder

    def thawed(*args):
        """The classic mistake of evaluations: BatchNorm statistics keep changing."""
        encoder = load(*args)
        encoder.trunk.eval = lambda: encoder.trunk
        return encoder.train()

    monkeypatch.setattr(linear_module, "load_encoder", thawed)
    with pytest.raises(RuntimeError, match="the trunk changed"):
        linear(untrained(), train, val, Extraction(CPU), settings)


def test_a_held_out_part_of_train_chooses_and_val_does_not(sets):
    train, val = sets
    settings = LinearSettings(lr=(1e-9, 3.0, 3e38), epochs=2, batch=4)
    found = linear(untrained(), train, val, Extraction(CPU), settings)
    row = found.rows[0]
    assert list(row.held_out) == [1e-9, 3.0, 3e38] and row.held_out[3e38] is None
    assert found.labelled == 32 and found.held_out == 4
    assert row.held_out[row.rate] == max(v for v in row.held_out.values() if v is not None)
    turned = Subset(val, np.arange(len(val)))
    turned.labels = 1 - val.labels  # VAL has no influence on the choice
    again = linear(untrained(), train, turned, Extraction(CPU), settings).rows[0]
    assert again.held_out == row.held_out and again.rate == row.rate
    assert again.score.top1 == pytest.approx(1 - row.score.top1)


def test_pixels_as_an_encoder_are_the_raw_pixels(sets):
    """The pixels of the centred view. Crops of the same side are treated alike."""
    train, val = sets
    recipe = dataclasses.replace(RECIPE, eval_size=32)
    _, centre = raw_pixels(train, recipe)
    expected, _ = raw_pixels(val, recipe, centre)
    encoder = pixel_encoder(train, recipe, CPU)
    found = extract(encoder, val, recipe, CPU)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    larger = extract(encoder, val, dataclasses.replace(recipe, eval_size=64), CPU)
    assert larger.shape == expected.shape and not torch.equal(larger, found)


def test_companions_and_few_labels(sets):
    train, val = sets
    settings = LinearSettings(epochs=1, labels="5/class")
    found = linear(untrained(), train, val, Extraction(CPU), settings, companions=True)
    names = [r.features for r in found.rows]
    assert names == ["trained", "at step 0", "raw pixels"] and found.labelled == 10
    tensors = len(load_encoder(untrained(), CPU).trunk.state_dict())
    assert f"{tensors} tensors" in found.trunk  # the encoder's, not the pixels'
    with pytest.raises(UserError, match="one image per class leaves none to choose"):
        several = LinearSettings((1.0, 2.0), labels="1/class")
        linear(untrained(), train, val, Extraction(CPU), several)
    for bad in (LinearSettings((0.0,)), LinearSettings(epochs=-1), LinearSettings(batch=0)):
        with pytest.raises(UserError, match="--lr|--epochs"):
            linear(untrained(), train, val, Extraction(CPU), bad)
