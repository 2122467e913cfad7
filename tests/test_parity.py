"""The parity table: ours is within its tolerance, and what is not is flagged."""

import dataclasses

import numpy as np
import pytest

from bench.parity import beyond, grid, markdown, pooled, tables
from bench.parity_draws import compared, distributions, share
from bench.parity_ops import FORMS, LINEAR
from fastmoco.engines.threads import decode


@pytest.fixture(scope="module")
def images(store):
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(6)]
    return [decode(store, i) for i in range(6)], noise


def test_ours_is_within_its_tolerance(store, images):
    found = tables(store, *images)
    assert beyond(found) == []
    colours = found["colours and blur of photographs"]
    assert colours["hue"][LINEAR][0] > 0.5 > colours["hue"]["plain"][0]
    assert found["decoding and cutting photographs"]["decode"]["fastmoco"] == (0, 0)
    heads, lines = grid(colours)
    assert heads[:4] == ["op", "plain", "CPU", "GPU form"]
    assert next(row for row in lines if row[0] == "blur")[heads.index(LINEAR)] == "-"
    assert "| hue |" in markdown(found, distributions(200))


def test_an_op_that_is_off_is_flagged(store, images):
    def turned(views, c):
        return FORMS["plain"](views, dataclasses.replace(c, hue=c.hue + np.float32(0.02)))

    lines = beyond(tables(store, *images, forms={"plain": turned}))
    assert [line for line in lines if line.startswith("plain, hue, ")]
    assert not [line for line in lines if line.startswith("fastmoco")]


def test_draws_are_torchvisions():
    assert all(fit.good for fit in distributions(2000))


def test_other_distributions_are_told():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, 5000)
    assert compared("same", a, rng.uniform(0, 1, 5000)).good
    assert not compared("shifted", a, rng.uniform(0.06, 1.06, 5000)).good
    assert share("coin", rng.random(5000) < 0.5, 0.5).good
    assert not share("bent", rng.random(5000) < 0.55, 0.5).good
    assert pooled([(1.0, 3.0), (2.0, 2.0)]) == (1.5, 3.0)
