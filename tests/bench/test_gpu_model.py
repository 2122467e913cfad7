"""The counted model: its counts on ops of known cost, and compiled against eager."""

import torch

from bench.gpu.model import CARDS, Count, Counting, compiled, eager
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment


def test_every_op_that_touches_memory_is_counted():
    x = torch.zeros(100)
    with Counting() as counted:
        y = x + 1  # reads 400 bytes, writes 400
        z = y.view(10, 10).t()[:5]  # touches nothing
        z.mul_(2)  # in place: 200 in, 200 out
    assert counted.launches == 2 and counted.bytes == 1200


def test_time_is_memorys_or_the_hosts():
    assert Count("x", 1, 10**9).seconds(1e12) == 10**9 / 0.8e12
    assert Count("x", 1000, 1).seconds(1e12) == 4e-3


def test_compiled_it_moves_far_less():
    plain = eager(augment, "plain", 8, 16)
    fused = compiled(augment_fast, "fused", 64, 16)
    pixels = 2 * 64 * 16 * 16
    assert fused.launches < 20 < 400 < plain.launches
    assert 9 * pixels < fused.bytes < 160 * pixels  # uint8 in and bfloat16 out are the least
    assert plain.bytes > 20 * fused.bytes * (256 * 224 * 224) / (64 * 16 * 16)
    assert all(plain.seconds(card) > 0 for card in CARDS.values())
