"""Measures every evaluation of one CIFAR-10 encoder, next to the untrained one and raw pixels.

    python -m bench.learning.evaluate_cifar FOLDER [--run RUN] [--epochs 13] [--official-epochs 100]

FOLDER holds cifar10-train.tar and cifar10-test.tar (CIFAR-10 as JPEGs, split/class/number.jpg).
moco-cifar-mini trains an encoder, or --run gives one. The evaluations are: kNN; linear evaluation
on cached features with all labels, 10 % and 1 %; scikit-learn's logistic regression on the same
features; fine-tuning on 10 % and 1 %; the official linear protocol, from images. Seconds cover the
evaluation of the encoder and its companions; the first evaluation also extracts the features.

Exits with 1 if an evaluation of the encoder is not 5 points above both companions, if one on cached
features took more than three minutes, or if logistic regression differs by a point.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, help="folder of both tars")
    flags.add_argument("--run", type=Path, help="a finished run on CIFAR-10 [default: train one]")
    flags.add_argument("--epochs", type=int, default=13,
                       help="epochs of pre-training [default: 13]")
    flags.add_argument("--official-epochs", type=int, default=100,
                       help="epochs of the official protocol; 0 leaves it out [default: 100]")
    flags.add_argument("--finetune-epochs", type=int, default=0,
                       help="epochs of fine-tuning; 0: the protocol's own number [default: 0]")
    flags.add_out()

import argparse
import dataclasses
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np

from bench.shared.promises import not_met
from bench.shared.results import environment, write_json
from data_tools.open import open_store
from data_tools.prepare import prepare
from data_tools.quantities import duration
from data_tools.store import Store
from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.evaluation.finetune import finetune
from fastmoco.evaluation.knn import PROTOCOLS, knn
from fastmoco.evaluation.labels import held_out
from fastmoco.evaluation.linear import HELD_OUT, linear
from fastmoco.evaluation.linear_on_features import quick
from fastmoco.recipe import RECIPES
from fastmoco.run_options import RunOptions
from fastmoco.settings.classifiers import FinetuneSettings, LinearSettings
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import progress, say, table
from fastmoco.terminal.live_panel import print_event
from fastmoco.training.train import train
from fastmoco.weights.checkpoint import Checkpoint, load
from fastmoco.weights.encoders import load_encoder

MARGIN = 0.05
MOST_SECONDS = 180  # for an evaluation on cached features
FROM_IMAGES = "fine-tuned", "official"  # the names of evaluations from images start with these
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # values of C to try in logistic regression

Top1 = dict[str, float]
"""Top-1 accuracy by the name of the features."""


class Results:
    """The evaluations by name, with figures and seconds; the file is written after each."""

    def __init__(self, out: Path | None, about: dict) -> None:
        self.rows: dict[str, dict] = {}
        self._out, self._about = out, about

    def measure(self, name: str, evaluate: Callable[[], tuple[Top1, str]]) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        top1, protocol = evaluate()
        self.rows[name] = {
            "top1": top1, "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu, "protocol": protocol,
        }
        found = ", ".join(f"{k} {v:.2%}" for k, v in top1.items())
        say(f"{name}: {found} in {duration(self.rows[name]['seconds'])} ({protocol})")
        if self._out:
            write_json(self._out, {"evaluations": self.rows, **self._about})

    def failures(self) -> list[str]:
        """Return a line for each goal that was not met."""
        missed = []
        for name, row in self.rows.items():
            top1 = row["top1"]
            others = [v for k, v in top1.items() if k in ("at step 0", "raw pixels")]
            if others and top1["trained"] < max(others) + MARGIN:
                missed.append(f"{name}: {top1['trained']:.2%} is not {MARGIN:.0%} above {others}")
            if not name.startswith(FROM_IMAGES) and row["cpu_seconds"] > 2 * MOST_SECONDS:
                missed.append(f"{name}: {row['cpu_seconds']:.0f} s of two cores' time")
            if "logistic regression" in top1:
                gap = abs(top1["trained"] - top1["logistic regression"])
                if gap > 0.01:
                    missed.append(f"{name}: {gap:.2%} from logistic regression")
        return missed


def main() -> int:
    """Prepare, train or load a run, evaluate; return 1 if a goal was not met."""
    args = flags.parse_args()
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for split in ("train", "test"):
            prepare(args.folder / f"cifar10-{split}.tar", work / split)
        stores = open_store(work / "train"), open_store(work / "test")
        if args.run is None:
            recipe = dataclasses.replace(RECIPES["moco-cifar-mini"], epochs=args.epochs)
            options = RunOptions(out=str(work / "run"), log_every=200)
            checkpoint = train(work / "train", recipe, options, [print_event])
        else:
            checkpoint = load(args.run, device)
        about = {
            "recipe": dataclasses.asdict(checkpoint.recipe), "step": checkpoint.step,
            **environment(device),
        }
        how = Extraction(device, progress=progress)
        results = Results(args.out, about)
        evaluate_all(checkpoint, *stores, how, args, results)
    table(
        ("top-1", "trained", "at step 0", "raw pixels", "logistic regr.", "s", "CPU s"),
        [
            (
                name,
                *(
                    f"{row['top1'][k]:.2%}" if k in row["top1"] else ""
                    for k in ("trained", "at step 0", "raw pixels", "logistic regression")
                ),
                f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}",
            )
            for name, row in results.rows.items()
        ],
    )
    return not_met(results.failures())


def evaluate_all(
    checkpoint: Checkpoint, bank: Store, val: Store, how: Extraction, args: argparse.Namespace,
    results: Results,
) -> None:
    """Run every evaluation, the quick ones first."""

    def neighbours() -> tuple[Top1, str]:
        rows = knn(checkpoint, bank, val, how.device, protocols=PROTOCOLS, how=how)
        top1 = {r.features: r.top1 for r in rows if (r.protocol, r.k) == ("DINO", 20)}
        return top1, "DINO's k 20, T 0.07"

    def probe(labels: str) -> Callable[[], tuple[Top1, str]]:
        def evaluate() -> tuple[Top1, str]:
            settings = LinearSettings(labels=labels)
            found = quick(checkpoint, bank, val, how, settings, companions=True)
            return {r.features: r.score.top1 for r in found.rows}, found.protocol

        return evaluate

    def regression() -> tuple[Top1, str]:
        ours = quick(checkpoint, bank, val, how).rows[0].score.top1
        theirs, C = logistic_regression(checkpoint, bank, val, how)
        return {"trained": ours, "logistic regression": theirs}, f"the same features, C {C:g}"

    def tuned(labels: str) -> Callable[[], tuple[Top1, str]]:
        def evaluate() -> tuple[Top1, str]:
            settings = FinetuneSettings(labels, epochs=args.finetune_epochs)
            found = finetune(checkpoint, bank, val, how, settings, companions=True)
            return {name: score.top1 for name, score in found.rows.items()}, found.protocol

        return evaluate

    def official() -> tuple[Top1, str]:
        settings = LinearSettings(epochs=args.official_epochs)
        found = linear(checkpoint, bank, val, how, settings, companions=True)
        say(found.trunk)
        return {r.features: r.score.top1 for r in found.rows}, found.protocol

    results.measure("kNN", neighbours)
    for labels in ("1%", "10%", "all"):
        results.measure(f"linear, quick, {labels}", probe(labels))
    results.measure("against scikit-learn", regression)
    for labels in ("1%", "10%"):
        results.measure(f"fine-tuned, {labels}", tuned(labels))
    if args.official_epochs:
        results.measure("official linear", official)


def logistic_regression(
    checkpoint: Checkpoint, bank: Store, val: Store, how: Extraction
) -> tuple[float, float]:
    """Return scikit-learn's top-1 on the standardised cached features, and its C.

    C is the one of CS that is best on the same held-out part that `fastmoco linear` uses.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    encoder = load_encoder(checkpoint, how.device)
    x, y = (features_of(encoder, s, checkpoint.recipe, how).numpy() for s in (bank, val))
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, y = (x - mean) / deviation, (y - mean) / deviation
    fit, held = held_out(bank.labels, HELD_OUT, 0)

    def fitted(C: float, ids: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=C, max_iter=200).fit(x[ids], bank.labels[ids])

    best = max(CS, key=lambda C: fitted(C, fit).score(x[held], bank.labels[held]))
    return float(fitted(best, np.arange(len(x))).score(y, val.labels)), best


if __name__ == "__main__":
    finish(main)
