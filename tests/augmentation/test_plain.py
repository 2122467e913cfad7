"""Each op against torchvision and Pillow with the same factors; Kornia's form against the plain."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter

from fastmoco import draws
from fastmoco.augmentation.cpu import augment_numba
from fastmoco.augmentation.plain import augment, blur, turn_hue
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.recipe import AUGMENT_CIFAR, AUGMENT_V1, AUGMENT_V2
from tests.support.augmented_views import some_draws, some_views
from tests.support.made_files.sample_images import smooth_image

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
RECIPES = {"v1": AUGMENT_V1, "v2": AUGMENT_V2, "cifar": AUGMENT_CIFAR}


def by_torchvision(image, c, aug):
    """One view uint8 [S, S, 3] through torchvision's tensor ops, in the order of its draws."""
    x = image.permute(2, 0, 1).float() / 255
    gray = lambda x: TF.rgb_to_grayscale(x, 3)  # noqa: E731
    if aug.gray_first and c["gray"]:
        x = gray(x)
    ops = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    factors = [float(c[k]) for k in ("brightness", "contrast", "saturation", "hue")]
    if c["jitter"]:
        for op in c["order"].tolist():
            x = ops[op](x, factors[op])
    if not aug.gray_first and c["gray"]:
        x = gray(x)
    return x


@pytest.mark.parametrize("name", RECIPES)
def test_colours_equal_torchvisions(name):
    aug = dataclasses.replace(RECIPES[name], blur_p=0.0, flip_p=0.0, **PLAIN)
    views, c = some_views(), some_draws(aug)
    ours = augment(views, c, aug)
    for b in range(views.shape[0]):
        for v in range(2):
            one = {k: t[b, v] for k, t in c.arrays().items()}
            expected = by_torchvision(views[b, v], one, aug)
            # torchvision's grey weights are rounded to 0.2989: half a thousandth
            torch.testing.assert_close(ours[v, b], expected, atol=2e-3, rtol=0)


def test_hue_equals_pillows_on_photographs():
    rng = np.random.default_rng(1)
    image = smooth_image(rng, 64, 64)
    planes = [torch.from_numpy(image[None, ..., i] / 255).float() for i in range(3)]
    for turns in (-0.4, -0.1, 0.05, 0.1, 0.5):
        ours = torch.stack(turn_hue(planes, torch.tensor([turns])), -1)[0].numpy() * 255
        pillow = np.asarray(TF.adjust_hue(Image.fromarray(image), turns), np.float64)
        assert np.abs(ours - pillow).mean() < 1.6  # Pillow's HSV has 8 bits


def test_blur_equals_pillows():
    rng = np.random.default_rng(2)
    image = smooth_image(rng, 50, 50)
    for sigma in (0.1, 0.7, 1.3, 2.0):
        taps = torch.from_numpy(draws.blur_taps(np.array([sigma]), 13))
        pillow = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)), float)
        ours = np.stack(
            [blur(torch.from_numpy(image[None, ..., i]).float(), taps)[0] for i in range(3)], -1
        )
        inside = np.s_[6:-6, 6:-6]
        assert np.abs(ours - pillow)[inside].max() < 3.0  # Pillow rounds six times
        assert np.abs(ours - pillow).mean() < 0.6


@pytest.mark.parametrize("name", RECIPES)
def test_the_compiled_loops_equal_the_plain_form(name):
    aug, views = RECIPES[name], some_views(9, 33)
    c = some_draws(aug, 9)
    expected = augment(views, c, aug)
    for threads in (1, 3):
        torch.testing.assert_close(
            augment_numba(views, c, aug, threads=threads), expected, atol=5e-5, rtol=0
        )


@pytest.mark.parametrize("name", RECIPES)
def test_kornia_agrees_on_the_same_draws(name):
    aug, views = dataclasses.replace(RECIPES[name], **PLAIN), some_views(9, 33)
    c = some_draws(aug, 9)
    difference = (augment_kornia(views, c, aug) - augment(views, c, aug)).abs()
    sharp = (c.sigma == 0).T
    assert difference[sharp].max() < 1e-4
    # where blurred, Kornia's kernel is a Gaussian and ours is Pillow's approximation of one
    assert difference.mean() < 1 / 255 and difference.max() < 12 / 255


def test_flip_and_normalise_and_layout():
    aug = dataclasses.replace(
        AUGMENT_CIFAR, jitter_p=0.0, gray_p=0.0, flip_p=1.0,
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7),
    )
    views = some_views(3, 8)
    images = augment(views, some_draws(aug, 3), aug, torch.bfloat16)
    assert images.shape == (2, 3, 3, 8, 8) and images.dtype == torch.bfloat16
    assert images[0].is_contiguous(memory_format=torch.channels_last)
    expected = (views.flip(3).float() / 255 - torch.tensor(aug.mean)) / torch.tensor(aug.std)
    torch.testing.assert_close(
        images.float().permute(1, 0, 3, 4, 2), expected, atol=0.02, rtol=0.01
    )


def test_every_image_has_its_own_draw():
    same = some_views(1).expand(16, 2, -1, -1, -1).contiguous()
    images = augment(same, some_draws(AUGMENT_V2, 16), AUGMENT_V2).flatten(0, 1).flatten(1)
    assert (torch.pdist(images) > 1e-3).float().mean() > 0.99


def test_it_compiles_to_one_graph():
    aug, views = AUGMENT_V2, some_views(4, 16)
    c = some_draws(aug, 4)
    compiled = torch.compile(augment, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(views, c, aug), augment(views, c, aug))


def test_blur_follows_the_resolution():
    """Sigma is in pixels: the papers' range is for 224 pixels; small images are not blurred."""
    assert AUGMENT_V2.for_resolution(224) == (AUGMENT_V2, None)
    assert AUGMENT_V2.for_resolution(448) == (AUGMENT_V2, None)
    half, line = AUGMENT_V2.for_resolution(112)
    assert half == dataclasses.replace(AUGMENT_V2, blur_sigma=(0.1, 1.0)) and "1 pixels" in line
    none, line = AUGMENT_V2.for_resolution(32)
    assert none == dataclasses.replace(AUGMENT_V2, blur_p=0.0) and "--augmentation.blur" in line
    assert half.for_resolution(112) == (half, None) and none.for_resolution(32) == (none, None)
    own = dataclasses.replace(AUGMENT_V2, blur_sigma=(0.1, 0.5))
    assert own.for_resolution(32) == (own, None)
    assert AUGMENT_CIFAR.for_resolution(32) == (AUGMENT_CIFAR, None)
