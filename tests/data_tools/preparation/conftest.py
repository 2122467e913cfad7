"""A folder of small photographs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.made_files.sample_images import jpeg


@pytest.fixture
def photos(write_tree: Callable[..., Path]) -> Path:
    """300 JPEGs in two classes, a and b."""
    return write_tree({f"{'ab'[i % 2]}/{i:03}.jpg": jpeg(30, 40, i % 40) for i in range(300)})
