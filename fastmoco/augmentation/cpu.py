"""The augmentation for CPUs: one compiled pass over each image, with threads over the images.

A fast form of fastmoco.augmentation.plain, which a test compares with it; it can be removed. The
planes of one image stay in cache from the first op to the normalised pixel. Only the ops that were
drawn are computed. The images are written in the compute dtype, channels last, into recycled
memory.
"""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.machine import cores
from fastmoco.draws import Colour
from fastmoco.kernels.colour import augment_rows
from fastmoco.recipe import Augmentation

KEPT = 3  # free arrays that are kept: one for the step, one for the next, one to spare


class Memory:
    """Arrays for the images of one shape, recycled once no tensor uses them.

    Fresh memory costs a page fault for every 4 KB, which takes as long as the augmentation.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], torch.dtype], deque[NDArray]] = {}

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised contiguous tensor, float32 or bfloat16."""
        free = self._free.get((shape, dtype))
        if free is None:  # views of another size: the free arrays of the old one go
            free = deque(maxlen=KEPT)
            self._free = {(shape, dtype): free}
        try:
            array = free.pop()
        except IndexError:
            array = np.empty(shape, np.float32 if dtype == torch.float32 else np.uint16)
        # Only the tensor and its views hold `lent`: when the last of them goes, so does `lent`, and
        # the array is free again. A deque's append and pop are atomic, so no lock is needed.
        lent = array.view()
        weakref.finalize(lent, free.append, array).atexit = False
        made = torch.from_numpy(lent)
        return made if dtype == torch.float32 else made.view(dtype)


MEMORY = Memory()


def augment_numba(
    views: torch.Tensor,
    colour: Colour,
    aug: Augmentation,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> torch.Tensor:
    """Augment uint8 views [B, V, S, S, 3] on the CPU to images [V, B, 3, S, S]; see plain.augment.

    threads: None means one per core.
    """
    b, v, size, _, _ = views.shape
    # numba knows no float16: those images are made in float32 and converted at the end
    made = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    out = MEMORY.tensor((v, b, size, size, 3), made)
    pixels = views.numpy()
    target = (out if made == torch.float32 else out.view(torch.uint16)).numpy()
    c = {k: t.numpy() for k, t in colour.arrays().items()}
    factors = np.stack([c["brightness"], c["contrast"], c["saturation"], c["hue"]], axis=-1)
    mean, std = np.array(aug.mean, np.float32), np.array(aug.std, np.float32)
    scale = 1 / std
    drawn = (c["jitter"], c["order"], factors, c["gray"], c["flip"], c["sigma"] > 0, c["taps"])

    compiled: Any = augment_rows  # numba's annotations do not know its arguments

    def work(rows: slice) -> None:
        parts = [x[rows] for x in drawn]
        compiled(
            pixels[rows], target[:, rows], *parts, aug.gray_first, scale, -mean * scale
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
