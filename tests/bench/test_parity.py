"""The parity table: ours is within its tolerance, and an op outside it is flagged."""

import dataclasses

import numpy as np
import pytest

from bench.loading.parity.__main__ import TOLERANCE, apart, beyond, grid, markdown, pooled, tables
from bench.loading.parity.draws import compared, distributions, share
from bench.loading.parity.ops import FORMS, LINEAR, colour_of
from fastmoco.loading.engines.threads import decode


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
    assert {op for rows in found.values() for op in rows} <= set(TOLERANCE)
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


@pytest.mark.parametrize("op", TOLERANCE)
def test_every_tolerance_binds(op):
    mean, most = TOLERANCE[op]
    assert beyond({"x": {op: {"fastmoco": (mean, most)}}}) == []
    assert len(beyond({"x": {op: {"fastmoco": (mean * 1.01, most)}}})) == 1
    assert len(beyond({"x": {op: {"fastmoco": (mean, most * 1.01)}}})) == 1


@pytest.mark.parametrize("op", ("brightness", "contrast", "saturation", "hue"))
def test_the_linear_formula_is_dalis(images, op):
    pytest.importorskip("nvidia.dali")
    views = np.stack([image[:32, :32] for image in images[0]])
    c = colour_of(op, len(views))
    assert apart(FORMS[LINEAR](views, c) * 255, FORMS["DALI"](views, c) * 255)[0] < 0.6


def test_draws_are_torchvisions():
    assert all(fit.good for fit in distributions(2000))


def test_other_distributions_are_reported():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 1, 5000)
    assert compared("same", a, rng.uniform(0, 1, 5000)).good
    assert not compared("shifted", a, rng.uniform(0.06, 1.06, 5000)).good
    assert share("coin", rng.random(5000) < 0.5, 0.5).good
    assert not share("bent", rng.random(5000) < 0.55, 0.5).good
    assert pooled([(1.0, 3.0), (2.0, 2.0)]) == (1.5, 3.0)
