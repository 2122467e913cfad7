"""The command line: parse, one library call, show. Heavy imports wait until they are needed."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from platform import python_version

from data_tools.errors import UserError, escaped, one_line
from data_tools.safe_reading.limits import MEMORY, check_memory, limit, reason
from fastmoco import __version__
from fastmoco.system.process import is_out_of_memory, several_ranks

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


# Verb: the file of commands/ that holds its flags and its work.
COMMANDS = {
    "prep": "prep", "verify": "verify", "inspect": "inspect_data", "views": "views",
    "bench": "bench", "train": "train", "knn": "knn", "linear": "linear", "finetune": "finetune",
    "embed": "embed", "export": "export", "report": "report", "compare": "compare",
    "doctor": "doctor", "selftest": "selftest",
}
BALLAST = 32 << 20  # bytes
# Commands whose memory grows with a batch
WITH_BATCH = ("train", "bench", "linear", "finetune")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    escape_unshowable()
    argv = list(sys.argv[1:] if argv is None else argv)
    argv = argv or ["--help"]
    # Given back when memory runs out, so that there is some to say it in and to end with.
    ballast = bytearray(0 if limit(MEMORY) is None else BALLAST)
    try:
        if argv[0] in ("-h", "--help", "help"):
            return flushed(lambda _: print(HELP, end=""), [])
        if argv[0] in ("-V", "--version"):
            made_by = f"fastmoco {__version__}, torch {version('torch')}, Python {python_version()}"
            return flushed(lambda _: print(made_by), [])
        if argv[0] not in COMMANDS:
            raise UserError(f"no command {argv[0]!r}; there are {', '.join(COMMANDS)}")
        check_memory()
        command = command_of(argv[0])
        if several_ranks():
            if argv[0] not in ("train", "knn", "linear", "embed"):
                raise UserError(f"{argv[0]} is for one process: start it without torchrun")
            from fastmoco.system.torchrun import as_one

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


def command_of(verb: str) -> Callable[[list[str]], int | None]:
    """The function of a verb. Its file is imported now, so that --help imports none of them."""
    return getattr(importlib.import_module(f"fastmoco.commands.{COMMANDS[verb]}"), verb)


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


def _fail(text: str) -> int:
    line = escaped(text)
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
        return f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
    if not is_out_of_memory(error):
        return ""
    smaller = "--batch, --size or --K" if command in ("train", "bench") else "--batch or --size"
    remedy = f": use a smaller {smaller}" if command in WITH_BATCH else ""
    return f"out of memory{remedy}" + (f" ({one_line(error)})" if str(error) else "")
