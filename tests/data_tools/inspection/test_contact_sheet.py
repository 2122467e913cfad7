"""The contact sheet: which images it shows, and where."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_tools.errors import UserError
from data_tools.inspection.contact_sheet import GAP, MARGIN, contact_sheet, shortened
from data_tools.inspection.sheets import PAPER
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare

Write = Callable[..., Path]


def flat(i: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((30, 50, 3), 10 * i, np.uint8), 100)


def test_rows_are_classes_and_columns_are_spread(write_tree: Write, tmp_path: Path) -> None:
    files = {f"{'ab'[i // 10]}/{i:02}.jpg": flat(i) for i in range(20)}
    prepare(write_tree(files), tmp_path / "out", Policy(raw_fraction=0.5))
    store = open_store(tmp_path / "out")
    assert contact_sheet(store, tmp_path / "x.png", per_class=4, tile=40) == 8
    sheet = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    left = sheet.shape[1] - MARGIN - 4 * 40 - 3 * GAP
    for row in range(2):
        for column, member in enumerate((0, 3, 6, 9)):
            y, x = MARGIN + row * (40 + GAP) + 20, left + column * (40 + GAP) + 20
            assert abs(sheet[y, x, 0] - 10 * (10 * row + member)) <= 1
    assert (sheet[:MARGIN] == PAPER).all()  # paper around it
    assert sheet[MARGIN : MARGIN + 40, : left - 10].min() < 100  # and the class's name
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_without_labels_it_is_a_grid_and_a_broken_image_is_crossed(
    write_tree: Write, tmp_path: Path
) -> None:
    prepare(write_tree({f"{i}.jpg": flat(i) for i in range(7)}), tmp_path / "out")
    path = tmp_path / "out" / "train.beton"
    store = open_store(tmp_path / "out")
    content = bytearray(path.read_bytes())
    start = int(store.places(np.array([0]))[1][0])
    content[start + 2 : start + 60] = bytes(58)
    path.write_bytes(content)
    shown = contact_sheet(open_store(tmp_path / "out"), tmp_path / "x.jpg", per_class=5, tile=32)
    assert shown == 7
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.size == (2 * MARGIN + 5 * (32 + GAP) - GAP, 2 * MARGIN + 2 * (32 + GAP) - GAP)
        r, g, b = image.getpixel((MARGIN + 16, MARGIN + 5))
        assert r > g + 3 and r > b + 3  # the pale red of what can't be shown


def test_a_name_that_is_too_long_is_cut(tmp_path: Path) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=15)
    cut = shortened("a name much longer than the room that it is given", font, 120)
    assert cut.endswith("...") and font.getlength(cut) <= 120
    assert shortened("short", font, 120) == "short" and shortened("a\nb", font, 120) == "a?b"


def test_only_pictures(write_tree: Write, tmp_path: Path) -> None:
    prepare(write_tree({"1.jpg": flat(1)}), tmp_path / "out")
    with pytest.raises(UserError, match="x.pdf: name a .png, .jpg or .webp file"):
        contact_sheet(open_store(tmp_path / "out"), tmp_path / "x.pdf")
    with pytest.raises(UserError, match="x.png: no such folder; give a file in a folder"):
        contact_sheet(open_store(tmp_path / "out"), tmp_path / "none" / "x.png")
