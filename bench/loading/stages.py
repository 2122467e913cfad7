"""make bench: the stages on photographs prepared at 500 pixels, quality 90.

    python -m bench.loading.stages [SOURCE]

SOURCE is a folder or tar of photographs; without it, and without ../shared/data, the demo's images
are drawn. The share of the decode bound and the distance from Pillow are the figures to watch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.demo.images import generate
from bench.shared.command import Flags, finish
from data_tools.manifest import summary
from data_tools.open import open_store
from data_tools.policy import Policy
from data_tools.prepare import prepare
from data_tools.store import Store
from fastmoco import draws
from fastmoco.commands.bench import measured
from fastmoco.loading.engines.threads import ThreadsEngine, decode
from fastmoco.recipe import MOCO_V2
from fastmoco.terminal.console import say

PHOTOS = Path("../shared/data/photos-300.tar")


def distance_from_pillow(store: Store, count: int = 300) -> float:
    """Mean absolute difference of our 224-pixel crops from Pillow's, in steps of 255."""
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
    parser = Flags(__doc__)
    parser.add_argument("source", type=Path, nargs="?",
                        help="a folder or tar of photographs")
    source = parser.parse_args().source
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if source is None and PHOTOS.exists():
            source = PHOTOS
        if source is None:
            say("no photographs given: drawing the demo's images")
            generate(work / "images", seed=0)
            source = work / "images" / "train"
        policy = Policy(max_side=500, quality=90, reencode="always")
        for line in summary(prepare(source, work / "data", policy)):
            say(line)
        recipe = dataclasses.replace(MOCO_V2, arch="resnet18")
        measured(work / "data", recipe)
        far = distance_from_pillow(open_store(work / "data"))
        say(f"crops differ from Pillow's by {far:.3f}/255 on average")
    return 0


if __name__ == "__main__":
    finish(main)
