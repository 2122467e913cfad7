"""Pictures of a report: nearest neighbours, and the map of the features."""

import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.subset import Subset
from fastmoco.reporting.pictures import COLOURS, find_neighbours, map_of
from tests.support.made_files.sample_images import smooth_image


def test_neighbours_have_the_largest_cosines(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        (tmp_path / "in" / f"c{i % 5}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(smooth_image(rng, 40, 40))
        picture.save(tmp_path / "in" / f"c{i % 5}" / f"{i}.jpg")
    prepare(tmp_path / "in", tmp_path / "out")
    store = open_store(tmp_path / "out")
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(10, 6))), dim=1)
    places = {store.key(i): i for i in range(10)}
    for query, near in find_neighbours(features, Subset(store, np.arange(10))):
        at = places[query.picture.alt]
        cosine = (features @ features[at]).tolist()
        expected = sorted((i for i in range(10) if i != at), key=lambda i: -cosine[i])[:5]
        assert [places[n.picture.alt] for n in near] == expected
        assert [n.cosine for n in near] == pytest.approx([cosine[i] for i in expected])
        assert [n.same for n in near] == [store.labels[i] == store.labels[at] for i in expected]


def test_the_map_is_of_principal_components(store):
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(96, 2)) * [5, 2]
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    features = torch.from_numpy(flat @ turn[:2] + rng.normal(size=8))
    found = map_of(features, Subset(store, np.arange(96)))
    assert found.explained == pytest.approx(1.0) and found.classes == ["ash", "oak"]
    places = np.array([p[:2] for p in found.points])
    between = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.testing.assert_allclose(
        between, np.linalg.norm(flat[:, None] - flat[None], axis=2), atol=1e-8
    )
    assert [p[2] for p in found.points] == store.labels.tolist()
    assert found.points[0][3] == f"ash, {store.key(0)}"


def test_every_class_of_the_map_has_its_own_colour():
    css = files("fastmoco.reporting").joinpath("templates/report.css").read_text()
    colours = dict(re.findall(r"^\.k(\d+) { color: (#\w+); }$", css, re.M))
    assert [*colours] == [str(i) for i in range(COLOURS)]
    assert len(set(colours.values())) == COLOURS
