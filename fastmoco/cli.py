"""The command line: parse, one library call, show. Heavy imports wait until they are needed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import escaped, shown_json
from data_tools.safe_reading.limits import MEMORY, check_memory, limit, reason
from fastmoco import __version__
from fastmoco.commands import bench, datasets, evaluations, reports, weights

if TYPE_CHECKING:
    from fastmoco.run_options import RunOptions
    from fastmoco.terminal.parse import TrainArgs

HELP = f"""fastmoco {__version__}: pre-train MoCo v1 and v2 encoders on your own images

usage: fastmoco COMMAND ... (fastmoco COMMAND --help tells its flags)

  prep SOURCE OUT              any image dataset, into FFCV's, DALI's or WebDataset's format
  verify PATH                  is it whole? every checksum, every image; also files of others
  inspect PATH                 what it holds: classes, sizes, colours, duplicates; --sheet draws
  views DATA --out views.png   a contact sheet: sources with their two windows, q and k
  bench DATA                   images/s stage by stage, what binds, what to change
  train DATA --recipe moco-v2  pre-train; --resume goes on to the same bits
  knn CHECKPOINT TRAIN VAL     weighted kNN of a checkpoint's features; without VAL leave one out
  linear CHECKPOINT TRAIN VAL  a linear classifier on the frozen trunk; --quick takes minutes
  finetune CHECKPOINT TRAIN VAL --labels 1%   trunk and classifier, on few labels or all
  embed CHECKPOINT DATA --out F.npy           features as a file; --neighbours draws what is alike
  export CHECKPOINT --to timm  weights for torchvision, timm, Hugging Face, detectron2, ONNX ...
  report RUN                   one HTML page about a run
  compare RUN...               runs side by side, and the spread over seeds
  doctor                       what this machine has, how fast it is, what to install
  selftest                     does this installation compute what it should? a few seconds

Every command exits with 2 and one line where its input is at fault.
"""


BALLAST = 32 << 20  # bytes
# Commands whose memory grows with a batch
WITH_BATCH = ("train", "bench", "linear", "finetune")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    escape_unshowable()
    argv = list(sys.argv[1:] if argv is None else argv)
    argv = argv or ["--help"]
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "prep": datasets.prep, "verify": datasets.verify, "inspect": datasets.inspect,
        "views": views, "bench": bench.bench, "train": train, "knn": evaluations.knn,
        "linear": evaluations.linear, "finetune": evaluations.finetune,
        "embed": evaluations.embed,
        "export": weights.export, "selftest": weights.selftest,
        "report": reports.report, "compare": reports.compare, "doctor": reports.doctor,
    }
    # Given back when memory runs out, so that there is some to say it in and to end with.
    ballast = bytearray(0 if limit(MEMORY) is None else BALLAST)
    try:
        if argv[0] in ("-h", "--help", "help"):
            return flushed(lambda _: print(HELP, end=""), [])
        if argv[0] in ("-V", "--version"):
            made_by = f"fastmoco {__version__}, torch {version('torch')}, Python {python_version()}"
            return flushed(lambda _: print(made_by), [])
        if argv[0] not in commands:
            raise UserError(f"no command {argv[0]!r}; there are {', '.join(commands)}")
        check_memory()
        command = commands[argv[0]]
        if several_ranks():
            if argv[0] not in ("train", "knn", "linear", "embed"):
                raise UserError(f"{argv[0]} is for one process: start it without torchrun")
            from fastmoco.system.ranks import as_one

            command = as_one(command)
        return flushed(command, argv[1:])
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return 1
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        ballast.clear()
        if isinstance(error, OSError) and not error.filename and (why := _lost_output()):
            return _fail(f"standard output: {why}; what was printed is not complete")
        line = _machine_line(argv[0], error)
        if not line:
            raise
        return _fail(line)
    except KeyboardInterrupt:
        return 130


def escape_unshowable() -> None:
    """From now on, print escapes what the terminal's encoding lacks: a name of a class, a byte of a
    file name that is no UTF-8. No command may fail because of it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flushed(command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """The exit code of a command whose output has been written, not just buffered: at exit a
    failure to write would be a traceback."""
    try:
        code = command(argv) or 0
    except SystemExit:  # after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def several_ranks() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _fail(text: str) -> int:
    line = escaped(" ".join(text.split()))
    sys.stderr.write(f"fastmoco: {line if len(line) < 400 else line[:400] + '...'}\n")
    return 2


def _lost_output() -> str:
    """Why standard output takes no more, and it is given up then; empty if it does. An error of
    print does not name its file, and its buffer may have dropped what it could not write: hence
    another line."""
    try:
        print(flush=True)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())  # so that the flush at exit succeeds
            os.close(null)
        return error.strerror or str(error)
    return ""


def _machine_line(command: str, error: Exception) -> str:
    """What to tell of an error that the machine is the cause of; empty for any other."""
    short = reason(error)
    if short:
        file = getattr(error, "filename", None)
        return f"{file}: {short}" if file else short
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if not _is_out_of_memory(error):
        return ""
    smaller = "--batch, --size or --K" if command in ("train", "bench") else "--batch or --size"
    remedy = f": use a smaller {smaller}" if command in WITH_BATCH else ""
    return f"out of memory{remedy}" + (f" ({error})" if str(error) else "")


def _is_out_of_memory(error: Exception) -> bool:
    # torch's error is known by its words: importing torch here would slow every --help
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(w in str(error) for w in words)


def views(argv: list[str]) -> None:
    """fastmoco views DATA --out FILE"""
    from fastmoco.terminal.parse import ViewsArgs, parse

    args = parse(ViewsArgs, argv, "views")
    from fastmoco.reporting.views import views
    from fastmoco.terminal import console

    ids = views(
        datasets.prepared(args.data), args.out, args.recipe.plain(), args.count, args.epoch
    )
    console.say(f"{args.out}: {len(ids)} images with their two windows, and both views")


def train(argv: list[str]) -> None:
    """fastmoco train DATA"""
    begun = time.monotonic()  # a budget holds the imports and preparing too
    from fastmoco.terminal.parse import TrainArgs, parse

    args = parse(TrainArgs, argv, "train")
    if args.dry_run or args.memory:
        return dry_run(args)
    from fastmoco.run_options import default_out
    from fastmoco.runs.lock import own_run

    options = args.options
    if not options.out:  # named after what the user typed, not after a cache
        options = dataclasses.replace(options, out=default_out(args.data, args.recipe))
    with own_run(options.out, options.resume, lambda line: print(line, file=sys.stderr)):
        train_in(args, argv, options, begun)


def train_in(args: TrainArgs, argv: list[str], options: RunOptions, begun: float) -> None:
    """Train in the run directory options.out, which this process holds."""
    from data_tools.open import is_store
    from fastmoco.terminal import live_panel
    from fastmoco.terminal.parse import TrainArgs, parse
    from fastmoco.training.train import train
    from fastmoco.weights.checkpoint import load

    if options.resume:  # the run knows its recipe; flags given again must agree with it
        args = parse(TrainArgs, argv, "train", load(options.out).recipe)
    recipe = args.recipe.plain()
    quiet = args.json or os.environ.get("RANK", "0") != "0"
    for path in (args.data, *([Path(options.val)] if options.val else [])):
        if several_ranks() and path.is_dir() and not is_store(path):  # they would all prepare it
            raise UserError(f"{path} is not prepared: run fastmoco prep {path} OUT, train on OUT")
    data = datasets.prepared(args.data, quiet)
    if options.val:
        options = dataclasses.replace(options, val=str(datasets.prepared(Path(options.val), quiet)))
    try:
        if quiet:
            train(data, recipe, options, [live_panel.print_event_json], begun)
        else:
            with live_panel.live_run() as listener:
                train(data, recipe, options, [listener], begun)
        return
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        limited = reason(error).removeprefix("out of memory").removeprefix(": ")
    # here, where the failed step's tensors are gone
    from data_tools.open import open_store
    from fastmoco.measuring.dry_run import out_of_memory

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    line = out_of_memory(recipe, open_store(data), options, ranks)
    raise UserError(line + (f"; {limited}" if limited else ""))


def dry_run(args: TrainArgs) -> None:
    """fastmoco train DATA --dry-run"""
    if not args.dry_run:
        raise UserError("--memory goes with --dry-run")
    from data_tools.open import open_store
    from data_tools.quantities import parse_size
    from fastmoco.measuring.dry_run import dry_run
    from fastmoco.terminal import console

    room = parse_size(args.memory, "--memory") if args.memory else None
    store = open_store(datasets.prepared(args.data, quiet=args.json))
    with console.progress("walking through steps", "steps") as tick:
        found = dry_run(
            args.recipe.plain(), store, args.options, room, None if args.json else tick
        )
    if args.json:
        totals = {"bytes": found.estimate.bytes}
        print(shown_json(dataclasses.asdict(found) | totals))
    else:
        console.print_dry_run(found)
