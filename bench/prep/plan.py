"""What `prep --plan` predicts against what then happens.

    python -m bench.prep.plan [FOLDER] [--out RESULT.json]

FOLDER holds JPEGs, at any depth; without it the demo's images are drawn. The plan is made once;
then the source is really prepared and loaded in its ways, five interleaved rounds, medians. Bytes
are promised within 5 %, rates within 25 %. The machine must be as quiet during the plan as after.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.demo.images import generate
from bench.prep.speed import repeat
from bench.shared.command import Flags, finish
from data_tools.formats.registry import FORMATS
from data_tools.open import open_store
from data_tools.planning.plan import Plan, plan, ways
from data_tools.planning.plan_text import lines
from data_tools.policy import Policy
from data_tools.prepare import prepare
from fastmoco.measuring.load_rate import load_rate
from fastmoco.system.device import pick_device
from fastmoco.system.hardware import describe
from fastmoco.system.versions import versions
from fastmoco.terminal.console import progress, say, table

BYTES_WITHIN, RATES_WITHIN = 0.05, 0.25
LOAD_SECONDS = 2.0


def happened(source: Path, work: Path, chosen: Plan, rounds: int) -> dict[str, list[list[float]]]:
    """(bytes, images/s prepared, images/s loaded) of each row, round after round."""
    policies = {name: policy for name, _, policy in ways(Policy())}
    found: dict[str, list[list[float]]] = {row.name: [] for row in chosen.rows}
    for number in range(rounds):
        for row in chosen.rows:
            out = work / "out"
            begun = time.perf_counter()
            manifest = prepare(source, out, policies[row.name])
            rate = manifest.samples / (time.perf_counter() - begun)
            size = sum(manifest.files[name].bytes for name in manifest.data)
            found[row.name].append([size, rate, load_rate(open_store(out), LOAD_SECONDS)])
            shutil.rmtree(out)
        say(f"round {number + 1} of {rounds} is done")
    return found


def sizes_of_formats(source: Path, work: Path) -> dict[str, tuple[int, int]]:
    """(predicted, real) bytes of the unchanged source in each format."""
    prepare(source, work / "all", Policy(), sorted(FORMATS))
    found = {}
    for form in sorted(FORMATS):
        real = sum(path.stat().st_size for path in (work / "all" / form).iterdir()
                   if path.suffix in (".beton", ".tfrecord", ".rec", ".tar"))
        found[form] = plan(source, form=form, load=lambda store: 1.0).rows[0].bytes, real
    return found


def main() -> int:
    """Predict, then do; exit 1 where a promise is not kept."""
    parser = Flags(__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=2400, help="at least so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if args.folder is None:
            say("no photographs given: drawing the demo's images")
            generate(work / "drawn", seed=0, train=600, val=12)
        source = work / "photographs"
        repeat(args.folder or work / "drawn" / "train", source, args.images)
        with progress("measuring", "trials") as tick:
            chosen = plan(source, load=load_rate, out=work, progress=tick)
        for line in lines(chosen):
            say(line)
        found = happened(source, work, chosen, args.rounds)
        formats = sizes_of_formats(source, work)
    rows, missed = [], []
    for row in chosen.rows:
        real = [statistics.median(values) for values in zip(*found[row.name], strict=True)]
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
        content = {
            "images": chosen.images, "sampled": chosen.sampled, "rounds": args.rounds,
            "predicted": {row.name: [row.bytes, row.prepare_rate, row.load_rate]
                          for row in chosen.rows},
            "happened": found, "formats": formats, "missed": missed,
            "machine": describe(pick_device("auto")), "platform": platform.platform(), **versions(),
        }  # fmt: skip
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    for name in missed:
        say(f"not met: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    finish(main)
