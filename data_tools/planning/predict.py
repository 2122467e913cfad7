"""From a sample to the whole: bytes on the disk and a loader's memory."""

from __future__ import annotations

import numpy as np

from data_tools.formats import beton
from data_tools.machine import cores
from data_tools.planning.trial import Sample, Trial
from data_tools.sources.source import Source

# Ours: a ring of 4 batches of 256, two views of 224 pixels. FFCV's loader: see loader_memory.
BATCH, RING, VIEW, FFCV_SLOTS = 256, 4, 224, 5
# Bytes beside the image's own: heads, and what fills up words and blocks; and a label's file.
PER_IMAGE = {"tfrecord": 175, "recordio": 34, "webdataset": 512 + 256}
PER_LABEL = {"webdataset": 512 + 512}


def predicted_bytes(
    trial: Trial, files: Source, sample: Sample, form: str
) -> tuple[int, float]:
    """Bytes on the disk, and half the width of their 95 % interval as a share of them.

    What is stored raw and what is not scatter about means of their own, and their shares of the
    whole are known.
    """
    images, size = len(files.keys), float(np.asarray(files.sizes, np.int64).sum())
    raw = round(images * trial.policy.raw_fraction)
    content, variance = 0.0, 0.0
    for chosen, count in ((trial.raw, raw), (~trial.raw, images - raw)):
        if count and chosen.any():
            part = stratum(trial.stored[chosen], sample.sizes[chosen], count, size * count / images)
            content, variance = content + part[0], variance + part[1]
    good = max(1, round(images * (trial.stored > 0).mean()))
    if form == "beton":
        # An image doesn't cross a page: half of one, weighed by size, is lost at each page's end.
        lost = float((trial.stored**2).sum() / max(2 * trial.stored.sum(), 1))
        pages = np.ceil(content / (trial.page_size - lost))
        total = beton.front_bytes(images, trial.page_size) + pages * trial.page_size
        total += good * beton.ALLOCATION.itemsize
    else:
        labelled = float((np.asarray(files.labels) >= 0).mean())
        total = content + good * (PER_IMAGE[form] + labelled * PER_LABEL.get(form, 0))
    return round(total), 1.96 * variance**0.5 / max(content, 1)


def stratum(
    stored: np.ndarray, sizes: np.ndarray, images: int, source_bytes: float
) -> tuple[float, float]:
    """(stored bytes of so many images, variance of that) from those of some.

    Either by the ratio of stored to source bytes, which is 1 for what is copied, or by the mean of
    the stored; whichever scatters less. The sample is sorted by size, so neighbours are alike and
    their differences tell the scatter (systematic sampling).
    """
    n = len(stored)
    ratio = stored.sum() / max(sizes.sum(), 1)

    def variance(values: np.ndarray) -> float:
        one = (np.diff(values) ** 2).sum() / max(2 * (n - 1), 1)
        return float(images**2 * one / n * max(0.0, 1 - n / images))

    by_ratio = (variance(stored - ratio * sizes), float(ratio * source_bytes))
    by_mean = (variance(stored), float(stored.mean()) * images)
    least, content = min(by_ratio, by_mean)
    return content, least


def loader_memory(rows: np.ndarray) -> tuple[int, int]:
    """(ours, FFCV's): bytes that a training loader of such images (rows of an index) holds, batch
    256, two views.

    FFCV's crop decoders hold (batches_ahead + 2) x batch x largest height x largest width x 3 bytes
    for each view (ffcv/fields/rgb_image.py and loader/epoch_iterator.py, release 1.0.2).
    """
    sizes = np.stack([rows["height"], rows["width"]]).astype(np.int64)
    height, width = sizes.max(axis=1).tolist()
    pixels = int(sizes.prod(axis=0).max())
    ours = RING * BATCH * 2 * VIEW * VIEW * 3 + cores() * 2 * 3 * pixels
    return ours, FFCV_SLOTS * BATCH * height * width * 3 * 2
