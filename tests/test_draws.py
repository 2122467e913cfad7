"""Randomness as data: reference values, independence of the batch, torchvision's distributions."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import RandomResizedCrop

from fastmoco import draws
from fastmoco.recipe import AUGMENT_V1, AUGMENT_V2


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # kat_vectors of the authors' Random123 distribution
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, (2**32 - 1,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    got = draws.philox(np.array(counter, np.uint32)[:, None], key)[:, 0]
    assert got.tolist() == words


def test_permutation_is_one_and_depends_on_seed_and_epoch():
    first = draws.permutation(3, 5, 1000)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, draws.permutation(3, 5, 1000))
    assert not np.array_equal(first, draws.permutation(3, 6, 1000))
    assert not np.array_equal(first, draws.permutation(4, 5, 1000))
    assert not np.array_equal(first, draws.permutation(3 + 2**40, 5, 1000))


def test_draws_do_not_depend_on_the_batch():
    ids, sizes = np.array([9, 2, 77, 5]), np.array([[50, 60], [300, 40], [20, 20], [99, 1]])
    area = {"views": 2, "scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}
    whole = draws.crop_windows(1, 2, ids, sizes, **area)
    colours = draws.colour(1, 2, ids, 2, AUGMENT_V2).arrays()
    for i in range(4):
        alone = draws.crop_windows(1, 2, ids[i : i + 1], sizes[i : i + 1], **area)
        assert np.array_equal(alone[0], whole[i])
        one = draws.colour(1, 2, ids[i : i + 1], 2, AUGMENT_V2).arrays()
        assert all(np.array_equal(one[k][0], colours[k][i]) for k in colours)
    assert len(np.unique(colours["brightness"])) == 8  # every image and view has its own


def test_windows_lie_inside_and_follow_torchvision():
    n, height, width = 20000, 120, 200
    sizes = np.tile([height, width], (n, 1))
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    ours = draws.crop_windows(0, 0, np.arange(n), sizes, 1, scale, ratio)[:, 0]
    top, left, h, w = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)])
    for mine, reference in (
        (h * w, theirs[:, 2] * theirs[:, 3]),
        (np.log(w / h), np.log(theirs[:, 3] / theirs[:, 2])),
        (top, theirs[:, 0]),
        (left, theirs[:, 1]),
    ):
        assert kolmogorov_smirnov(mine, reference) < 1.95 * np.sqrt(2 / n)  # p = 0.001


def kolmogorov_smirnov(a, b) -> float:
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    share = [np.searchsorted(x, both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(share[0] - share[1]).max())


@pytest.mark.parametrize("size", [(100, 10), (10, 100)])
def test_windows_fall_back_to_the_centre(size):
    # area of at least 90 % at a ratio near 1 never fits a strip
    window = draws.crop_windows(0, 0, [0], [size], 1, (0.9, 1.0), (0.9, 1.1))[0, 0]
    torch.manual_seed(0)
    expected = RandomResizedCrop.get_params(torch.empty(3, *size), (0.9, 1.0), (0.9, 1.1))
    assert window.tolist() == list(expected)


def test_colour_follows_the_recipe():
    n = 40000
    c = draws.colour(0, 0, np.arange(n), 1, AUGMENT_V2)
    error = 4 * np.sqrt(0.25 / n)
    assert abs(c.jitter.mean() - 0.8) < error
    assert abs(c.gray.mean() - 0.2) < error
    assert abs((c.sigma > 0).mean() - 0.5) < error
    assert abs(c.flip.mean() - 0.5) < error
    for values, low, high in (
        (c.brightness, 0.6, 1.4), (c.contrast, 0.6, 1.4), (c.saturation, 0.6, 1.4),
        (c.hue, -0.1, 0.1), (c.sigma[c.sigma > 0], 0.1, 2.0),
    ):
        uniform = np.linspace(low, high, n)
        assert kolmogorov_smirnov(values.ravel(), uniform) < 1.95 * np.sqrt(2 / n) * 1.5
    orders, counts = np.unique(c.order.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24 and abs(counts / n - 1 / 24).max() < 4 * np.sqrt(1 / 24 / n)
    assert not draws.colour(0, 0, np.arange(99), 2, AUGMENT_V1).sigma.any()
    assert draws.colour(0, 0, np.arange(99), 2, AUGMENT_V1).jitter.all()


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.37, 2.0])
def test_blur_taps_are_pillows_kernel(sigma):
    aug = dataclasses.replace(AUGMENT_V2, blur_sigma=(0.1, 2.0))
    taps = draws.blur_taps(np.array([sigma]), draws.tap_count(aug))[0]
    assert len(taps) == 13 and abs(taps.sum() - 1) < 1e-6
    line = np.zeros((31, 31), np.uint8)
    line[:, 15] = 255
    blurred = Image.fromarray(line).filter(ImageFilter.GaussianBlur(sigma))
    assert np.abs(np.asarray(blurred)[15, 9:22] / 255 - taps).max() < 1.6 / 255


def test_eval_box_is_the_centre():
    boxes = draws.eval_boxes([[100, 60], [40, 80]], 0.875)
    assert np.allclose(boxes[:, 0], [[23.75, 3.75, 52.5, 52.5], [2.5, 22.5, 35, 35]])
