"""Engine `resident` on a GPU: all images stay decoded on the device and are cut there.

It is for small images (CIFAR, STL), for which a CPU's decoders cannot keep up with a GPU. Each crop
is two small matrix products with Pillow's weights (antialiased bilinear: a triangle as wide as the
reduction, Resample.c), first across, then down, rounded to 8 bits after each as Pillow does. It is
plain torch and never waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch

from data_tools.errors import UserError
from data_tools.quantities import human
from data_tools.store import Store
from fastmoco.loading.engines.threads import ThreadsEngine, decode
from fastmoco.system.hardware import free_memory

LARGEST_SIDE = 128  # pixels: for larger images the matrix products cost more than decoding
SHARE = 0.25  # of the device's free memory that the images may take


def are_small(store: Store, device: torch.device) -> bool:
    """True if all images of a store are small and fit on the device together."""
    small = int(store.sizes.max()) <= LARGEST_SIDE
    return small and needed(store, device) <= SHARE * free_memory(device)


def needed(store: Store, device: torch.device) -> int:
    """Bytes of a store's decoded images. On a GPU each takes as much as the largest."""
    if device.type == "cpu":
        return int(store.sizes.prod(axis=1, dtype=np.int64).sum()) * 3
    height, width = store.sizes.max(axis=0).tolist()
    return len(store) * height * width * 3


def check_room(store: Store, device: torch.device) -> None:
    """Raise UserError if a store's decoded images don't fit into a device's memory."""
    room = free_memory(device)
    if needed(store, device) > SHARE * room:
        raise UserError(
            f"--engine resident: {len(store):,} images take {human(needed(store, device))}, "
            f"but may take only {SHARE:.0%} of the {human(room)} that are free; use "
            "--engine threads"
        )


class ResidentEngine(ThreadsEngine):
    """Keeps all images of a store on a device, a GPU; the threads decode them once.

    Raises UserError if they don't fit, or one is bad.
    """

    def __init__(self, store: Store, threads: int, device: torch.device) -> None:
        check_room(store, device)
        super().__init__(store, threads)
        height, width = store.sizes.max(axis=0).tolist()
        images = torch.zeros(len(store), height, width, 3, dtype=torch.uint8)
        target = images.numpy()

        def decode_part(ids: range) -> None:
            for i in ids:
                pixels = decode(store, i)
                target[i, : pixels.shape[0], : pixels.shape[1]] = pixels

        parts = [range(i, min(i + 512, len(store))) for i in range(0, len(store), 512)]
        try:
            list(self._pool.map(decode_part, parts))
        except BaseException:
            self.close()
            raise
        # [N, W, H, 3]: the first product runs across, so columns come first
        self.images = images.transpose(1, 2).contiguous().to(device)
        self.crop_on_device = self.views

    def views(self, index: torch.Tensor, windows: torch.Tensor, size: int) -> torch.Tensor:
        """Cut windows int32 [B, V, 4] from samples int64 [B], on the device: uint8 [B, V, S, S,
        3]."""
        return cut(self.images.index_select(0, index), windows, size)


def cut(columns: torch.Tensor, windows: torch.Tensor, size: int) -> torch.Tensor:
    """Cut windows [B, V, 4] from images uint8 [B, W, H, 3], columns first: uint8 [B, V, S, S,
    3]."""
    batch, width, height, _ = columns.shape
    views = windows.shape[1]
    top, left, high, wide = windows.float().unbind(-1)
    # across: [B, V * S, W] x [B, W, H * 3]
    x = weights(left, wide, size, width).flatten(1, 2) @ columns.flatten(2).float()
    # down: [B * V, S, H] x [B * V, H, S * 3]
    x = round8(x).view(batch * views, size, height, 3).transpose(1, 2).flatten(2)
    y = weights(top, high, size, height).flatten(0, 1) @ x
    return round8(y).to(torch.uint8).view(batch, views, size, size, 3)


def weights(begin: torch.Tensor, length: torch.Tensor, size: int, extent: int) -> torch.Tensor:
    """Resampling matrices, float32 [B, V, size, extent]: the weight of each of `extent` input
    pixels in each of `size` output pixels.

    The window is the `length` pixels from `begin`, both [B, V]; pixels outside get weight 0.
    """
    scale = (length / size)[..., None, None]
    reach = scale.clamp(min=1)
    device = begin.device
    centre = (torch.arange(size, device=device) + 0.5)[:, None] * scale
    pixel = torch.arange(extent, device=device) + 0.5 - begin[..., None, None]
    triangle = (1 - ((pixel - centre) / reach).abs()).clamp(min=0)
    inside = (pixel > 0) & (pixel < length[..., None, None])
    triangle = torch.where(inside, triangle, 0.0)
    return triangle / triangle.sum(-1, keepdim=True)


def round8(x: torch.Tensor) -> torch.Tensor:
    """Round to whole grey levels, halves up."""
    return (x + 0.5).floor().clamp(0, 255)
