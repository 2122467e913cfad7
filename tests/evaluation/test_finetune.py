"""Fine-tuning: the trained parameters, SwAV's numbers, few labels, resuming to the same bits."""

import numpy as np
import pytest
import torch

import fastmoco.evaluation.finetune as finetune_module
import fastmoco.evaluation.resume_state as state_module
from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.feature_cache import Extraction
from fastmoco.evaluation.features import extract
from fastmoco.evaluation.finetune import Plan, finetune, plan_of, tune
from fastmoco.loading.engines.threads import decode
from fastmoco.model.batchnorm import SplitBatchNorm2d
from fastmoco.settings.classifiers import FinetuneSettings
from fastmoco.weights.encoders import load_encoder
from tests.support.evaluation_parts import CPU, untrained

HOW = Extraction(CPU)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def sets(store):
    return Subset(store, np.arange(0, 96, 3)), Subset(store, np.arange(1, 96, 6))


def test_the_numbers_are_swavs_on_imagenet():
    one = plan_of(FinetuneSettings("1%"), 12_811, 1_281_167)
    ten = plan_of(FinetuneSettings(), 128_116, 1_281_167)
    assert (one.lr, one.head_lr, one.epochs, one.batch) == (0.02, 5.0, 20, 256)
    assert (ten.lr, ten.head_lr, ten.epochs, ten.batch) == (0.01, 0.2, 20, 256)
    assert [ten.share(e) for e in (0, 11, 12, 15, 16, 19)] == [1, 1, 0.2, 0.2, *[0.2**2] * 2]


def test_few_images_take_smaller_batches_and_more_epochs():
    plan = plan_of(FinetuneSettings(), 500, 50_000)
    assert plan.batch == 62 and plan.epochs == 112  # nine steps an epoch, 1,000 in all
    assert plan.lr == pytest.approx(0.02 * 62 / 256) and plan.head_lr == pytest.approx(5 * 62 / 256)
    own = plan_of(FinetuneSettings(lr=0.1, head_lr=0.3, epochs=3, batch=128), 500, 50_000)
    assert own == Plan(0.05, 0.15, 3, 128)
    assert plan_of(FinetuneSettings(), 5, 50).batch == 5


def test_trunk_and_head_learn_what_they_see(store):
    red = np.argsort([decode(store, i)[..., 0].mean() for i in range(len(store))])
    train = Subset(store, np.concatenate([red[:12], red[-12:]]))
    train.labels = np.repeat([0, 1], 12)  # something that crops still show
    encoder = load_encoder(untrained(), CPU, splits=1)
    splits = {m.splits for m in encoder.modules() if isinstance(m, SplitBatchNorm2d)}
    assert splits == {1}  # without split BatchNorm, which only hides keys
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    generator = torch.get_rng_state()
    head = tune(encoder, untrained(), train, 2, Plan(0.05, 0.2, 24, 12), HOW, 0)
    assert torch.equal(torch.get_rng_state(), generator)
    after = encoder.state_dict()
    trunk = [k for k in before if k.startswith("trunk.")]
    assert not any(torch.equal(before[k], after[k]) for k in trunk if "running" in k)
    assert not any(torch.equal(before[k], after[k]) for k in trunk if k.endswith("weight"))
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("head."))
    encoder.eval()
    likely = head(extract(encoder, train, untrained().recipe, CPU)).argmax(dim=1).numpy()
    assert (likely == train.labels).mean() > 0.8


def test_separate_rates(sets):
    train, _ = sets
    encoder = load_encoder(untrained(), CPU, splits=1)
    weight = encoder.trunk.conv1.weight.clone()
    head = tune(encoder, untrained(), train, 2, Plan(0.0, 0.2, 1, 16), HOW, 0)
    assert torch.equal(encoder.trunk.conv1.weight, weight)
    first = head.weight.clone()
    head = tune(encoder, untrained(), train, 2, Plan(0.02, 0.0, 1, 16), HOW, 0)
    assert not torch.equal(encoder.trunk.conv1.weight, weight)
    assert not torch.equal(head.weight, first) and head.weight.std() < 0.02


def test_a_killed_one_goes_on_to_the_same_bits(sets, monkeypatch):
    train, val = sets
    kept = []

    class Eager(state_module.EpochState):
        def __init__(self, identity):
            super().__init__(identity, seconds=0)
            kept.append(self.path)

    monkeypatch.setattr(finetune_module, "EpochState", Eager)
    plan = Plan(0.02, 0.2, 4, 16)
    whole = load_encoder(untrained(), CPU, splits=1)
    head = tune(whole, untrained(), train, 2, plan, HOW, 0)
    cross_entropy, calls = finetune_module.F.cross_entropy, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 6:  # in the third epoch of two batches
            raise KeyboardInterrupt
        return cross_entropy(*args)

    with monkeypatch.context() as patch:
        patch.setattr(finetune_module.F, "cross_entropy", dies)
        with pytest.raises(KeyboardInterrupt):
            tune(load_encoder(untrained(), CPU, splits=1), untrained(), train, 2, plan, HOW, 0)
    assert kept[1].exists()
    again = load_encoder(untrained(), CPU, splits=1)
    same = tune(again, untrained(), train, 2, plan, HOW, 0)
    assert torch.equal(head.weight, same.weight) and not kept[1].exists()
    ours, theirs = whole.state_dict(), again.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_companions_and_what_cannot_be(sets):
    train, val = sets
    settings = FinetuneSettings("4/class", epochs=1)
    found = finetune(untrained(), train, val, HOW, settings, companions=True)
    assert list(found.rows) == ["trained", "at step 0"] and found.labelled == 8
    assert "4/class labels" in found.protocol and "1 epochs" in found.protocol
    for wrong in ({"lr": -1.0}, {"head_lr": float("nan")}, {"batch": 1}):
        bad = FinetuneSettings(**wrong)
        with pytest.raises(UserError, match="--lr|--head-lr|--batch"):
            finetune(untrained(), train, val, HOW, bad)
