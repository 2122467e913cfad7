"""Extends a sample's figures to the whole source: bytes on the disk, and a loader's memory."""

from __future__ import annotations

import numpy as np

from data_tools.formats import beton
from data_tools.machine import cores
from data_tools.planning.trial import Sample, Trial
from data_tools.sources.source import Source

# Our loader holds a ring of 4 batches of 256 images with two views of 224 pixels. For FFCV's, see
# loader_memory.
BATCH, RING, VIEW, FFCV_SLOTS = 256, 4, 224, 5
# Bytes per image in addition to its own: record headers and padding; and, per labelled image, those
# of the label's own file.
PER_IMAGE = {"tfrecord": 175, "recordio": 34, "webdataset": 512 + 256}
PER_LABEL = {"webdataset": 512 + 512}


def predicted_bytes(
    trial: Trial, files: Source, sample: Sample, form: str
) -> tuple[int, float]:
    """Return the bytes on the disk, and half the width of their 95 % interval as a share of them.

    Raw images and JPEGs are estimated apart, since each kind scatters about its own mean, and the
    number of images of each kind is known.
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
        # No image crosses a page, so a page ends with a gap: half an image on average, where large
        # images count more, because they are more often the one that does not fit.
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
    """Return (stored bytes of `images` images, variance of that), from a sample of them.

    stored, sizes: bytes of each sampled image as stored and in the source. source_bytes: those of
    all. The estimate uses either the ratio of stored to source bytes, which is 1 for copies, or the
    mean of the stored bytes: the one with the smaller variance. The sample is sorted by size, so
    neighbours are alike, and their differences give the variance (systematic sampling).
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
    """Return (ours, FFCV's): bytes of memory of a training loader, at batch 256 with two views.

    rows: index rows of images like those to be loaded. FFCV's crop decoders hold
    (batches_ahead + 2) x batch x largest height x largest width x 3 bytes per view
    (ffcv/fields/rgb_image.py and loader/epoch_iterator.py, release 1.0.2).
    """
    sizes = np.stack([rows["height"], rows["width"]]).astype(np.int64)
    height, width = sizes.max(axis=1).tolist()
    pixels = int(sizes.prod(axis=0).max())
    ours = RING * BATCH * 2 * VIEW * VIEW * 3 + cores() * 2 * 3 * pixels
    return ours, FFCV_SLOTS * BATCH * height * width * 3 * 2
