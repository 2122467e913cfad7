"""Several heads at once against torch's SGD on each; resuming; a head that diverges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmoco.evaluation.linear_classifiers import Heads, choose

CPU = torch.device("cpu")


def batches(n=12):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 10, generator=generator), torch.randint(0, 4, (16,), generator=generator))
        for _ in range(n)
    ]


def test_every_head_learns_as_if_alone():
    heads = Heads(10, 4, (0.01, 0.3, 30.0), CPU, seed=5)
    alone = []
    for i, rate in enumerate(heads.rates):
        layer = nn.Linear(10, 4)
        with torch.no_grad():
            layer.weight.copy_(heads.weight.view(3, 4, 10)[i])
            layer.bias.copy_(heads.bias.view(3, 4)[i])
        alone.append((layer, torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)))
    assert heads.weight.std().item() == pytest.approx(0.01, rel=0.2) and not heads.bias.any()
    for n, (x, label) in enumerate(batches()):
        share = 0.5 if n > 6 else 1.0
        heads.step(x, label, share)
        for (layer, optimizer), rate in zip(alone, heads.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.zero_grad()
            F.cross_entropy(layer(x), label).backward()
            optimizer.step()
    x = torch.randn(6, 10)
    for i, (layer, _) in enumerate(alone):
        torch.testing.assert_close(heads.logits(x)[:, i], layer(x), rtol=1e-3, atol=1e-3)


def test_going_on_gives_the_same_bits():
    whole, first, second = (Heads(10, 4, (0.1, 1.0), CPU, seed=0) for _ in range(3))
    for n, (x, label) in enumerate(batches()):
        whole.step(x, label)
        (first if n < 5 else second).step(x, label)
        if n == 4:
            second.load_state_dict(first.state_dict())
    assert torch.equal(whole.weight, second.weight) and torch.equal(whole.bias, second.bias)


def test_predictions_are_the_five_likeliest_and_a_diverged_head_is_never_chosen():
    heads = Heads(10, 7, (0.1, 1.0), CPU, seed=0)
    x = torch.randn(9, 10)
    likely = heads.predict(x)
    assert likely.shape == (2, 9, 5)
    torch.testing.assert_close(
        torch.from_numpy(likely[1]), heads.logits(x)[:, 1].argsort(descending=True)[:, :5]
    )
    truth = likely[0, :, 0]
    heads.weight[9, 2] = torch.nan
    assert choose(heads, x, truth) == [1.0, None]
    assert heads.finite().tolist() == [True, False]
    assert np.array_equal(heads.predict(x)[0], likely[0])
