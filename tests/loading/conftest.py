"""The same small dataset in every format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.policy import Policy
from data_tools.prepare import prepare
from tests.support.engine_parts import FORMATS, SAMPLES
from tests.support.made_files.sample_images import smooth_image


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, Path]:
    """The same 40 photograph-like JPEGs in every format; in "raw", half of them as plain RGB."""
    root = tmp_path_factory.mktemp("engines")
    rng = np.random.default_rng(3)
    for i in range(SAMPLES):
        label = ("ash", "oak")[i % 2]
        (root / "in" / label).mkdir(parents=True, exist_ok=True)
        height, width = (int(x) for x in rng.integers(60, 150, 2))
        image = Image.fromarray(smooth_image(rng, height, width))
        image.save(root / "in" / label / f"{i:03}.jpg", quality=90)
    prepare(root / "in", root / "all", formats=FORMATS)
    prepare(root / "in", root / "raw", Policy(raw_fraction=0.5))
    return {name: root / "all" / name for name in FORMATS} | {"raw": root / "raw"}
