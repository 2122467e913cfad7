"""A checkpoint's encoder as a plain module: images to the features that all evaluations use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import nn

from data_tools.errors import UserError
from data_tools.images import flatten
from data_tools.images.codec import quiet_pillow
from data_tools.images.jpeg_header import BadImage
from data_tools.images.prepare_image import prepare_image
from data_tools.machine import cores
from data_tools.policy import Policy
from data_tools.safe_reading.limits import why
from data_tools.safe_reading.regular import read_all
from fastmoco import draws
from fastmoco.augmentation.plain import centre_view
from fastmoco.loading.engines.threads import cut_boxes
from fastmoco.recipe import Recipe
from fastmoco.system.device import autocast
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import load_encoder

ImageOrPath = Image.Image | str | os.PathLike[str]


class Transform:
    """Makes the input of an encoder from an image, as the loader of evaluations does.

    It takes the centred square of the short side times `eval_crop`, resizes it to `size` pixels
    (antialiased bilinear) and normalises each channel by mean and standard deviation.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.size = recipe.eval_size or recipe.size
        self.eval_crop, self.augmentation = recipe.eval_crop, recipe.augmentation

    def __call__(self, image: ImageOrPath) -> torch.Tensor:
        """Return float32 [3, size, size] for a PIL image of any mode, or an image file's path.

        A file is read as `prep` stores it with its default policy, so the result is that of the
        prepared dataset. Raises UserError for anything that is not a readable image.
        """
        with quiet_pillow():
            return self.of(image)

    def of(self, image: ImageOrPath) -> torch.Tensor:
        """Do the same inside a `with quiet_pillow()` of the caller, which all threads share."""
        pixels = pixels_of(image) if isinstance(image, Image.Image) else pixels_at(image)
        view = np.empty((1, self.size, self.size, 3), np.uint8)
        cut_boxes(pixels, draws.eval_boxes([pixels.shape[:2]], self.eval_crop)[0], view)
        return centre_view(torch.from_numpy(view)[None], self.augmentation, torch.float32)[0]

    def __repr__(self) -> str:
        a = self.augmentation
        return (f"Transform(size={self.size}, eval_crop={self.eval_crop:g}, mean={a.mean}, "
                f"std={a.std})")


class FeatureEncoder(nn.Module):
    """The query encoder of a checkpoint. `forward` gives the pooled features of its trunk, which
    knn, linear and embed use; the projection head is a separate method."""

    transform: Transform
    """Makes the input from a PIL image or an image file: -> float32 [3, S, S]."""
    width: int
    """Number of features D."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        encoder = load_encoder(checkpoint, torch.device("cpu"))
        self.trunk, self.head, self.width = encoder.trunk, encoder.head, encoder.width
        self.transform = Transform(checkpoint.recipe)
        self._precision = checkpoint.recipe.precision
        self._has_head = any(k.startswith("encoder_q.head.") for k in checkpoint.moco)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features float32 [N, D] of images float [N, 3, S, S] from `transform`.

        Gradients flow, so that the module can be trained further. It starts in evaluation mode.
        """
        return self._run(self.trunk, images)

    def projection(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output of the projection head, float32 [N, dim], before MoCo normalises it.

        Raises UserError if the checkpoint holds no head.
        """
        if not self._has_head:
            raise UserError("the checkpoint holds no projection head: only features are known")
        return self._run(nn.Sequential(self.trunk, self.head), images)

    def features(self, images: Sequence[ImageOrPath], batch: int = 256) -> torch.Tensor:
        """Return the features of PIL images or image files, float32 [N, D] in host memory.

        Works in evaluation mode and without gradients, `batch` images at a time. Raises UserError
        for an image that cannot be read.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            raise UserError("images: give a list of PIL images or paths, not a single one")
        if batch < 1:
            raise UserError(f"batch={batch}: give 1 or more")
        device, was_training = self._device(), self.training
        out = torch.empty(len(images), self.width)
        self.eval()
        try:
            with torch.no_grad(), quiet_pillow(), ThreadPoolExecutor(cores()) as pool:
                for first in range(0, len(images), batch):
                    some = images[first : first + batch]
                    ready = torch.stack(list(pool.map(self.transform.of, some)))
                    out[first : first + len(some)] = self(ready.to(device))
        finally:
            self.train(was_training)
        return out

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _run(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as all loaders give them
        with autocast(self._device(), self._precision):
            out: torch.Tensor = module(images)
        return out.float()


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a PIL image, uint8 [H, W, 3] RGB, upright, transparency over white."""
    upright = ImageOps.exif_transpose(image)
    try:
        wide = upright.mode.startswith("I;16")
        flat = flatten.scaled(upright)[0] if wide else flatten.to_rgb_or_grey(upright)
    except BadImage as error:
        raise UserError(f"a PIL image of mode {image.mode}: {error}") from None
    return np.asarray(flat.convert("RGB"))


def pixels_at(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the pixels of an image file, uint8 [H, W, 3] RGB, as a prepared dataset has them."""
    try:
        data = prepare_image(read_all(path), Policy()).data
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: cannot be read: {why(error)}") from None
    except BadImage as error:
        raise UserError(f"{os.fspath(path)}: {error}") from None
    return simplejpeg.decode_jpeg(data)
