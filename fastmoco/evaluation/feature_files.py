"""Writes features to a file for other programs: .npy (vectors) or .parquet (key, label, vector)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_tools.errors import UserError
from data_tools.files import replacing
from data_tools.safe_reading.json_file import printable
from data_tools.store import Store, npy_header

ROWS = 16_384  # rows per Parquet row group


def write_features(features: torch.Tensor, store: Store, out: Path) -> None:
    """Write features, float32 [N, D], of a store's images in its order to a file.

    The file appears complete or not at all. Raises UserError for another suffix, a missing folder,
    a full disk, or a missing pyarrow.
    """
    check_name(out)
    with replacing(out) as partial:
        if out.suffix == ".npy":
            # not np.save, whose error for a full disk gives no reason
            with open(partial, "wb") as file:
                vectors = np.ascontiguousarray(features.numpy(), np.float32)
                file.write(npy_header(vectors.dtype, *vectors.shape))
                file.write(vectors.data)
        else:
            write_parquet(features, store, partial)


def check_name(out: Path) -> None:
    """Raise UserError for a file that write_features could not write. Call it before the
    extraction."""
    if out.suffix not in (".npy", ".parquet"):
        raise UserError(f"--out {out}: name a .npy or .parquet file")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out}: {out if out.is_dir() else out.parent} is no "
                        f"{'file' if out.is_dir() else 'existing folder'}")
    if out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(
                f"--out {out}: Parquet needs pyarrow: pip install 'fastmoco[parquet]', or name a "
                f".npy file"
            ) from None


def write_parquet(features: torch.Tensor, store: Store, path: Path) -> None:
    """Write the columns key (text), label (int64 or null), class (text or null) and vector (a list
    of `width` float32)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = features.shape[1]
    schema = pa.schema([
        ("key", pa.string()), ("label", pa.int64()), ("class", pa.string()),
        ("vector", pa.list_(pa.float32(), width)),
    ])
    # opened here, since pyarrow rejects paths with undecodable bytes
    with open(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
        for begin in range(0, len(features), ROWS):
            rows = range(begin, min(begin + ROWS, len(features)))
            labels = [int(x) if x >= 0 else None for x in store.labels[rows.start : rows.stop]]
            named = [
                printable(store.classes[x]) if x is not None and x < len(store.classes) else None
                for x in labels
            ]
            keys = [printable(store.key(i)) for i in rows]
            flat = np.ascontiguousarray(features[rows.start : rows.stop].numpy()).reshape(-1)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
            table = pa.Table.from_arrays(
                [pa.array(keys, pa.string()), pa.array(labels, pa.int64()),
                 pa.array(named, pa.string()), vectors],
                schema=schema,
            )
            writer.write_table(table)
