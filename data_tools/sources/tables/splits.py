"""Tables whose rows belong to train, val or test; `list.csv#train` chooses one of these."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from data_tools.errors import UserError
from data_tools.sources.location import Location

SPLIT_COLUMNS = (
    "split", "splits", "subset", "set", "partition", "fold", "data_split", "dataset_split",
    "split_name", "train_test_split",
)
SPLIT_WORDS = frozenset({
    "train", "training", "trn", "val", "valid", "validation", "dev", "devel", "development",
    "test", "testing", "tst", "eval", "evaluation", "holdout",
})
# A column of more values than this names no splits.
MOST_SPLITS = 20
# Files that may hold a column of splits.
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow")
NAME = re.compile(r"[^/#\\]{1,100}")


def split_fragment(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return ("data.tar.gz", "test") for "data.tar.gz#test"; (path, "") for a path without a split.

    "train" and "test" are splits after any path. Other names are splits after a table, and after a
    path that exists.
    """
    text = os.fspath(path)
    head, mark, split = text.rpartition("#")
    if not mark or not NAME.fullmatch(split):
        return text, ""
    if split in ("train", "test") or head.lower().endswith(TABLES) or os.path.exists(head):
        return head, split
    return text, ""


def wanted_splits(split: str) -> frozenset[str]:
    """The splits, in lower case, that "train+val" chooses."""
    return frozenset(part.strip().lower() for part in split.split("+"))


def check_splits(
    place: Location, column: str, counts: Mapping[str, int], split: str
) -> None:
    """Raises UserError if splits are mixed and none is chosen, or if the chosen one is missing.

    column: name of the table's column of splits; "" if it has none. counts: number of rows by value
    of that column.
    """
    if not column:
        if split:
            raise UserError(f"{place}: has no column called split, so #{split} chooses nothing; "
                            "leave it out")
        return
    by_size = sorted(counts, key=lambda name: (-counts[name], name))
    listed = ", ".join(f"{name or 'nothing'} ({counts[name]:,})" for name in by_size[:MOST_SPLITS])
    if split:
        missing = wanted_splits(split) - {name.lower() for name in counts}
        if missing:
            raise UserError(f"{place}: its column {column} has no {' or '.join(sorted(missing))}, "
                            f"but {listed[:300]}; give one of these behind the #")
    elif is_mixed(counts):
        words = [name for name in by_size if is_split_word(name)] + [n for n in by_size if n]
        raise UserError(f"{place}: its column {column} holds {listed} side by side; choose one by "
                        f"'{place}#{words[0]}', or several by '#{'+'.join(words[:2])}'")


def is_mixed(counts: Mapping[str, int]) -> bool:
    """True if a column's values are splits, and more than one of them."""
    return 1 < len(counts) <= MOST_SPLITS and any(map(is_split_word, counts))


def is_split_word(value: str) -> bool:
    """True for "train", "Validation", "train2017", "test-a"."""
    return any(word in SPLIT_WORDS for word in re.findall(r"[a-z]+", value.lower()))
