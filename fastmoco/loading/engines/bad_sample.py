"""Which sample of a batch a foreign decoder could not take: told in the words of our own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.engines.threads import decode


def bad_sample(store: Store, ids: NDArray[np.int64], engine: str, said: str) -> UserError:
    """The error of a batch that `engine` gave up with the words `said`: names the first of the
    samples that does not decode, or is not of the size that the index tells."""
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
        f"{said}; use --engine threads"
    )
