"""Split BatchNorm against BatchNorm on each part by itself."""

import copy

import pytest
import torch
from torch import nn

from fastmoco.model.batchnorm import SplitBatchNorm2d, deal, undeal


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_batchnorm_on_each_part(memory_format):
    torch.manual_seed(0)
    x = torch.randn(12, 5, 4, 4, dtype=torch.double).to(memory_format=memory_format)
    x.requires_grad_()
    split = SplitBatchNorm2d(5, splits=3).double()
    nn.init.normal_(split.weight)
    nn.init.normal_(split.bias)
    parts = [copy.deepcopy(split) for _ in range(3)]
    for part in parts:
        part.splits = 1
    out = split(x)
    expected = torch.cat([p(c) for p, c in zip(parts, x.chunk(3), strict=True)])
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    weights = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad((out * weights).sum(), x),
        torch.autograd.grad((expected * weights).sum(), x),
        atol=1e-12, rtol=0,
    )
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(p, name) for p in parts]).mean(0)
        torch.testing.assert_close(getattr(split, name), mean, atol=1e-12, rtol=0)
    assert int(split.num_batches_tracked) == 1


def test_evaluation_is_plain_batchnorm():
    split, plain = SplitBatchNorm2d(4, splits=2), nn.BatchNorm2d(4)
    split(torch.randn(8, 4, 3, 3))
    plain.load_state_dict(split.state_dict())
    x = torch.randn(5, 4, 3, 3)  # no multiple of the splits
    assert torch.equal(split.eval()(x), plain.eval()(x))


def test_undeal_is_the_inverse_of_deal():
    x, order = torch.randn(7, 2), torch.randperm(7)
    assert torch.equal(undeal(deal(x, order), order), x)
    assert torch.equal(deal(x, order)[2], x[order[2]])


def test_dealt_images_keep_channels_last():
    x = torch.randn(6, 3, 5, 4).to(memory_format=torch.channels_last)
    dealt = deal(x, torch.tensor([3, 0, 5, 1, 2, 4]))
    assert dealt.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dealt[2], x[5])
