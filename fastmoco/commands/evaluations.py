"""The commands that evaluate an encoder: knn, linear, finetune, embed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import shown_json
from fastmoco.commands import datasets

if TYPE_CHECKING:
    from fastmoco.commands.evaluation_flags import FinetuneArgs, HowFlags, KnnArgs, LinearArgs
    from fastmoco.evaluation.feature_cache import Extraction
    from fastmoco.evaluation.scores import Score
    from fastmoco.weights.checkpoint import Checkpoint

MOST_CLASSES = 12  # that a confusion table has room for
MOST_PAIRS = 10  # of classes taken for each other


def knn(argv: list[str]) -> None:
    """fastmoco knn CHECKPOINT TRAIN [VAL]"""
    from fastmoco.commands.evaluation_flags import KnnArgs
    from fastmoco.terminal.parse import parse

    args = parse(KnnArgs, argv, "knn")
    from fastmoco.evaluation.knn import PROTOCOLS, grid, knn
    from fastmoco.terminal import console

    protocols = grid(args.k, args.T) if args.k or args.T else PROTOCOLS
    checkpoint, how, (train, val) = begin(args.checkpoint, (args.train, args.val), args.how)
    voters = len(train) - (val is None)
    rows = knn(
        checkpoint, train, val, how.device, how.threads, args.companions, protocols, how
    )
    if how.ranks.rank:
        return
    queries, asked = (train, "leave one out") if val is None else (val, f"bank of {len(train):,}")
    # DINO's k = 20, the published one, stands for the rest
    shown = next((r for r in rows if (r.protocol, r.k) == ("DINO", 20)), rows[0])
    if args.how.json:
        print(shown_json({
            **about(args, checkpoint), "bank": len(train),
            "queries": len(queries), "leave_one_out": val is None,
            "rows": [
                {"features": r.features, "protocol": r.protocol, "k": r.k, "T": r.T,
                 **brief(r.score)}
                for r in rows
            ],
            "detail": {"features": shown.features, "protocol": shown.protocol, "k": shown.k,
                       "T": shown.T, **dataclasses.asdict(shown.score)},
        }))
        return
    console.say(
        f"{len(queries):,} queries, {asked}; features: pooled trunk, step {checkpoint.step:,}"
    )
    sets = list(dict.fromkeys(r.features for r in rows))
    by = {(r.features, r.protocol, r.k, r.T): r.score for r in rows}
    console.table(
        ("protocol", "k", "T", *sets, f"95 % of {sets[0]}"),
        [
            (r.protocol, str(r.k) if r.k <= voters else f"{r.k} (all {voters})", f"{r.T:g}",
             *(f"{by[s, r.protocol, r.k, r.T].top1:.1%}" for s in sets), between(r.score))
            for r in rows if r.features == sets[0]
        ],
    )
    if args.how.per_class:
        console.say(f"{shown.protocol}, k {shown.k}, T {shown.T:g}:")
        print_classes(shown.score)


def linear(argv: list[str]) -> None:
    """fastmoco linear CHECKPOINT TRAIN VAL"""
    from fastmoco.commands.evaluation_flags import LinearArgs
    from fastmoco.terminal.parse import parse

    args = parse(LinearArgs, argv, "linear")
    from fastmoco.evaluation.linear import Settings, linear
    from fastmoco.evaluation.linear_on_features import quick
    from fastmoco.terminal import console

    settings = Settings(args.lr, args.epochs, args.batch, args.labels, args.seed)
    settings.check()
    checkpoint, how, (train, val) = begin(
        args.checkpoint, (args.train, args.val), args.how, ranks=args.quick
    )
    evaluate = quick if args.quick else linear
    found = evaluate(checkpoint, train, val, how, settings, args.companions)
    if how.ranks.rank:
        return
    if args.how.json:
        print(shown_json(about(args, checkpoint) | dataclasses.asdict(found)))
        return
    console.say(found.protocol)
    print_data(found.labelled, len(train), len(val), checkpoint.step, found.held_out)
    if found.trunk:
        console.say(found.trunk)
    console.table(
        ("features", "lr", "held out", "top-1", "95 %", "top-5"),
        [
            (r.features, f"{r.rate:g}", percent(r.held_out.get(r.rate)), *figures(r.score))
            for r in found.rows
        ],
    )
    for row in found.rows:
        if len(row.held_out) > 1:
            rates = ", ".join(
                f"{rate:g}: {'diverged' if share is None else percent(share)}"
                for rate, share in row.held_out.items()
            )
            console.say(f"held out, {row.features}, by lr: {rates}")
    if args.how.per_class:
        print_classes(found.rows[0].score)


def finetune(argv: list[str]) -> None:
    """fastmoco finetune CHECKPOINT TRAIN VAL"""
    from fastmoco.commands.evaluation_flags import FinetuneArgs
    from fastmoco.terminal.parse import parse

    args = parse(FinetuneArgs, argv, "finetune")
    from fastmoco.evaluation.finetune import Settings, finetune
    from fastmoco.terminal import console

    settings = Settings(args.labels, args.lr, args.head_lr, args.epochs, args.batch, args.seed)
    settings.check()
    checkpoint, how, (train, val) = begin(
        args.checkpoint, (args.train, args.val), args.how, ranks=False
    )
    found = finetune(checkpoint, train, val, how, settings, args.companions)
    if args.how.json:
        print(shown_json(about(args, checkpoint) | dataclasses.asdict(found)))
        return
    console.say(found.protocol)
    print_data(found.labelled, len(train), len(val), checkpoint.step)
    console.table(
        ("encoder", "top-1", "95 %", "top-5"),
        [(name, *figures(score)) for name, score in found.rows.items()],
    )
    if args.how.per_class:
        print_classes(next(iter(found.rows.values())))


def embed(argv: list[str]) -> None:
    """fastmoco embed CHECKPOINT DATA"""
    from fastmoco.commands.evaluation_flags import EmbedArgs
    from fastmoco.terminal.parse import parse

    args = parse(EmbedArgs, argv, "embed")
    from fastmoco.draws import check_seed
    from fastmoco.evaluation.feature_cache import features_of
    from fastmoco.evaluation.feature_files import check_name, write_features
    from fastmoco.evaluation.features import load_encoder
    from fastmoco.reporting.neighbour_sheet import check_sheet, draw_neighbours
    from fastmoco.terminal import console

    if args.out is None and args.neighbours is None:
        raise UserError("embed: give --out F.npy or F.parquet, or --neighbours SHEET.png")
    check_seed(args.seed)
    if args.out is not None:
        check_name(args.out)
    if args.neighbours is not None:
        check_sheet(args.neighbours)
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


def begin(
    checkpoint: Path, data: Iterable[Path | None], flags: HowFlags, ranks: bool = True
) -> tuple[Checkpoint, Extraction, list[Any]]:
    """What every evaluation opens: the checkpoint, the way to extract, a store a path.

    ranks: whether the work can be shared out among the processes that torchrun started.
    """
    from data_tools.open import open_store
    from data_tools.progress import silent
    from data_tools.safe_reading.checksum import unsaid
    from fastmoco.evaluation.feature_cache import Extraction
    from fastmoco.system.device import pick_device
    from fastmoco.system.ranks import join
    from fastmoco.terminal import console
    from fastmoco.weights.open import open_checkpoint

    if flags.threads < 0:
        raise UserError(f"--threads {flags.threads}: give 1 or more, or 0 for all cores")
    quiet = bool(getattr(flags, "json", False))
    device = pick_device(flags.device)
    loaded = viewed(open_checkpoint(checkpoint, device), flags)
    joined = join()
    if joined.size > 1 and not (ranks and flags.keep):
        raise UserError("torchrun: this evaluation works on one device; start it without torchrun")
    quiet = quiet or joined.rank > 0
    for line in (loaded.origin, loaded.note):
        if line and not quiet:
            console.say(f"{checkpoint}: {line}")
    if joined.rank > 0:
        joined.barrier()  # the first prepares what is not prepared yet
    stores = [None if p is None else open_store(datasets.prepared(p, quiet)) for p in data]
    if joined.rank == 0:
        joined.barrier()
    how = Extraction(
        device, flags.threads, flags.engine, flags.keep, joined,
        silent if quiet else console.progress, unsaid if quiet else console.say,
    )
    return loaded, how, stores


def viewed(saved: Checkpoint, flags: HowFlags) -> Checkpoint:
    """The checkpoint with the view that --size, --mean and --std ask for."""
    from fastmoco.recipe import replace

    if flags.size < 0:
        raise UserError(f"--size {flags.size}: give a side in pixels")
    recipe = replace(saved.recipe, eval_size=flags.size or saved.recipe.eval_size)
    for name in ("mean", "std"):
        values = getattr(flags, name)
        if not values:
            continue
        good = len(values) == 3 and all(0 <= v <= 1 for v in values)
        if not good or (name == "std" and 0 in values):
            raise UserError(f"--{name} {' '.join(map(str, values))}: give three numbers, 0 to 1")
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, **{name: values}))
    return replace(saved, recipe=recipe)


def about(args: KnnArgs | LinearArgs | FinetuneArgs, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a result is of: the weights by their digest, which a model card looks for."""
    from fastmoco.weights.checkpoint import trunk_digest

    return {
        "checkpoint": str(args.checkpoint), "step": checkpoint.step,
        "weights": trunk_digest(checkpoint),
        "size": checkpoint.recipe.eval_size or checkpoint.recipe.size,
        "data": [str(p) for p in (args.train, args.val) if p is not None],
    }


def brief(score: Score) -> dict[str, float]:
    """A score without its classes."""
    return {"top1": score.top1, "low": score.low, "high": score.high}


def between(score: Score) -> str:
    """The interval."""
    return f"{100 * score.low:.1f} to {100 * score.high:.1f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def figures(score: Score) -> tuple[str, str, str]:
    """top-1, its interval, top-5."""
    return percent(score.top1), between(score), percent(score.top5)


def print_data(labelled: int, train: int, val: int, step: int, held_out: int = 0) -> None:
    """What was learnt from and scored on."""
    from fastmoco.terminal import console

    held = f", {held_out:,} of them held out to choose the rate" if held_out else ""
    console.say(
        f"labels of {labelled:,} of {train:,} images{held}; scored on {val:,}; step {step:,}; the "
        f"95 % interval is a bootstrap over the images scored"
    )


def print_classes(score: Score) -> None:
    """Each class, and a confusion table, or of many classes the pairs most often confused."""
    from fastmoco.terminal import console

    console.table(
        ("class", "images", "right", "of those named so"),
        [(c.name, f"{c.images:,}", percent(c.right), percent(c.precise)) for c in score.classes],
    )
    names = [c.name for c in score.classes]
    if len(names) <= MOST_CLASSES:
        count = {(true, predicted): n for true, predicted, n in score.confusion}
        console.table(
            ("is \\ named", *(name[:8] for name in names)),
            [
                (name, *(str(count.get((true, predicted), 0)) for predicted in range(len(names))))
                for true, name in enumerate(names)
            ],
        )
        return
    wrong = sorted((c for c in score.confusion if c[0] != c[1]), key=lambda c: -c[2])
    console.table(
        ("is", "named", "images"),
        [(names[true], names[predicted], f"{n:,}") for true, predicted, n in wrong[:MOST_PAIRS]],
    )
