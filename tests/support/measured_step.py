"""The recipe whose step the tests of measuring predict and measure."""

import dataclasses

from fastmoco.recipe import MOCO_V2

RECIPE = dataclasses.replace(
    MOCO_V2, arch="resnet-mini", size=32, batch=16, bn_splits=4, K=64, precision="float32"
)
