"""Compares the predictions of `prep --plan` with real prep and loading.

    python -m bench.prep.plan [FOLDER] [--out RESULT.json]

FOLDER holds JPEGs, at any depth; without it the demo's images are drawn. The plan is made once.
Then every row of it is prepared and loaded in five interleaved rounds; medians count. Bytes must
be within 5 % of the prediction, rates within 25 %. The machine must be as quiet during the plan as
after it.
"""

from __future__ import annotations

from pathlib import Path

from bench.shared.command import Flags, finish

with Flags(__name__, __doc__) as flags:
    flags.add_argument("folder", type=Path, nargs="?", help="folder of JPEGs")
    flags.add_argument("--images", type=int, default=2400,
                       help="least number of images; the JPEGs are repeated [default: 2400]")
    flags.add_rounds(5)
    flags.add_out()

import shutil
import tempfile
import time
from functools import partial

from bench.demo.photographs import drawn, repeat
from bench.shared.promises import not_met
from bench.shared.results import environment, write_json
from bench.shared.rounds import alternate, spread
from data_tools.formats.registry import FORMATS
from data_tools.open import open_store
from data_tools.planning.plan import Plan, plan, ways
from data_tools.planning.plan_text import lines
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco.measuring.load_rate import load_rate
from fastmoco.system.device import pick_device
from fastmoco.terminal.console import progress, say, table

BYTES_WITHIN, RATES_WITHIN = 0.05, 0.25
LOAD_SECONDS = 2.0


def happened(source: Path, work: Path, chosen: Plan, rounds: int) -> dict[str, list[list[float]]]:
    """Return [bytes, images/s prepared, images/s loaded] of each row of the plan, per round."""
    policies = {name: policy for name, _, policy in ways(Policy())}

    def one(policy: Policy) -> list[float]:
        out = work / "out"
        started = time.perf_counter()
        manifest = prepare(source, out, policy)
        rate = manifest.samples / (time.perf_counter() - started)
        size = sum(manifest.files[name].bytes for name in manifest.data)
        found = [size, rate, load_rate(open_store(out), LOAD_SECONDS)]
        shutil.rmtree(out)
        return found

    return alternate({row.name: partial(one, policies[row.name]) for row in chosen.rows}, rounds)


def sizes_of_formats(source: Path, work: Path) -> dict[str, tuple[int, int]]:
    """Return the predicted and the real bytes of the unchanged source in each format."""
    prepare(source, work / "all", Policy(), sorted(FORMATS))
    found = {}
    for form in sorted(FORMATS):
        real = sum(path.stat().st_size for path in (work / "all" / form).iterdir()
                   if path.suffix in (".beton", ".tfrecord", ".rec", ".tar"))
        found[form] = plan(source, form=form, load=lambda store: 1.0).rows[0].bytes, real
    return found


def main() -> int:
    """Predict, measure, print; return 1 if a prediction is too far off."""
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = work / "photographs"
        repeat(args.folder or drawn(work, 600), source, args.images)
        with progress("measuring", "trials") as tick:
            chosen = plan(source, load=load_rate, out=work, progress=tick)
        for line in lines(chosen):
            say(line)
        found = happened(source, work, chosen, args.rounds)
        formats = sizes_of_formats(source, work)
    rows, missed = [], []
    for row in chosen.rows:
        real = [spread(values)[0] for values in zip(*found[row.name], strict=True)]
        predicted = (row.bytes, row.prepare_rate, row.load_rate)
        off = [p / r - 1 for p, r in zip(predicted, real, strict=True)]
        allowed = (BYTES_WITHIN, RATES_WITHIN, RATES_WITHIN)
        names = ("bytes", "prepare rate", "load rate")
        missed += [f"{row.name}: {name} {o:+.0%}"
                   for name, o, most in zip(names, off, allowed, strict=True) if abs(o) > most]
        rows.append((row.name, f"{real[0] / 1e6:,.1f} MB", f"{off[0]:+.1%}", f"{real[1]:,.0f}",
                     f"{off[1]:+.0%}", f"{real[2]:,.0f}", f"{off[2]:+.0%}"))
    heads = ("way", "really", "predicted", "prep img/s", "predicted", "load img/s", "predicted")
    table(heads, rows)
    for form, (predicted_size, real_size) in formats.items():
        off_by = predicted_size / real_size - 1
        say(f"as given, {form}: {real_size / 1e6:,.1f} MB, predicted {off_by:+.1%}")
        missed += [f"{form}: bytes {off_by:+.0%}"] if abs(off_by) > BYTES_WITHIN else []
    if args.out:
        write_json(args.out, {
            "images": chosen.images, "sampled": chosen.sampled, "rounds": args.rounds,
            "predicted": {row.name: [row.bytes, row.prepare_rate, row.load_rate]
                          for row in chosen.rows},
            "happened": found, "formats": formats, "missed": missed,
            **environment(pick_device("auto")),
        })  # fmt: skip
    return not_met(missed)


if __name__ == "__main__":
    finish(main)
