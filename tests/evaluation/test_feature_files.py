"""Features as files, read back by numpy and pyarrow; the picture of neighbours."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data_tools.errors import UserError
from data_tools.subset import Subset
from fastmoco.evaluation.feature_files import check_name, write_features
from fastmoco.loading.engines.threads import decode
from fastmoco.reporting.neighbour_sheet import GAP, HEADER, NEAREST, SAME, TILE, draw_neighbours

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def features(store):
    return torch.randn(len(store), 12, generator=torch.Generator().manual_seed(0))


def test_npy_is_the_vectors_in_order(store, features, tmp_path):
    write_features(features, store, tmp_path / "f.npy")
    read = np.load(tmp_path / "f.npy")
    assert read.dtype == np.float32 and np.array_equal(read, features.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"]


def test_parquet_has_key_label_class_and_vector(store, features, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmoco.evaluation.feature_files.ROWS", 40)  # several row groups
    labels = store.labels.copy()
    labels[5] = -1
    monkeypatch.setattr(store, "labels", labels)
    write_features(features, store, tmp_path / "f.parquet")
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert len(rows) == 96
    for i in (0, 39, 40, 95):
        row = rows[i]
        assert row["key"] == store.key(i) and row["label"] == labels[i]
        assert row["class"] == store.classes[labels[i]]
        assert row["vector"] == features[i].tolist()
    assert rows[5]["label"] is None and rows[5]["class"] is None


def test_what_cannot_be_written_is_one_line(store, features, tmp_path):
    for name, said in (("f.csv", "name a .npy or .parquet"), ("no/f.npy", "no existing folder")):
        with pytest.raises(UserError, match=said):
            check_name(tmp_path / name)
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(UserError, match="is no file"):
        write_features(features, store, tmp_path / "d.npy")


def test_the_sheet_shows_what_is_nearest(store, tmp_path):
    # every image has a twin: its own nearest
    features = torch.randn(48, 12, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    features[48:] += 1e-3 * torch.randn(48, 12, generator=torch.Generator().manual_seed(2))
    sheet = tmp_path / "s.png"
    drawn = draw_neighbours(features, store, sheet, 6, 0, CPU)
    assert drawn.shape == (6, 1 + NEAREST)
    assert all((q + 48) % 96 == first for q, first in drawn[:, :2].tolist())
    assert all(q not in others for q, *others in drawn.tolist())
    again = draw_neighbours(features, store, tmp_path / "t.png", 6, 1, CPU)
    assert not np.array_equal(again, drawn)
    picture = np.asarray(Image.open(sheet))
    for row, ids in enumerate(drawn.tolist()):
        top = HEADER + row * (TILE + 16 + GAP)
        for column, i in enumerate(ids):
            left = (1 if column == 0 else 2) * GAP + column * (TILE + GAP)
            tile = picture[top : top + TILE, left : left + TILE].astype(int)
            pixels = decode(store, i)
            share = TILE / max(pixels.shape[:2])
            high, wide = (max(1, round(n * share)) for n in pixels.shape[:2])
            y, x = (TILE - high) // 2, (TILE - wide) // 2
            inner = tile[y : y + high, x : x + wide].mean(axis=(0, 1))
            assert np.abs(inner - pixels.mean(axis=(0, 1))).max() < 4
            if column:
                same = store.labels[i] == store.labels[ids[0]]
                assert (picture[top - 2, left].tolist() == list(SAME)) == same


def test_odd_sheets_are_one_line(store, features, tmp_path):
    with pytest.raises(UserError, match="name a .png"):
        draw_neighbours(features, store, tmp_path / "s.gif", 3, 0, CPU)
    with pytest.raises(UserError, match="folder that exists"):
        draw_neighbours(features, store, tmp_path / "no" / "s.png", 3, 0, CPU)
    with pytest.raises(UserError, match="--count 0"):
        draw_neighbours(features, store, tmp_path / "s.png", 0, 0, CPU)


def test_a_query_is_not_its_own_neighbour_where_others_are_its_equals(store, tmp_path):
    few = Subset(store, np.arange(1 + NEAREST))
    found = draw_neighbours(torch.ones(len(few), 4), few, tmp_path / "a.png", 6, 0, CPU)
    assert found.shape == (6, 1 + NEAREST)
    assert all(row[0] not in row[1:] and len(set(row)) == len(row) for row in found.tolist())
