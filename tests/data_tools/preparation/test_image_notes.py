"""Warnings of a dataset's images: 12-bit data in 16-bit files, and pages that are not stored."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.images.prepare_image import Prepared, prepare_image
from data_tools.manifest import read_manifest, summary
from data_tools.policy import Policy
from data_tools.preparation.image_notes import ImageNotes
from data_tools.prepare import prepare, prepare_shard
from tests.support.made_files.handmade_images import png
from tests.support.made_files.sample_images import encode, jpeg, smooth

Write = Callable[..., Path]


def wide(most: int, seed: int = 0) -> np.ndarray:
    """uint16 [30, 50] whose greatest value is `most`."""
    values = np.random.default_rng(seed).integers(0, most + 1, (30, 50))
    values[0, 0] = most
    return values.astype(np.uint16)


def grey(most: int, form: str = "PNG", **options: object) -> bytes:
    return encode(Image.fromarray(wide(most)), form, **options)


def colours(most: int, alpha: bool = False) -> bytes:
    bands = [wide(most // (i + 1), i) for i in range(3)]
    bands += [np.full((30, 50), 65535, np.uint16)] * alpha
    return png(np.dstack(bands), 16, 6 if alpha else 2)


def stack(pages: int, other: int = 0) -> bytes:
    """A TIFF of `pages` pages of one size and `other` of another."""
    images = [Image.fromarray(smooth(30, 50, seed)) for seed in range(pages)]
    images += [Image.fromarray(smooth(15, 25, seed)) for seed in range(other)]
    return encode(images[0], "TIFF", save_all=True, append_images=images[1:])


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_the_highest_value_of_each_kind(bits: int) -> None:
    most = (1 << bits) - 1
    exact = [grey(most), grey(most, "TIFF"), grey(most, "TIFF", compression="tiff_lzw")]
    exact.append(b"P5 50 30 65535\n" + wide(most).astype(">u2").tobytes())
    swapped = io.BytesIO()
    Image.fromarray(wide(most).astype(">u2")).save(swapped, "TIFF")
    exact.append(swapped.getvalue())
    for data in exact:
        assert prepare_image(data, Policy()).highest == most
    for data in (colours(most), colours(most, alpha=True)):
        assert prepare_image(data, Policy()).highest == most
        assert prepare_image(data, Policy(max_side=20)).highest == most
    # Those have a range of their own, which is what white stands for.
    for data in (jpeg(), encode(Image.fromarray(smooth(9, 9)), "PNG"), b"P5 2 1 255\n\1\2"):
        assert prepare_image(data, Policy()).highest == -1


def test_a_range_that_a_header_gives_is_no_cause_for_a_warning() -> None:
    for levels in (1023, 4095):
        data = b"P5 50 30 %d\n" % levels + wide(levels).astype(">u2").tobytes()
        assert prepare_image(data, Policy()).highest == 65535


def test_narrow_values_are_said_once_and_loudly(write_tree: Write, tmp_path: Path) -> None:
    files = {f"a/{i}.png": grey(most) for i, most in enumerate((4095, 4000, 65535, 1023))}
    files |= {"b/1.tif": grey(3000, "TIFF"), "b/2.png": colours(4095), "b/3.jpg": jpeg()}
    source = write_tree(files)
    said: list[str] = []
    manifest = prepare(source, tmp_path / "out", say=said.append)
    warning = (
        "warning: 5 of 6 images with 16 bits per sample hold no value above 4,095: 65,535 counts "
        "as white, so at most 17 of 256 levels are left of them; scale them to 16 bits before prep"
    )
    assert manifest.notes == [warning] and said[-1] == warning
    assert warning in summary(manifest) and warning not in summary(manifest, warned=True)
    again = prepare(source, tmp_path / "out")
    assert again.reused and warning in summary(again)
    assert read_manifest(tmp_path / "out").notes == [warning]


def test_pages_are_said_once_and_loudly(write_tree: Write, tmp_path: Path) -> None:
    files = {"a/1.tif": stack(10), "a/2.tif": stack(10), "b/1.tif": stack(1), "b/2.jpg": jpeg()}
    manifest = prepare(write_tree(files), tmp_path / "out")
    same = "warning: 2 TIFF files hold several pages of one size (10 pages each): only the first"
    assert manifest.notes == [same + " page is stored"]
    assert manifest.reencoded == {"TIFF": 1, "TIFF, first frame": 2}
    files["b/3.tif"] = stack(3, other=2)
    files["b/4.tif"] = stack(1, other=4)  # an image and smaller copies of it: nothing is lost
    manifest = prepare(write_tree(files), tmp_path / "out2")
    assert "3 TIFF files hold several pages of one size (3 to 10 pages each)" in manifest.notes[0]
    assert manifest.reencoded["TIFF, first frame"] == 4


def test_any_order_of_work_says_the_same(write_tree: Write, tmp_path: Path) -> None:
    files = {f"a/{i:02}.png": grey(4095 - i) for i in range(12)}
    files |= {f"b/{i:02}.tif": stack(2 + i) for i in range(6)}
    files |= {f"c/{i:02}.jpg": jpeg(seed=i) + b"tail" for i in range(6)}
    source = write_tree(files)
    whole = prepare(source, tmp_path / "whole", policy=Policy(shard_size=0.02))
    assert "12 of 12 images" in whole.notes[0] and "(2 to 7 pages each)" in whole.notes[1]
    assert prepare(source, tmp_path / "1", Policy(workers=1, shard_size=0.02)) == whole
    for shard in ((1, 3), (0, 3)):  # the third is left to the run that puts all together
        prepare_shard(source, tmp_path / "2", shard, policy=Policy(shard_size=0.02))
    assert prepare(source, tmp_path / "2", policy=Policy(shard_size=0.02)) == whole

    # Stopped in the middle, and resumed.
    def stop(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "3", policy=Policy(shard_size=0.02), progress=stop)
    assert prepare(source, tmp_path / "3", policy=Policy(shard_size=0.02)) == whole


def test_counts_survive_json_and_merge_in_any_order() -> None:
    rng = np.random.default_rng(0)
    images = [
        Prepared(b"", 1, 1, False, "", "cut" * int(rng.integers(2)), int(rng.integers(-1, 65536)),
                 int(rng.integers(1, 9)))
        for _ in range(60)
    ]  # fmt: skip
    whole, halves = ImageNotes(), [ImageNotes(), ImageNotes()]
    for i, image in enumerate(images):
        whole.add(image)
        halves[i % 2].add(image)
    for first, second in (halves, halves[::-1]):
        merged = ImageNotes()
        merged.merge(ImageNotes.from_json(first.to_json()))
        merged.merge(ImageNotes.from_json(second.to_json()))
        merged.merge(ImageNotes.from_json({}))
        assert merged == whole and merged.lines() == whole.lines()
