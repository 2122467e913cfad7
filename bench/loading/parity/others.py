"""Other libraries' ops on the same factors and windows: Pillow's 8-bit colours, torchvision's
Gaussian, DALI's own ops, and the resizes of OpenCV and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fastmoco.draws import Colour

Pixels = NDArray[np.uint8]
Cut = Callable[[Pixels, int], Pixels]


def by_pillow(views: Pixels, c: Colour) -> NDArray[np.float32]:
    """Run the official pipeline: 8-bit images, rounded after every op; float [N, S, S, 3]."""
    ops = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    out = []
    for i, view in enumerate(views):
        image: Any = Image.fromarray(view)
        factors = [float(f[i, 0]) for f in (c.brightness, c.contrast, c.saturation, c.hue)]
        if c.jitter[i, 0]:
            for op in c.order[i, 0].tolist():
                if factors[op] != (0 if op == 3 else 1):
                    image = ops[op](image, factors[op])
        if c.gray[i, 0]:
            image = TF.rgb_to_grayscale(image, 3)
        if c.sigma[i, 0] > 0:
            image = image.filter(ImageFilter.GaussianBlur(float(c.sigma[i, 0])))
        y = np.asarray(image, np.float32) / 255
        out.append(y[:, ::-1] if c.flip[i, 0] else y)
    return np.stack(out)


def torchvision_blur(views: Pixels, c: Colour) -> NDArray[np.float32]:
    """Run torchvision's Gaussian with as many taps as ours; it reflects the edges."""
    size = [c.taps.shape[-1]] * 2
    x = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255
    sigmas = c.sigma[:, 0].tolist()
    soft = [TF.gaussian_blur(p, size, [s, s]) for p, s in zip(x, sigmas, strict=True)]
    return torch.stack(soft).permute(0, 2, 3, 1).numpy()


def dali_form(views: Pixels, c: Colour) -> NDArray[np.float32]:
    """Run DALI's color_twist, grey, gaussian_blur and flip on the CPU, on 8-bit images.

    color_twist turns hue in YIQ and has one fixed order. Raises ImportError without DALI.
    """
    from nvidia import dali

    fn: Any = dali.fn
    n, due = len(views), c.jitter[:, 0]
    wide = np.where(c.sigma[:, 0] > 0, 2 * np.ceil(3 * c.sigma[:, 0]) + 1, 1)
    values = {
        "brightness": np.where(due, c.brightness[:, 0], 1),
        "hue": 360 * np.where(due, c.hue[:, 0], 0),
        "contrast": np.where(due, c.contrast[:, 0], 1),
        "saturation": np.where(due, c.saturation[:, 0], 1), "keep": ~c.gray[:, 0],
        "sigma": c.sigma[:, 0],
    }  # fmt: skip
    whole = {"wide": wide, "flip": c.flip[:, 0]}
    inputs = {k: list(np.asarray(v, np.float32)) for k, v in values.items()}
    inputs |= {k: list(np.asarray(v, np.int32)) for k, v in whole.items()}
    pipeline = dali.Pipeline(n, 1, None, prefetch_queue_depth=1)
    with pipeline:
        x = fn.external_source(name="views", layout="HWC")
        given = {k: fn.external_source(name=k) for k in inputs}
        x = fn.color_twist(
            x, **{k: given[k] for k in ("brightness", "contrast", "saturation", "hue")}
        )
        x = fn.saturation(x, saturation=given["keep"])
        x = fn.gaussian_blur(x, window_size=given["wide"], sigma=given["sigma"])
        pipeline.set_outputs(fn.flip(x, horizontal=given["flip"]))
    pipeline.feed_input("views", list(views), layout="HWC")
    for name, rows in inputs.items():
        pipeline.feed_input(name, [np.asarray(row) for row in rows])
    views_out: Any = pipeline.run()[0]
    return views_out.as_array().astype(np.float32) / 255


def dali_decode(jpegs: list[Pixels]) -> list[Pixels]:
    """Decode with DALI's decoder, set as the engine sets it. Raises ImportError without DALI."""
    from nvidia import dali

    fn: Any = dali.fn
    types: Any = dali.types
    pipeline = dali.Pipeline(len(jpegs), 1, None, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="jpegs", ndim=1)
        pipeline.set_outputs(fn.decoders.image(
            encoded, device="cpu", output_type=types.RGB, adjust_orientation=False,
            jpeg_fancy_upsampling=True,
        ))
    pipeline.feed_input("jpegs", jpegs)
    images = pipeline.run()[0]
    return [np.array(images.at(i)) for i in range(len(jpegs))]


def torch_float(window: Pixels, size: int) -> Pixels:
    """Resize with torch's antialiased kernel on float32, rounded once."""
    x = torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None].float()
    y = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return y[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def other_cuts() -> dict[str, Cut]:
    """Return resizes of a window [H, W, 3] to a square, by name; OpenCV's if it is installed."""
    found: dict[str, Cut] = {"torch float": torch_float}
    try:
        import cv2
    except ImportError:
        return found
    area, linear = cv2.INTER_AREA, cv2.INTER_LINEAR

    def by_opencv(window: Pixels, size: int, how: int) -> Pixels:
        resized = cv2.resize(np.ascontiguousarray(window), (size, size), interpolation=how)
        return np.asarray(resized, np.uint8)

    found["FFCV's"] = lambda window, size: by_opencv(window, size, area)
    found["OpenCV linear"] = lambda window, size: by_opencv(window, size, linear)
    return found
