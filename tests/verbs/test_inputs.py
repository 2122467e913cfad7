"""Data that verbs and commands open: prepared, or prepared at its first use."""

import numpy as np
import pytest

import fastmoco
from data_tools.errors import UserError
from fastmoco.cli import main
from fastmoco.verbs.inputs import store
from fastmoco.weights import checkpoint as checkpoints
from tests.support.evaluation_parts import untrained
from tests.support.made_files.sample_images import jpeg


@pytest.fixture
def image_list(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = ["path,label"]
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(40 + i, 50))
        rows.append(f"{i}.jpg,{'cat' if i % 2 else 'dog'}")
    path = tmp_path / "list.csv"
    path.write_text("\n".join(rows))
    return path


def test_a_list_of_images_is_prepared_like_a_folder(image_list):
    opened = store(image_list)
    assert len(opened) == 4 and opened.classes == ["cat", "dog"]
    assert opened.labels.tolist() == [1, 0, 1, 0]


def test_embed_takes_a_list_of_images(image_list, tmp_path):
    checkpoint, out = tmp_path / "checkpoint.pt", tmp_path / "features.npy"
    checkpoints.save(untrained(), checkpoint)
    code = main(["embed", str(checkpoint), str(image_list), "--out", str(out)])
    assert code == 0
    assert np.load(out).shape[0] == 4


@pytest.mark.parametrize("verb", [fastmoco.open_store, fastmoco.verify])
def test_an_array_is_no_path(verb):
    with pytest.raises(UserError, match="ndarray"):
        verb(np.zeros(2))


def test_no_format_is_named(image_list, tmp_path):
    with pytest.raises(UserError, match="format is empty"):
        fastmoco.prepare(image_list, tmp_path / "out", format=())
