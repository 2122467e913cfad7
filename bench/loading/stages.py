"""Measures each stage of the pipeline on photographs, and how far the crops are from Pillow's.

    python -m bench.loading.stages [SOURCE]

SOURCE is a folder or tar of photographs, which are prepared at 500 pixels and quality 90. Without
it ../shared/data/photos-300.tar is used, or the demo's images are drawn. Watch two figures: the
share of the decode bound that two views reach, and the distance from Pillow. `make bench` runs this
first.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("source", type=Path, nargs="?", help="a folder or tar of photographs")

import dataclasses
import tempfile

import numpy as np
from PIL import Image

from bench.demo.photographs import POLICY, photographs
from data_tools.manifest import summary
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.store import Store
from fastmoco import draws
from fastmoco.commands.bench import measured
from fastmoco.loading.engines.threads import ThreadsEngine, decode
from fastmoco.recipe import MOCO_V2
from fastmoco.terminal.console import say


def distance_from_pillow(store: Store, count: int = 300) -> float:
    """Return the mean absolute difference of our 224-pixel crops from Pillow's, in steps of 255."""
    ids = np.arange(min(count, len(store)))
    aug = MOCO_V2.augmentation
    windows = draws.crop_windows(0, 0, ids, store.sizes[ids], 1, aug.scale, aug.ratio)
    out = np.empty((len(ids), 1, 224, 224, 3), np.uint8)
    engine = ThreadsEngine(store)
    engine.submit(ids, windows, out).result()
    engine.close()
    total = 0.0
    for i in ids.tolist():
        top, left, height, width = windows[i, 0].tolist()
        image = Image.fromarray(decode(store, i))
        cut = image.crop((left, top, left + width, top + height))
        expected = np.asarray(cut.resize((224, 224), Image.Resampling.BILINEAR), np.float64)
        total += float(np.abs(out[i, 0] - expected).mean())
    return total / len(ids)


def main() -> int:
    """Prepare, measure, print."""
    given = flags.parse_args().source
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = photographs(given, work, train=3000)
        for line in summary(prepare(source, work / "data", POLICY)):
            say(line)
        recipe = dataclasses.replace(MOCO_V2, arch="resnet18")
        measured(work / "data", recipe)
        far = distance_from_pillow(open_store(work / "data"))
        say(f"crops differ from Pillow's by {far:.3f}/255 on average")
    return 0


if __name__ == "__main__":
    finish(main)
