"""The same augmentation for CPUs: one compiled pass over each image, threads over the images.

A removable fast form of fastmoco.augmentation.plain (a test holds the two to each other). The
planes of one image stay in cache from the first op to the normalised pixel, only what was drawn is
computed, and the images are written in the compute dtype, channels last, into memory that is used
again.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.machine import cores
from fastmoco.draws import Colour
from fastmoco.kernels.colour import augment_rows
from fastmoco.recipe import Augmentation

KEPT = 3  # outputs whose memory is kept: the step's, the next one's, one more


class Memory:
    """Arrays for the images of one shape, taken again once no tensor shares them.

    Fresh memory costs a page fault for every 4 KB, which takes as long as the augmentation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[NDArray] = []

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, contiguous, float32 or bfloat16."""
        plain = np.dtype(np.float32 if dtype == torch.float32 else np.uint16)
        with self._lock:
            same = [a for a in self._arrays if a.shape == shape and a.dtype == plain]
            # The list, `same`, the loop's variable and getrefcount's argument hold it: a tensor
            # made of it would be one more.
            array = next((a for a in same if sys.getrefcount(a) <= 4), None)
            if array is None:
                array = np.empty(shape, plain)
                self._arrays = [*same[-(KEPT - 1) :], array]
            made = torch.from_numpy(array)
        return made if dtype == torch.float32 else made.view(dtype)


MEMORY = Memory()


def augment_numba(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> torch.Tensor:
    """uint8 views [B, V, S, S, 3] on the CPU to images [V, B, 3, S, S]; see plain.augment."""
    b, v, size, _, _ = views.shape
    made = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    out = MEMORY.tensor((v, b, size, size, 3), made)
    pixels = views.numpy()
    target = (out if made == torch.float32 else out.view(torch.uint16)).numpy()
    c = {k: t.numpy() for k, t in colour.arrays().items()}
    factors = np.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], axis=-1)
    mean, std = np.array(aug.mean, np.float32), np.array(aug.std, np.float32)
    scale = 1 / std
    drawn = (c["jitter"], c["order"], factors, c["gray"], c["flip"], c["sigma"] > 0, c["taps"])

    def work(rows: slice) -> None:
        parts = [x[rows] for x in drawn]
        augment_rows(
            pixels[rows], target[:, rows], *parts, aug.gray_first, scale, -mean * scale  # type: ignore
        )

    threads = threads or cores()
    step = -(-b // threads)
    slices = [slice(i, i + step) for i in range(0, b, step)]
    if len(slices) == 1:
        work(slices[0])
    else:
        with ThreadPoolExecutor(len(slices)) as pool:
            list(pool.map(work, slices))
    return out.permute(0, 1, 4, 2, 3).to(dtype)
