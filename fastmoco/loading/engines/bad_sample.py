"""Finds the sample that another library failed to decode, and returns our own error for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.engines.threads import decode


def bad_sample(store: Store, ids: NDArray[np.int64], engine: str, reason: str) -> UserError:
    """The error for a batch on which `engine` failed with `reason`. It names the first sample that
    our decoder also refuses, or whose size is not the index's; if there is none, it says so."""
    for i in ids.tolist():
        try:
            height, width = decode(store, i).shape[:2]
        except UserError as error:
            return error
        if (height, width) != tuple(store.sizes[i]):
            return UserError(
                f"{store.key(i)} (sample {i} of {store.path}) is {width} x {height} pixels and "
                f"not of the size in the index: the file was changed; prepare the dataset again"
            )
    samples = f"sample {ids[0]}" if len(ids) == 1 else f"a batch of {len(ids)} samples"
    return UserError(
        f"{store.path}: {engine} does not take {samples}, all of which libjpeg decodes: "
        f"{reason}; use --engine threads"
    )
