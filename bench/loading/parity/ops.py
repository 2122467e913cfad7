"""The reference, our forms, Kornia's and linear colours, one op at a time on the same factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bench.loading.parity.others import by_pillow, dali_form, torchvision_blur
from fastmoco import draws
from fastmoco.augmentation.cpu import augment_numba
from fastmoco.augmentation.gpu import augment_fast
from fastmoco.augmentation.plain import augment
from fastmoco.augmentation.with_kornia import augment_kornia
from fastmoco.draws import Colour
from fastmoco.recipe import MOCO_V2

AUG = MOCO_V2.augmentation
PLAIN = dataclasses.replace(AUG, mean=(0.0,) * 3, std=(1.0,) * 3)
OPS = ("brightness", "contrast", "saturation", "hue", "grey", "blur", "flip", "whole v2")
LINEAR, GAUSSIAN = "DALI's rule", "Gaussian"
Form = Callable[[NDArray[np.uint8], Colour], NDArray[np.float32]]


def colour_of(op: str, count: int) -> Colour:
    """Return the v2 draws of `count` images, numpy [N, 1], with every op but one neutral."""
    c = draws.colour(7, 0, np.arange(count), 1, AUG)
    if op == "whole v2":
        return c
    ones, none = np.ones_like(c.brightness), np.zeros_like(c.gray)
    sigma = draws.uniforms(8, 0, np.arange(count), [0], 1)[..., 0] * 1.9 + 0.1
    sigma = np.where(op == "blur", sigma, 0.0)
    return dataclasses.replace(
        c,
        brightness=c.brightness if op == "brightness" else ones,
        contrast=c.contrast if op == "contrast" else ones,
        saturation=c.saturation if op == "saturation" else ones,
        hue=c.hue if op == "hue" else 0 * ones,
        jitter=~none, gray=~none if op == "grey" else none,
        sigma=sigma.astype(np.float32), taps=draws.blur_taps(sigma, draws.tap_count(AUG)),
        flip=~none if op == "flip" else none,
    )  # fmt: skip


def by_reference(views: NDArray[np.uint8], c: Colour) -> NDArray[np.float32]:
    """Return torchvision's colours in each image's order, then Pillow's blur: float [N, S, S, 3].

    Values are 0..1. The blur gets 8-bit pixels, as in the official pipeline.
    """
    ops = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    out = []
    for i, view in enumerate(views):
        x = torch.from_numpy(view).permute(2, 0, 1).float() / 255
        factors = [float(f[i, 0]) for f in (c.brightness, c.contrast, c.saturation, c.hue)]
        if c.jitter[i, 0]:
            for op in c.order[i, 0].tolist():
                if factors[op] != (0 if op == 3 else 1):
                    x = ops[op](x, factors[op])
        if c.gray[i, 0]:
            x = TF.rgb_to_grayscale(x, 3)
        y = x.permute(1, 2, 0).numpy()
        if c.sigma[i, 0] > 0:
            image = Image.fromarray(np.rint(y * 255).clip(0, 255).astype(np.uint8))
            soft = image.filter(ImageFilter.GaussianBlur(float(c.sigma[i, 0])))
            y = np.asarray(soft, np.float32) / 255
        out.append(y[:, ::-1] if c.flip[i, 0] else y)
    return np.stack(out)


def by_form(form: Callable) -> Form:
    """Wrap one of our augmentations as a form of this comparison."""

    def run(views: NDArray[np.uint8], c: Colour) -> NDArray[np.float32]:
        tensors = {k: torch.from_numpy(v) for k, v in c.arrays().items()}
        rows = torch.from_numpy(draws.blur_rows(c.sigma, AUG.blur_p))
        images = form(torch.from_numpy(views)[:, None], Colour(**tensors, blur_rows=rows), PLAIN)
        return images[0].permute(0, 2, 3, 1).numpy().copy()

    return run


def linear_colours(views: NDArray[np.uint8], c: Colour) -> NDArray[np.float32]:
    """Apply the formula of DALI's color_twist, on machines without DALI.

    It is a linear turn and stretch in YIQ, with contrast around 0.5, in one order for every image.
    The result equals DALI's within rounding.
    """
    yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    back = np.linalg.inv(yiq)
    out = []
    for i, view in enumerate(views):
        x = view / 255.0
        if c.jitter[i, 0]:
            turn = -2 * np.pi * float(c.hue[i, 0])  # red to green is a turn from +I to -Q in YIQ
            cos, sin = np.cos(turn), np.sin(turn)
            s = float(c.saturation[i, 0])
            plane = np.array([[1, 0, 0], [0, s * cos, -s * sin], [0, s * sin, s * cos]])
            x = x @ (back @ plane @ yiq).T * float(c.brightness[i, 0])
            contrast = float(c.contrast[i, 0])
            x = contrast * x + (1 - contrast) * 0.5
        if c.gray[i, 0]:
            x = (x @ yiq[0])[..., None].repeat(3, -1)
        x = x.clip(0, 1)
        out.append(x[:, ::-1] if c.flip[i, 0] else x)
    return np.stack(out).astype(np.float32)


FORMS: dict[str, Form] = {
    "plain": by_form(augment),
    "CPU": by_form(augment_numba),
    "GPU form": by_form(augment_fast),
    "Kornia": by_form(augment_kornia),
    LINEAR: linear_colours,
    "DALI": dali_form,
    "Pillow": by_pillow,
    GAUSSIAN: torchvision_blur,
}


def does(name: str, op: str) -> bool:
    """Return whether a form has an op: the formula has only colours, the Gaussian only blur."""
    if name == GAUSSIAN:
        return op == "blur"
    return name != LINEAR or op not in ("blur", "whole v2")
