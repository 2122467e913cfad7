"""fastmoco embed: writes features to a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from data_tools.errors import UserError
from fastmoco.commands.evaluations import TIME, VIEW, HowFlags, begin
from fastmoco.terminal.flags import FLAT, Groups, positional
from fastmoco.terminal.parse import parse


@dataclass(frozen=True)
class Args:
    """Write the pooled features of every image to a file, or draw images with their nearest
    neighbours."""

    groups: ClassVar[Groups] = {
        "output": ("out", "neighbours", "count", "seed"),
        "view": VIEW,
        "time and memory": TIME,
    }

    checkpoint: positional("CHECKPOINT")  # type: ignore[valid-type]
    """Checkpoint file or run directory, of fastmoco or another system."""
    data: positional("DATA")  # type: ignore[valid-type]
    """Dataset, with or without labels."""
    out: Path | None = None
    """File to write: .npy with the vectors in the order of the dataset, or .parquet with key,
    label, class and vector."""
    neighbours: Path | None = None
    """Picture to write: query images, each with its eight nearest images."""
    count: int = 12
    """Number of query images on the picture."""
    seed: int = 0
    """Seed of the choice of query images."""
    how: Annotated[HowFlags, FLAT] = field(default_factory=HowFlags)


def run(argv: list[str]) -> None:
    """Run `fastmoco embed CHECKPOINT DATA`."""
    args = parse(Args, argv, "embed")
    from data_tools.inspection.sheets import check_picture
    from fastmoco.evaluation.feature_cache import features_of
    from fastmoco.evaluation.feature_files import check_name, write_features
    from fastmoco.reporting.neighbour_sheet import draw_neighbours
    from fastmoco.settings.rules import check_seed
    from fastmoco.terminal import console
    from fastmoco.weights.encoders import load_encoder

    if args.out is None and args.neighbours is None:
        raise UserError("embed: give --out F.npy or F.parquet, or --neighbours SHEET.png")
    check_seed(args.seed)
    if args.out is not None:
        check_name(args.out)
    if args.neighbours is not None:
        check_picture(args.neighbours, "--neighbours")
    checkpoint, how, (store, _) = begin(args.checkpoint, (args.data, None), args.how)
    encoder = load_encoder(checkpoint, how.device)
    features = features_of(encoder, store, checkpoint.recipe, how)
    if how.ranks.rank:
        return
    if args.out is not None:
        write_features(features, store, args.out)
        console.say(f"{args.out}: {len(features):,} vectors of {features.shape[1]:,} float32")
    if args.neighbours is not None:
        drawn = draw_neighbours(
            features, store, args.neighbours, args.count, args.seed, how.device
        )
        console.say(f"{args.neighbours}: {len(drawn)} queries, each with its nearest images")
