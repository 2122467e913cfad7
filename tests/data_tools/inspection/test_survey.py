"""inspect's figures, against what is known of the images."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.errors import UserError
from data_tools.inspection.survey import PERCENTILES, survey
from data_tools.inspection.survey_text import lines
from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]


@pytest.fixture
def out(write_tree: Write, tmp_path: Path) -> Path:
    """18 flat colours, a progressive and a grey one, a PNG, two equal ones, three broken ones."""
    files = {}
    for i in range(18):
        pixels = np.full((20 + i, 60 - 2 * i, 3), (10 * i, 100, 200), np.uint8)
        files[f"{'ant' if i < 6 else 'bee'}/{i:02}.jpg"] = simplejpeg.encode_jpeg(
            pixels, 100, "RGB", "444", False)
    image = Image.fromarray(smooth(30, 40))
    files["cat/0.jpg"] = encode(image, "JPEG", progressive=True, subsampling=2)
    files["cat/1.jpg"] = encode(image.convert("L"), "JPEG")
    files["cat/2.png"] = encode(image, "PNG")
    files["cat/3.jpg"] = files["ant/00.jpg"]
    files |= {f"cat/{i}.jpg": jpeg()[:-40] for i in (5, 6, 7, 8)} | {"bee/text.jpg": b"hello"}
    prepare(write_tree(files), tmp_path / "out", Policy(), ("beton", "tfrecord"))
    return tmp_path / "out"


def test_the_figures_of_a_dataset(out: Path) -> None:
    found = survey(out, sample=1000)
    assert (found.samples, found.unlabelled, found.files) == (22, 0, 1)
    assert found.formats == ["beton", "tfrecord"]
    assert found.classes == {"ant": 6, "bee": 12, "cat": 4}
    heights = [20 + i for i in range(18)] + [30, 30, 30, 20]
    assert found.height == np.percentile(heights, PERCENTILES).round(4).tolist()
    assert found.aspect[-1] == 3 and found.width[0] == 26
    assert found.kinds == {"JPEG": 22} and (found.sampled, found.undecodable) == (22, 0)
    assert found.jpegs == {"baseline 4:4:4": 20, "progressive 4:2:0": 1, "baseline grey": 1}
    assert found.duplicates == 1 and found.kept == 21 and found.reencoded == {"PNG": 1}
    assert found.quarantined == {"not an image": 1, "truncated JPEG": 4}
    assert found.examples["truncated JPEG"] == ["cat/5.jpg", "cat/6.jpg", "cat/7.jpg"]
    assert json.loads(json.dumps(dataclasses.asdict(found)))["samples"] == 22


def test_mean_and_deviation_are_those_of_the_pixels(write_tree: Write, tmp_path: Path) -> None:
    files = {f"{i}.jpg": jpeg(30 + 10 * i, 40, i) for i in range(5)}
    prepare(write_tree(files), tmp_path / "out", Policy(raw_fraction=0.4))
    found = survey(tmp_path / "out")
    pixels = [simplejpeg.decode_jpeg(data) / 255 for data in files.values()]
    mean = np.mean([image.mean((0, 1)) for image in pixels], axis=0)
    square = np.mean([(image**2).mean((0, 1)) for image in pixels], axis=0)
    assert np.allclose(found.mean, mean, atol=1e-4)
    assert np.allclose(found.std, np.sqrt(square - mean**2), atol=1e-4)
    assert found.kinds == {"JPEG": 3, "raw": 2} and sum(found.jpegs.values()) == 3


def test_a_sample_is_spread_and_counted(out: Path) -> None:
    told: list[tuple[int, int]] = []
    found = survey(out, sample=5, progress=lambda *now: told.append(now))
    assert found.sampled == 5 and told[-1] == (5, 5) and found.samples == 22


def test_files_of_others_have_figures_too(out: Path) -> None:
    found = survey(out / "tfrecord" / "train-00000.tfrecord")
    assert found.formats == ["tfrecord"] and found.samples == 22 and found.duplicates == 1
    assert found.classes == {"0": 6, "1": 12, "2": 4} and found.kept == -1


def test_an_image_that_does_not_decode_is_counted(out: Path) -> None:
    path = out / "beton" / "train.beton"
    content = bytearray(path.read_bytes())
    rows = np.load(out / "beton" / "index.npy")
    content[int(rows["offset"][3]) + 20 : int(rows["offset"][3]) + 80] = bytes(60)
    path.write_bytes(content)
    found = survey(out, sample=100)
    assert found.undecodable == 1 and "1 did not decode" in "\n".join(lines(found))


def test_what_people_read(out: Path, write_tree: Write, tmp_path: Path) -> None:
    text = lines(survey(out))
    assert text[0].endswith(": 22 images, beton, tfrecord, 4.2 MB in 1 file")
    assert "3 classes of 4 to 12 images (median 6)" in text
    assert "  bee 12, ant 6, cat 4" in text
    assert "stored as they came: 21; re-encoded: PNG 1" in text
    assert "  truncated JPEG 4: cat/5.jpg, cat/6.jpg, cat/7.jpg, ..." in text
    many = {f"{i:03}/1.jpg": jpeg() for i in range(300)}
    prepare(write_tree(many, "many"), tmp_path / "many-out")
    assert max(map(len, lines(survey(tmp_path / "many-out")))) < 160
    prepare(write_tree({"a.jpg": jpeg()}, "flat"), tmp_path / "flat-out")
    assert "no labels" in lines(survey(tmp_path / "flat-out"))


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run prep"):
        survey(tmp_path)
