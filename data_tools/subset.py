"""A store that contains some samples of another store."""

from __future__ import annotations

import numpy as np

from data_tools.store import Store


class Subset:
    """Samples of a store, as a store. ids: int64 [n], their numbers, in the new order."""

    ids: np.ndarray
    """int64 [n]: the samples' places in the store that holds the files."""
    _store: Store

    def __init__(self, store: Store, ids: np.ndarray) -> None:
        ids = np.asarray(ids, dtype=np.int64)
        if isinstance(store, Subset):
            ids, store = store.ids[ids], store._store
        self.ids = ids
        self.path, self.classes, self.fingerprint = store.path, store.classes, store.fingerprint
        self.sizes, self.labels, self.kinds = (
            store.sizes[self.ids], store.labels[self.ids], store.kinds[self.ids]
        )
        self.lengths, self.data = store.lengths[self.ids], store.data
        self._store = store

    def __len__(self) -> int:
        return len(self.ids)

    def encoded(self, i: int) -> np.ndarray:
        return self._store.encoded(int(self.ids[i]))

    def key(self, i: int) -> str:
        return self._store.key(int(self.ids[i]))

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._store.places(self.ids[ids])
