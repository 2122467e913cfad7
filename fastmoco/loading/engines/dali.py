"""NVIDIA DALI as an engine: its decoder and its resize, with our bytes and our windows.

fn.external_source takes the store's bytes and the windows without a copy. fn.decoders.image decodes
each sample once. fn.slice and fn.resize make each view, with the antialiased triangular filter that
is Pillow's bilinear one; evaluation's float boxes are fn.resize's region of interest. On the CPU
DALI decodes as libjpeg does by default (exact DCT, fancy upsampling). The views of 150 photographs
of 500 pixels differ from Pillow's by 0.17/255, and by 0.21/255 in the worst case. DALI cannot read
raw RGB; such samples, and PNG files in datasets of others, are decoded on the host and cut by DALI.

DALI does not report damage within a JPEG's scan, of which libjpeg only warns: the rest of the image
is grey or garbled. Our threads and FFCV name the sample. `fastmoco verify` finds it too.

On a CUDA device nvJPEG decodes JPEGs (device "mixed"), and the GPU cuts the views. They are copied
back to the host, since an engine fills a slot there. That path is untested: no GPU was available.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.machine import cores
from data_tools.store import JPEG, Store
from fastmoco.loading.engines.bad_sample import bad_sample
from fastmoco.loading.engines.engine import CropOnDevice
from fastmoco.loading.engines.threads import decode


class Kind(NamedTuple):
    """The inputs and outputs that a pipeline is built for."""

    decoded: bool  # the inputs are pixels, not JPEGs
    boxes: bool  # float windows
    views: int
    height: int
    width: int


class DaliEngine:
    """Fills slots from a store by DALI pipelines (see engine.Engine), one batch after another."""

    crop_on_device: CropOnDevice | None = None

    def __init__(
        self, store: Store, threads: int = 0, device: torch.device | None = None
    ) -> None:
        import nvidia.dali  # noqa: F401  so that a missing DALI fails here, not in the first batch

        self.store = store
        self.threads = threads or cores()
        on_gpu = device is not None and device.type == "cuda"
        self._gpu = (device.index or 0) if device is not None and on_gpu else None
        self._pipelines: dict[Kind, Any] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fastmoco-dali")

    def submit(
        self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]
    ) -> Future[None]:
        """Start to fill out [B, V, S, S, 3] with windows [B, V, 4] of the samples ids [B]."""
        return self._pool.submit(self._fill, ids, windows, out)

    def close(self) -> None:
        """Stop all threads; drop batches that were not started."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pipelines.clear()  # DALI's threads end with their pipeline

    def _fill(self, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8]) -> None:
        jpegs = self.store.kinds[ids] == JPEG
        for decoded in (False, True):
            rows = np.flatnonzero(jpegs != decoded)
            if len(rows):
                kind = Kind(decoded, windows.dtype.kind == "f", *out.shape[1:4])
                self._run(kind, ids[rows], windows[rows], out, rows)

    def _run(
        self, kind: Kind, ids: NDArray[np.int64], windows: NDArray, out: NDArray[np.uint8],
        rows: NDArray[np.intp],
    ) -> None:
        pipeline = self._pipelines.get(kind)
        if pipeline is None or pipeline.max_batch_size < len(ids):
            try:
                pipeline = self._pipelines[kind] = build(kind, len(ids), self.threads, self._gpu)
            except RuntimeError as error:
                raise UserError(
                    f"--engine dali does not start: {reason(error)}; use --engine threads"
                ) from None
        read = (lambda i: decode(self.store, i)) if kind.decoded else self.store.encoded
        images = [read(i) for i in ids.tolist()]
        corners = windows[..., :2], windows[..., 2:]  # top and left, height and width
        if kind.boxes:
            corners = corners[0], corners[0] + corners[1]
        dtype = np.float32 if kind.boxes else np.int32
        parts = [
            (f"{name}{view}", np.ascontiguousarray(corner[:, view], dtype))
            for view in range(kind.views)
            for name, corner in zip(("start", "end"), corners, strict=True)
        ]
        try:
            pipeline.feed_input("images", images)
            for name, part in parts:
                pipeline.feed_input(name, part)
            views = pipeline.run()
        except RuntimeError as error:
            # A pipeline that failed cannot run again: the next batch builds another.
            del self._pipelines[kind]
            raise bad_sample(self.store, ids, "DALI", reason(error)) from None
        for view, pixels in enumerate(views):
            pixels = pixels.as_cpu() if self._gpu is not None else pixels
            out[rows, view] = pixels.as_array()


def reason(error: RuntimeError) -> str:
    """DALI's reason in one line: the first line after its traceback of the pipeline."""
    text = str(error).partition("encountered:\n")[2] or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def build(kind: Kind, capacity: int, threads: int, gpu: int | None) -> Any:
    """Build a DALI pipeline for batches of at most `capacity` samples.

    Inputs: images; and for each view n, start<n> and end<n> [B, 2], in pixels (vertical,
    horizontal). These are corner and extent of an integer window, or the two corners of a float
    box. Outputs: uint8 [B, height, width, 3] for each view.
    """
    from nvidia import dali

    fn: Any = dali.fn  # its stubs miss how the result depends on the arguments
    types: Any = dali.types
    # No queue in the pipeline: the loader's ring already holds batches ahead.
    pipeline = dali.Pipeline(capacity, threads, gpu, prefetch_queue_depth=1)
    with pipeline:
        if kind.decoded:
            image = fn.external_source(
                name="images", ndim=3, layout="HWC", dtype=types.UINT8, no_copy=True
            )
            image = image if gpu is None else image.gpu()
        else:
            encoded = fn.external_source(name="images", ndim=1, dtype=types.UINT8, no_copy=True)
            image = fn.decoders.image(
                encoded, device="cpu" if gpu is None else "mixed", output_type=types.RGB,
                adjust_orientation=False,  # prep has already rotated the images
                jpeg_fancy_upsampling=True,  # as libjpeg does; nvJPEG's default differs
            )
        views = []
        for n in range(kind.views):
            number = types.FLOAT if kind.boxes else types.INT32
            start, end = (
                fn.external_source(name=f"{name}{n}", ndim=1, dtype=number, no_copy=True)
                for name in ("start", "end")
            )
            box = {"roi_start": start, "roi_end": end} if kind.boxes else {}
            source = image if kind.boxes else fn.slice(image, start=start, shape=end, axes=(0, 1))
            views.append(
                fn.resize(
                    source, size=(kind.height, kind.width), antialias=True,
                    interp_type=types.INTERP_LINEAR, **box,
                )
            )
        pipeline.set_outputs(*views)
    pipeline.build()
    return pipeline
