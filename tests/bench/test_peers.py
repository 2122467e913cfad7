"""The comparison with peers: its arithmetic, its chart, and two sides of it really run."""

import numpy as np
import pytest
from PIL import Image

from bench.loading.peers import __main__ as peers
from bench.loading.peers.double_beton import double
from bench.loading.peers.ours import Data, Decode, OursThreads
from bench.shared.charts import BAR, BAR_LEFT, BAR_RIGHT, OURS, THEIRS, WIDTH, draw_bars
from data_tools.open import open_store

FOUND = {
    "decode": {"simplejpeg": [1000.0, 1100.0, 900.0]},
    "two views": {"fastmoco, threads": [800.0, 700.0, 900.0], "DALI, CPU": [200.0, 210.0, 190.0],
                  "FFCV, two pipelines": [400.0, 400.0, 400.0]},
}


def test_a_promise_is_a_ratio_of_medians():
    kept = dict(peers.verdicts(peers.medians(FOUND)))
    assert kept == {
        "two views: 2.0 times FFCV, two pipelines (2.5 promised)": False,
        "two views: 4.0 times DALI, CPU (3 promised)": True,
        "two views: 80% of the bare decode (65% promised)": True,
    }


def test_the_table_has_the_fastest_first():
    rows = peers.rows_of(FOUND)
    assert [row[1] for row in rows] == ["simplejpeg", "fastmoco, threads", "FFCV, two pipelines",
                                        "DALI, CPU"]
    assert rows[3] == ("two views", "DALI, CPU", "200", "190", "210", "4.0")
    text = peers.markdown(FOUND, {"DALI": "a note"})
    assert "| two views | DALI, CPU | 200 | 190 | 210 | 4.0 |" in text and "- DALI: a note" in text


def test_the_chart_draws_each_median(tmp_path):
    draw_bars(FOUND, tmp_path / "chart.png", "foot")
    pixels = np.asarray(Image.open(tmp_path / "chart.png").convert("RGB"))
    lengths = {}
    for colour in (OURS, THEIRS):
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        same = (pixels == rgb).all(axis=2)[:, BAR_LEFT:]
        lengths[colour] = sorted({int(n) for n in same.sum(axis=1) if n > 30})
    room = WIDTH - BAR_LEFT - BAR_RIGHT  # a group's best round would fill it
    longest = [room * v / m for v, m in ((800, 900), (200, 900), (400, 900), (1000, 1100))]
    assert any(abs(n - longest[0]) < 4 for n in lengths[OURS])
    for expected in longest[1:]:
        assert any(abs(n - expected) < 4 for n in lengths[THEIRS]), (expected, lengths)
    assert len(list(tmp_path.iterdir())) == 1 and BAR > 10


def test_two_sides_are_really_measured(dataset):
    data = Data(open_store(dataset), dataset, 2)
    sides = [Decode(data), OursThreads(data)]
    found = peers.measure(sides, 2, 0.05, quiet=True)
    for side in sides:
        side.close()
    middle = peers.medians(found)
    assert middle["decode"]["simplejpeg"] > middle["two views"]["fastmoco, threads"] > 100
    assert [len(rates) for stage in found.values() for rates in stage.values()] == [2, 2]


def test_what_was_made_before_its_turn_is_no_speed():
    class Queue:
        stage, name, ready = "s", "n", 3

        def batches(self):
            import time

            for i in range(100):
                if i > 3:
                    time.sleep(0.01)
                yield 1

    assert peers.timed(Queue(), 0.1) < 101


def test_a_doubled_beton_is_two_fields_of_the_same_bytes(dataset, tmp_path):
    pytest.importorskip("ffcv", exc_type=ImportError)
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    from data_tools.policy import Policy
    from data_tools.prepare import prepare

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8).repeat(2, 0))
        image.save(tmp_path / "in" / f"{i:02}.jpg", quality=90)
    prepare(tmp_path / "in", tmp_path / "data", Policy())
    source = tmp_path / "data" / "train.beton"
    double(source, tmp_path / "double.beton")
    loader = Loader(
        str(tmp_path / "double.beton"), batch_size=5, num_workers=1, order=OrderOption.SEQUENTIAL,
        os_cache=True,
        pipelines={"image": [SimpleRGBImageDecoder()], "image_2": [SimpleRGBImageDecoder()],
                   "label": [IntDecoder()]},
    )
    seen = 0
    for first, second, _ in loader:
        assert np.array_equal(first, second)
        for image in first:
            expected = np.asarray(Image.open(tmp_path / "in" / f"{seen:02}.jpg"))
            assert np.abs(image.astype(int) - expected).mean() < 4
            seen += 1
    assert seen == 20
