"""The learning rate by its formula at known places."""

import dataclasses
import math

import pytest

from fastmoco.recipe import MOCO_V1, MOCO_V2
from fastmoco.training.schedule import learning_rate


def rate(recipe, step, per_epoch):
    return learning_rate(recipe, step / (recipe.epochs * per_epoch), per_epoch)


def test_v1_drops_at_120_and_160_of_200():
    rates = [rate(MOCO_V1, epoch * 10 + 9, 10) for epoch in range(200)]
    assert rates[:120] == [0.03] * 120
    assert rates[120:160] == pytest.approx([0.003] * 40)
    assert rates[160:] == pytest.approx([0.0003] * 40)


def test_v2_is_half_a_cosine_once_an_epoch():
    for epoch in (0, 1, 100, 199):
        expected = 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 200))
        assert rate(MOCO_V2, epoch * 7, 7) == pytest.approx(expected)
        assert rate(MOCO_V2, epoch * 7 + 6, 7) == pytest.approx(expected)


def test_by_step_with_warmup():
    recipe = dataclasses.replace(MOCO_V2, schedule_by="step", warmup=0.5, epochs=4)
    rates = [rate(recipe, step, 10) for step in range(40)]
    assert rates[:5] == sorted(rates[:5]) and 0 < rates[0] < rates[4] < 0.03
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[20] == pytest.approx(0.015)
