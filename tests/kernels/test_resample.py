"""Crops in vectors against Pillow's, and against torch's kernel, at every kind of size."""

import ctypes
import mmap

import numpy as np
import pytest
from PIL import Image

from fastmoco.kernels.resample import LEAST_WIDTH, crop_views, fits
from fastmoco.loading.engines.threads import cut_boxes, cut_windows, cut_windows_plain

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (301, 403, 3), np.uint8)


def pillow(image, window, size):
    top, left, height, width = window
    box = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(box.resize((size, size), Image.Resampling.BILINEAR))


def windows_of(count, least=LEAST_WIDTH):
    height = RANDOM.integers(1, NOISE.shape[0] + 1, count)
    width = RANDOM.integers(least, NOISE.shape[1] + 1, count)
    top = [RANDOM.integers(0, NOISE.shape[0] - h + 1) for h in height]
    left = [RANDOM.integers(0, NOISE.shape[1] - w + 1) for w in width]
    return np.stack([top, left, height, width], axis=1).astype(np.int32)


@pytest.mark.parametrize("size", [16, 17, 24, 31, 32, 96, 224])
def test_as_pillow_does_it(size):
    """Differs by at most two grey levels on noise. The mean difference is the rounding in
    between."""
    windows = windows_of(20)
    out = np.empty((20, size, size, 3), np.uint8)
    crop_views(NOISE, windows, out)
    for window, view in zip(windows.tolist(), out, strict=True):
        away = np.abs(view.astype(int) - pillow(NOISE, window, size))
        assert away.max() <= 2 and away.mean() < 0.3


def test_the_same_size_is_the_same_image():
    out = np.empty((1, 64, 64, 3), np.uint8)
    crop_views(NOISE, np.array([[5, 7, 64, 64]], np.int32), out)
    np.testing.assert_array_equal(out[0], NOISE[5:69, 7:71])


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("length", [20, 64, 300])
def test_a_flat_image_stays_flat(value, length):
    flat = np.full((300, 300, 3), value, np.uint8)
    out = np.empty((1, 64, 64, 3), np.uint8)
    crop_views(flat, np.array([[0, 0, length, length]], np.int32), out)
    assert (out == value).all()


@pytest.mark.parametrize("size", [16, 33, 48])
def test_nothing_is_written_beside_the_views(size):
    room = np.full(2 * size * size * 3 + 128, 77, np.uint8)
    out = room[64:-64].reshape(2, size, size, 3)
    # to the last row and column of the image, too
    crop_views(NOISE, np.array([[0, 0, 301, 403], [281, 383, 20, 20]], np.int32), out)
    assert (room[:64] == 77).all() and (room[-64:] == 77).all()
    assert np.abs(out[1].astype(int) - pillow(NOISE, (281, 383, 20, 20), size)).max() <= 2


@pytest.mark.parametrize("side", [LEAST_WIDTH, 17])
def test_nothing_is_read_behind_the_image(side):
    """The page after the image is unreadable: reading one byte too many would kill the process."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    room = np.frombuffer(pages, np.uint8)
    guarded = ctypes.c_void_p(room.ctypes.data + mmap.PAGESIZE)
    assert ctypes.CDLL(None).mprotect(guarded, mmap.PAGESIZE, 0) == 0
    # 18 or 51 bytes a row: the last vector of the last row overlaps the one before
    image = room[mmap.PAGESIZE - side * side * 3 : mmap.PAGESIZE].reshape(side, side, 3)
    image[:] = NOISE[:side, :side]
    out = np.empty((1, 16, 16, 3), np.uint8)
    crop_views(image, np.array([[0, 0, side, side]], np.int32), out)
    assert np.abs(out[0].astype(int) - pillow(image, (0, 0, side, side), 16)).max() <= 2


def test_what_has_no_full_vector_goes_the_plain_way():
    for size, width in ((15, 40), (32, 5), (8, 1)):
        windows = np.array([[3, 4, 30, width]], np.int32)
        out, plain = np.empty((2, 1, size, size, 3), np.uint8)
        assert not fits(NOISE, windows, out)
        cut_windows(NOISE, windows, out)
        cut_windows_plain(NOISE, windows, plain)
        np.testing.assert_array_equal(out, plain)
        assert np.abs(out[0].astype(int) - pillow(NOISE, (3, 4, 30, width), size)).max() <= 1


def test_arrays_with_gaps_go_the_plain_way():
    windows = np.array([[3, 4, 100, 100]], np.int32)
    wide = np.zeros((1, 32, 40, 3), np.uint8)
    cut_windows(NOISE[:, :300], windows, wide[:, :, :32])
    whole = np.empty((1, 32, 32, 3), np.uint8)
    cut_windows_plain(NOISE, windows, whole)
    np.testing.assert_array_equal(wide[:, :, :32], whole)


def test_a_box_of_the_whole_image_in_its_size_is_a_copy():
    """As in Pillow. A box that is slightly smaller is resampled."""
    square = np.ascontiguousarray(NOISE[:64, :64])
    boxes, out = np.array([[0, 0, 64, 64], [0, 0, 63.5, 64]], float), np.empty((2, 64, 64, 3), "u1")
    cut_boxes(square, boxes, out)
    for (_, _, height, width), view in zip(boxes, out, strict=True):
        box = Image.fromarray(square).resize(
            (64, 64), Image.Resampling.BILINEAR, box=(0, 0, width, height)
        )
        np.testing.assert_array_equal(view, np.asarray(box))
    assert (out[0] == square).all() and (out[1] != square).any()
