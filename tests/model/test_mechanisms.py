"""The paper's three mechanisms, each against its own literal transcription, and what they share."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_tools.errors import UserError
from fastmoco import draws
from fastmoco.loading.batch import Prepared
from fastmoco.model.build import build_moco, make_optimizer
from fastmoco.model.dictionaries import EndToEnd, MemoryBank, Queue
from fastmoco.model.geometry import geometry
from fastmoco.model.moco import MoCo
from fastmoco.recipe import MOCO_V2, Recipe
from fastmoco.training.bad_steps import BadSteps
from fastmoco.training.step import training_step

N, C, T, LR, MOMENTUM, DECAY = 6, 8, 0.2, 0.1, 0.9, 1e-3
SGD = Recipe(lr=LR, momentum=MOMENTUM, weight_decay=DECAY, bn_splits=1, precision="float32")
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


def small_net(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, C)
    ).double()


def batches(steps=20, samples=30):
    torch.manual_seed(5)
    return [
        (*torch.randn(2, N, 3, 8, 8).double(), torch.randperm(samples)[:N]) for _ in range(steps)
    ]


def plain_sgd(parameters, velocity, loss):
    """Autograd, then SGD by hand, as main_moco.py configures it."""
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g, v in zip(parameters, gradients, velocity, strict=True):
            v.mul_(MOMENTUM).add_(g + DECAY * p)
            p.sub_(LR * v)


def run(moco, data, drawn=None, pieces=1):
    optimizer = make_optimizer(moco, SGD)
    losses = []
    for i, (im_q, im_k, index) in enumerate(data):
        images = torch.stack([im_q, im_k])
        batch = Prepared(images, index, None, None if drawn is None else drawn[i])
        out = training_step(moco, optimizer, NO_SCALER, batch, SGD, pieces)
        losses.append(out.stats["loss"])
    return losses


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_the_memory_bank_is_the_papers():
    samples, K, data = 30, 12, batches()
    drawn = [torch.from_numpy(draws.bank_negatives(0, i, K, samples)) for i in range(len(data))]
    moco = MoCo(small_net(), MemoryBank(samples, C), T=T).double()
    net, bank = copy.deepcopy(moco.encoder_q), moco.dictionary.keys.clone()
    losses = run(moco, data, drawn)
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for (x, _, index), negatives, found in zip(data, drawn, losses, strict=True):
        q = F.normalize(net(x), dim=1)  # one encoder, one view
        rows = [
            torch.stack([q[i] @ bank[index[i]], *(q[i] @ bank[j] for j in negatives)]) / T
            for i in range(N)
        ]
        loss = F.cross_entropy(torch.stack(rows), torch.zeros(N, dtype=torch.long))
        plain_sgd(list(net.parameters()), velocity, loss)
        for i in range(N):
            bank[index[i]] = F.normalize(0.5 * bank[index[i]] + 0.5 * q[i].detach(), dim=0)
        assert_close(found, loss.detach())
    assert_close(moco.dictionary.keys, bank)
    for a, b in zip(moco.encoder_q.parameters(), net.parameters(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("shared", [False, True])
def test_end_to_end_trains_both_encoders_on_the_batchs_other_keys(shared):
    data = batches()
    moco = MoCo(small_net(), EndToEnd(), T=T, shared=shared).double()
    f_q = copy.deepcopy(moco.encoder_q)
    f_k = f_q if shared else copy.deepcopy(f_q)
    losses = run(moco, data)
    parameters = list(f_q.parameters()) + ([] if shared else list(f_k.parameters()))
    velocity = [torch.zeros_like(p) for p in parameters]
    for (x_q, x_k, _), found in zip(data, losses, strict=True):
        # the keys first, as ours has it: with shared weights the running statistics see both
        k = F.normalize(f_k(x_k), dim=1)
        q = F.normalize(f_q(x_q), dim=1)
        terms = []
        for i in range(N):
            l_pos = q[i] @ k[i] / T
            l_neg = [q[i] @ k[j] / T for j in range(N) if j != i]
            terms.append(torch.stack([l_pos, *l_neg]).logsumexp(0) - l_pos)
        loss = torch.stack(terms).mean()
        plain_sgd(parameters, velocity, loss)
        assert_close(found, loss.detach())
    for a, b in zip(moco.trained(), parameters, strict=True):
        assert_close(a, b)
    assert (moco.encoder_k is None) == shared


def test_the_symmetric_loss_adds_both_before_either_is_enqueued():
    K, m = 40, 0.9
    data = batches()
    moco = MoCo(small_net(), Queue(K, C), m, T, symmetric=True).double()
    f_q, f_k = copy.deepcopy(moco.encoder_q), copy.deepcopy(moco.encoder_k)
    queue = moco.dictionary.keys.clone()
    losses = run(moco, data)
    velocity = [torch.zeros_like(p) for p in f_q.parameters()]

    def contrast(q, k):
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / T
        return F.cross_entropy(logits, torch.zeros(N, dtype=torch.long))

    for (x1, x2, _), found in zip(data, losses, strict=True):
        with torch.no_grad():
            k2, k1 = F.normalize(f_k(x2), dim=1), F.normalize(f_k(x1), dim=1)
        q1, q2 = F.normalize(f_q(x1), dim=1), F.normalize(f_q(x2), dim=1)
        loss = contrast(q1, k2) + contrast(q2, k1)
        plain_sgd(list(f_q.parameters()), velocity, loss)
        with torch.no_grad():
            for p_k, p_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
                p_k.copy_(m * p_k + (1 - m) * p_q)
        queue = torch.cat([queue, k1, k2])[2 * N :]
        assert_close(found, loss.detach())
    pointer = int(moco.dictionary.pointer)
    assert_close(torch.roll(moco.dictionary.keys, -pointer, 0), queue)
    for a, b in zip(moco.encoder_q.parameters(), f_q.parameters(), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("mechanism", ["queue", "memory-bank"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_pieces_accumulate_to_the_whole_batch(mechanism, symmetric):
    if symmetric and mechanism == "memory-bank":
        pytest.skip("one view")
    recipe = dataclasses.replace(
        MOCO_V2, arch="resnet-mini", batch=16, bn_splits=4, K=40, dim=C, mechanism=mechanism,
        symmetric=symmetric, precision="float32",
    )
    models = []
    for pieces in (1, 2):
        torch.manual_seed(0)
        moco = build_moco(recipe, 50, torch.device("cpu"), pieces=pieces).double()
        torch.manual_seed(1)
        optimizer = make_optimizer(moco, recipe)
        for step in range(3):
            images = torch.randn(2, 16, 3, 16, 16).double()
            batch = Prepared(
                images, torch.randperm(50)[:16], torch.randperm(16),
                torch.from_numpy(draws.bank_negatives(0, step, 40, 50)),
            )
            out = training_step(moco, optimizer, NO_SCALER, batch, recipe, pieces, watch=True)
        models.append((moco, out))
    (whole, a), (accumulated, b) = models
    new_keys = 0 if mechanism == "memory-bank" else 32 if symmetric else 16
    assert len(a.keys) == len(b.keys) == new_keys
    assert a.q.shape == b.q.shape == (16, C)
    assert accumulated.encoder_q.trunk.bn1.splits == 2
    for name, value in whole.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert_close(accumulated.state_dict()[name], value)
    for name in ("loss", "grad_norm", "skipped"):
        assert_close(b.stats[name].double(), a.stats[name].double())


def test_a_banks_draws_are_uniform_and_their_own():
    drawn = draws.bank_negatives(3, 7, 60_000, 50)
    assert drawn.dtype == np.int64 and set(drawn) == set(range(50))
    counts = np.bincount(drawn, minlength=50)
    assert ((counts - 1200) ** 2 / 1200).sum() < 85  # chi-square, 49 degrees: p = 0.001
    assert not np.array_equal(drawn[:100], draws.bank_negatives(3, 8, 100, 50))


def test_a_step_that_is_not_finite_moves_nothing_and_its_samples_are_known():
    recipe = dataclasses.replace(SGD, lr=0.1)
    moco = MoCo(small_net(), Queue(20, C), 0.9, T).double()
    optimizer = make_optimizer(moco, recipe)
    bad = BadSteps(8, N, torch.device("cpu"))
    im_q, im_k, index = batches(1)[0]
    from fastmoco.system.ranks import ALONE

    for step in range(5):
        before = [p.detach().clone() for p in moco.encoder_q.parameters()]
        spoiled = im_q * (torch.inf if step in (2, 3) else 1)
        batch = Prepared(torch.stack([spoiled, im_k]), index + step, None, None)
        out = training_step(moco, optimizer, NO_SCALER, batch, recipe)
        bad.add(batch.index, out.stats["skipped"])
        moved = [not torch.equal(p, b) for p, b in
                 zip(moco.encoder_q.parameters(), before, strict=True)]
        assert all(moved) if step < 2 or step == 4 else not any(moved)
        assert bad.in_a_row() == (0, 0, 1, 2, 0)[step]
    assert bad.read(5, ALONE) == [(3, (index + 2).tolist()), (4, (index + 3).tolist())]
    assert bad.read(5, ALONE) == []


def test_keys_split_alone_need_no_special_layer():
    recipe = dataclasses.replace(
        MOCO_V2, arch="resnet-mini", batch=12, bn_splits=3, K=24, dim=C, split="keys"
    )
    moco = build_moco(recipe, 50, torch.device("cpu")).double()
    assert moco.encoder_q.trunk.bn1.splits == moco.encoder_k.trunk.bn1.splits == 1
    im_q, im_k = torch.randn(2, 12, 3, 16, 16).double()
    shuffle = torch.randperm(12)
    reference = copy.deepcopy(moco)
    out = moco(im_q, im_k, None, shuffle)
    with torch.no_grad():
        for part in shuffle.chunk(3):
            k = F.normalize(reference.encoder_k(im_k[part]), dim=1)
            assert_close(out.keys[part], k)


def test_geometry_of_a_sphere_and_of_a_collapse():
    torch.manual_seed(0)
    spread = F.normalize(torch.randn(512, 128), dim=1)
    found = geometry(spread, spread)
    assert found["alignment"] == 0 and abs(found["feature_std"] - 1) < 0.02
    assert -4 < found["uniformity"] < -3.8
    point = F.normalize(torch.ones(4, 128), dim=1)
    found = geometry(point, -point)
    assert found["alignment"] == pytest.approx(4) and found["feature_std"] < 1e-6
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"shared": True}, "--shared goes with --mechanism end-to-end"),
        ({"mechanism": "memory-bank", "symmetric": True}, "a memory bank has one"),
        ({"symmetric": True, "K": 300}, "use --K 512 or more"),
        ({"progressive": (128, 160)}, "the last of them --size 224"),
    ],
)
def test_what_does_not_go_together_is_one_line(values, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(MOCO_V2, **values).check(10_000)
    dataclasses.replace(MOCO_V2, mechanism="end-to-end", K=1).check(10_000)
