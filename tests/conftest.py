"""A small photograph-like dataset, made once from a seed."""

from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.open import open_store
from data_tools.prepare import prepare
from tests.support.made_files.sample_images import smooth_image


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    # Tiny tensors: a second thread costs more than it gives, most of all on a busy machine.
    torch.set_num_threads(1)


# The type by which compiled functions know their arguments. A reference keeps it alive, because
# numba would make a new one after it was marked.
BYTES = numba.uint8[::1]


@pytest.fixture(autouse=True)
def numbas_types():
    # FFCV's own Loader marks numba's one uint8[::1] as read-only: undone before the next test.
    yield
    BYTES.mutable = True
    assert numba.uint8[::1] is BYTES


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Two classes of 48 JPEGs of various sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(7)
    for label in ("ash", "oak"):
        (root / label).mkdir()
        for i in range(48):
            height, width = rng.integers(40, 120, 2)
            image = Image.fromarray(smooth_image(rng, int(height), int(width)))
            image.save(root / label / f"{i:03}.jpg", quality=92)
    return root


@pytest.fixture(scope="session")
def dataset(folder, tmp_path_factory) -> Path:
    """The folder, prepared: 96 images."""
    out = tmp_path_factory.mktemp("prepared") / "trees"
    prepare(folder, out)
    return out


@pytest.fixture(scope="session")
def store(dataset):
    return open_store(dataset)


@pytest.fixture(scope="module")
def gloo():
    """Two processes that are ranks of each other."""
    from tests.support.gloo import Gloo

    pair = Gloo(2)
    yield pair
    pair.close()
