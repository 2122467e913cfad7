"""The rate that `prep --plan` reports is the real loader's, which leaves nothing running."""

import threading

from PIL import Image

from data_tools.open import open_store
from data_tools.prepare import prepare
from fastmoco.measuring.load_rate import load_rate


def test_a_few_images_are_gone_round_again_and_again(tmp_path):
    (tmp_path / "source").mkdir()
    for i in range(5):  # fewer than a batch
        Image.new("RGB", (64, 48), (50 * i, 0, 0)).save(tmp_path / "source" / f"{i}.jpg")
    prepare(tmp_path / "source", tmp_path / "out")
    before = threading.active_count()
    assert load_rate(open_store(tmp_path / "out"), seconds=0.2) > 50
    assert threading.active_count() <= before  # a thread of an earlier test may end meanwhile
