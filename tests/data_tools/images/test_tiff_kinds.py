"""TIFFs of every kind: stored as their pixels are, or left out for the true reason."""

import struct

import numpy as np
import pytest

from data_tools.images.tiff_header import Tiff, read_tiff
from tests.support.made_files.handmade_images import tiff
from tests.support.prepared_images import HEIGHT, WIDTH, lossless, rejection

BEHIND = ": not supported, convert it first"


def words(values: np.ndarray, order: str = "<") -> bytes:
    return values.astype(order + f"u{values.dtype.itemsize}").tobytes()


def grey(most: int, kind: str) -> np.ndarray:
    return np.linspace(0, most, HEIGHT * WIDTH).astype(kind).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("order", "<>")
def test_zero_may_be_white_at_any_depth(order: str) -> None:
    white = {"white": (262, 0)}
    wide, narrow = grey(65535, "u2"), grey(255, "u1")
    bits = np.packbits(narrow > 99, axis=1)
    for values, depth, body in (
        (65535 - wide, 16, words(wide, order)), (255 - narrow, 8, words(narrow)),
        (np.where(narrow > 99, 0, 255).astype("u1"), 1, bits.tobytes()),
    ):  # fmt: skip
        got, reason = lossless(tiff(narrow, depth, body, order, **white))
        most = 65535 if depth == 16 else 255
        assert (got == np.round(values / most * 255).astype(np.uint8)[..., None]).all(), depth
        assert reason.startswith("TIFF")
    twelve = grey(4095, "u2")
    packed = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    got, _ = lossless(tiff(twelve, 12, np.packbits(packed).tobytes(), **white))
    assert (got == np.round((4095 - twelve) / 4095 * 255).astype(np.uint8)[..., None]).all()


def bands(count: int, colour: int, dtype: str = "u1", **tags: tuple[int, int]) -> bytes:
    values = np.resize(np.arange(251), HEIGHT * WIDTH * count).astype(dtype)
    bits = 8 * values.dtype.itemsize
    tags = {"samples": (277, count), "photometric": (262, colour), **tags}
    return tiff(np.empty((HEIGHT, WIDTH)), bits, words(values), **tags)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bands(5, 1), "TIFF of 5 bands" + BEHIND),
        (bands(13, 1, "u2"), "TIFF of 13 bands" + BEHIND),
        (bands(3, 1), "TIFF of 3 x 8 bits, grey" + BEHIND),
        (bands(3, 2, "u4"), "TIFF of 3 x 32 bits, RGB" + BEHIND),
        (bands(1, 1, "u4", kind=(339, 3)), "TIFF of float numbers"),
        (bands(3, 2, "u4", kind=(339, 3)), "TIFF of float numbers"),
        (bands(1, 1, "u1", kind=(339, 2)), "TIFF of signed or 32-bit numbers"),
        (bands(1, 1, "u4"), "TIFF of signed or 32-bit numbers"),
        (bands(3, 2, "u2", apart=(284, 2)), "TIFF of 3 separate bands of 16 bits, RGB" + BEHIND),
        (bands(2, 1, apart=(284, 2), alpha=(338, 2)), "TIFF of 2 separate bands of 8 bits, grey"),
        (bands(1, 1, "u2", depth=(258, 14)), "TIFF of 1 x 14 bits, grey" + BEHIND),
        (bands(1, 1, code=(259, 50001)), "TIFF with WebP compression" + BEHIND),
        (bands(1, 1, code=(259, 50002)), "TIFF with JPEG XL compression" + BEHIND),
        (bands(1, 1, code=(259, 34712)), "TIFF with JPEG 2000 compression" + BEHIND),
        (bands(1, 1, code=(259, 34887)), "TIFF with LERC compression" + BEHIND),
        (bands(1, 1, code=(259, 999)), "TIFF with unknown (999) compression" + BEHIND),
        (bands(1, 32803), "camera RAW: not supported, develop it first"),
        (bands(1, 1, dng=(50706, 0x401)), "camera RAW (DNG): not supported, develop it first"),
        (bands(5, 1)[:500], "damaged TIFF: "),
        (bands(1, 1)[:500], "damaged TIFF: "),
        (bands(1, 1, width=(256, 0)), "damaged TIFF: its header can't be read"),
        (b"II*\0" + bytes(40), "damaged TIFF: its header can't be read"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 40, "damaged TIFF: its header can't be read"),
        (b"MM\0+\0\x08\0\0" + bytes(7) + b"\x10" + bytes(40), "damaged TIFF: its header can't"),
    ],
)
def test_tiffs_that_are_not_stored(data: bytes, reason: str) -> None:
    assert rejection(data)[0].startswith(reason)


def two_pages(first: dict, second: dict) -> bytes:
    """A TIFF whose SubIFDs tag (330) of the first page names the second."""
    below = tiff(np.empty((second.pop("height"), second.pop("width"))), 8, b"", **second)[8:]
    above = tiff(np.empty((first.pop("height"), first.pop("width"))), 8, b"\x55" * 600, **first,
                 sub=(330, 0))  # fmt: skip
    at = above.index(struct.pack("<HHI", 330, 4, 1)) + 8
    return above[:at] + struct.pack("<I", len(above)) + above[at + 4 :] + below


def test_a_thumbnail_is_not_stored_as_the_image() -> None:
    small = {"height": 10, "width": 20, "kind": (254, 1), "rgb": (262, 2), "three": (277, 3)}
    sensor = {"height": 300, "width": 400, "cfa": (262, 32803)}
    assert rejection(two_pages(dict(small), sensor))[0].startswith("camera RAW: ")
    whole = {"height": 300, "width": 400}
    assert rejection(two_pages(dict(small), whole))[0] == (
        "TIFF that begins with a thumbnail of its image: not supported, convert it first"
    )
    # The same thumbnail behind its image is none of our concern, nor is one that stands alone.
    picture = {**small, "kind": (254, 0)}
    got, reason = lossless(two_pages(picture, {"height": 5, "width": 10, "kind": (254, 1)}))
    assert (got == 0x55).all() and reason == "TIFF"


def test_pages_that_are_thumbnails_are_no_pages_of_a_stack() -> None:
    page = read_tiff(tiff(np.empty((HEIGHT, WIDTH)), 8, bytes(HEIGHT * WIDTH))).pages[0]
    thumbnail, smaller = page._replace(subfile=1), page._replace(width=WIDTH // 2)
    empty = page._replace(has_data=False)
    assert Tiff([page, thumbnail, page, smaller, empty, page], [page]).stack() == 3


def test_bands_that_are_left_out_are_counted() -> None:
    unspecified, alpha = {"more": (338, 0)}, {"more": (338, 2)}
    for data, kind in (
        (bands(4, 2, **unspecified), "TIFF, first 3 of 4 bands"),
        (bands(2, 1, **unspecified), "TIFF, first 1 of 2 bands"),
        (bands(4, 2, **alpha), "TIFF with alpha"),
        (bands(4, 2), "TIFF with alpha"),
        (bands(3, 2), "TIFF"),
    ):
        assert lossless(data)[1] == kind
