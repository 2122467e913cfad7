"""The demo's images: their bytes, prep's results, and no clue to a class in their colours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.demo import __main__ as demo
from bench.demo.images import UNUSUAL, Made, encode, generate, generator, photograph
from bench.demo.textures import KINDS
from data_tools.open import open_store
from data_tools.prepare import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Made]:
    """A small set; the oversize image alone takes as long as ten others."""
    out = tmp_path_factory.mktemp("demo") / "images"
    return out, generate(out, seed=3, train=168, val=12, workers=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_seed_decides_every_byte(tmp_path):
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        generate(tmp_path / name, seed, train=13, val=12, workers=1)
    one, again, other = (contents(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert len(one) == 25 + 2 * 5
    images = [name for name, data in one.items() if len(data) > 1000]
    assert images and all(one[name] != other[name] for name in images)
    assert len({one[name] for name in images}) == len(images), "an image was drawn twice"


def test_other_numbers_of_images_and_processes_draw_the_same_ones(tmp_path, made):
    generate(tmp_path / "few", 3, train=12, val=4, workers=2)
    few, many = contents(tmp_path / "few"), contents(made[0])
    assert set(few) <= set(many)
    assert all(many[name] == data for name, data in few.items())


def test_prep_quarantines_the_broken_ones_and_reencodes_the_unusual(tmp_path, made):
    folder, said = made
    manifest = prepare(folder / "train", tmp_path / "train")
    rows = (tmp_path / "train" / "quarantine.jsonl").read_text().splitlines()
    assert sorted(json.loads(row)["key"] for row in rows) == said.broken["train"]
    assert manifest.samples == said.images["train"]
    assert manifest.classes == sorted(KINDS)
    # copied as they are: grey ones too. 14 images of a kind reach the first of every sort.
    assert manifest.reencoded == {
        "CMYK JPEG": 12, "EXIF-rotated JPEG": 12, "JPEG, resized": 1, "PNG": 12, "WEBP": 12,
    }
    assert said.unusual["grey JPEG"] == 12
    assert np.bincount(open_store(tmp_path / "train").labels).tolist() == [14] * len(KINDS)


@pytest.mark.parametrize("sort", UNUSUAL)
def test_an_unusual_file_shows_the_same_picture(tmp_path, sort):
    rng = generator(0, "train", "leaves", 0)
    picture = photograph(rng, "leaves", (240, 200))
    (tmp_path / "file").write_bytes(encode(picture, sort, rng))
    seen = ImageOps.exif_transpose(Image.open(tmp_path / "file"))
    mode = "L" if sort == "grey JPEG" else "RGB"
    ours, theirs = (np.asarray(i.convert(mode), dtype=np.float32) for i in (picture, seen))
    assert np.abs(ours - theirs).mean() < 8


def test_no_kind_has_a_colour_or_a_brightness_of_its_own():
    """A kind's mean colour varies far more from image to image than the kinds' means differ."""
    means = np.array([
        [np.asarray(photograph(generator(1, "train", kind, i), kind, (64, 64))).mean((0, 1))
         for i in range(24)]
        for kind in KINDS
    ])  # [kinds, images, 3]
    within, between = means.std(1).mean(0), means.mean(1).std(0)
    # 24 images leave the mean of a kind an error of within / 4.9 even where all kinds are alike.
    assert np.all(between < 0.45 * within), (between, within)


@pytest.mark.parametrize(("trained", "code"), [(0.45, 0), (0.30, 1)])
def test_the_demo_fails_below_its_margin(capsys, trained, code):
    top1 = {"raw pixels": 0.12, "at step 0": 0.2, "trained": trained}
    assert demo.conclusion({"train": 100.0}, top1) == code
    said = capsys.readouterr()
    assert f"{trained:.1%}" in said.out
    assert ("are required" in said.err) == (code == 1)
