"""A small model for the tests of other systems' checkpoints."""

import pytest
from torchvision.models import resnet18

from tests.support.foreign_models import mlp, resnet


@pytest.fixture(scope="module")
def small():
    """A ResNet-18 with MoCo v2's head."""
    return resnet(resnet18, mlp(512))
