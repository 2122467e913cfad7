"""The command line: a table of the commands, and errors as one line with an exit code.

No command is imported before it is needed, so that --help is fast.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from platform import python_version
from types import ModuleType

from data_tools.errors import UserError, escaped, one_line
from data_tools.safe_reading.limits import MEMORY, check_memory, limit, reason
from fastmoco import __version__
from fastmoco.system.process import is_out_of_memory, several_ranks


@dataclass(frozen=True)
class Command:
    """One row of the table of commands."""

    module: str
    """File in commands/ that has its flags and its work."""
    usage: str
    """Positions and required flags."""
    line: str
    """Purpose in one line."""


COMMANDS = {
    "prep": Command("prep", "SOURCE [OUT]", "convert any image dataset for fast training"),
    "verify": Command("verify", "PATH", "check every checksum and every image"),
    "inspect": Command("inspect_data", "PATH", "classes, sizes, colours, duplicates"),
    "views": Command("views", "DATA", "a contact sheet of images and their views"),
    "bench": Command("bench", "DATA", "measure each stage, suggest what to change"),
    "train": Command("train", "DATA", "pre-train an encoder; --resume continues"),
    "knn": Command("knn", "CHECKPOINT TRAIN [VAL]", "accuracy of nearest neighbours"),
    "linear": Command("linear", "CHECKPOINT TRAIN VAL", "accuracy of a linear classifier"),
    "finetune": Command("finetune", "CHECKPOINT TRAIN VAL", "train the encoder on labels"),
    "embed": Command("embed", "CHECKPOINT DATA", "write features, or draw neighbours"),
    "export": Command("export", "CHECKPOINT --to SYSTEM", "weights for timm, ONNX and others"),
    "report": Command("report", "RUN", "one HTML page about a run"),
    "compare": Command("compare", "RUN [RUN ...]", "runs side by side, spread over seeds"),
    "doctor": Command("doctor", "", "hardware, speed and missing packages"),
    "selftest": Command("selftest", "", "check that results are correct here"),
}
GROUPS = {
    "data": ("prep", "verify", "inspect", "views"),
    "training": ("bench", "train"),
    "the trained encoder": ("knn", "linear", "finetune", "embed", "export"),
    "runs": ("report", "compare"),
    "this machine": ("doctor", "selftest"),
}
OTHERS = {
    "fastmoco help COMMAND": "the flags of a command",
    "fastmoco --completion SHELL": "completion for bash, zsh or fish",
    "fastmoco --version": "versions of fastmoco, torch and Python",
}
SHELLS = ("bash", "zsh", "fish")
HELP_WORDS, VERSION_WORDS = ("help", "-h", "--help"), ("-V", "--version")
OTHER_WORDS = (*HELP_WORDS, *VERSION_WORDS, "--completion")
BALLAST = 32 << 20  # bytes
# Commands whose memory grows with the batch
WITH_BATCH = ("train", "bench", "linear", "finetune")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    escape_unshowable()
    argv = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    # Freed when memory runs out, to leave some for the error message and the exit.
    ballast = bytearray(0 if limit(MEMORY) is None else BALLAST)
    try:
        return run(argv)
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of the output is gone
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


def run(argv: list[str]) -> int:
    """Run one command and return its exit code. Raises UserError for an unknown command."""
    verb, *rest = argv
    if verb in HELP_WORDS and rest and rest[0] not in OTHER_WORDS:
        verb, rest = rest[0], ["--help"]
    if verb in HELP_WORDS:
        return flushed(lambda _: print(overview(), end=""), [])
    if verb in VERSION_WORDS:
        made_by = f"fastmoco {__version__}, torch {version('torch')}, Python {python_version()}"
        return flushed(lambda _: print(made_by), [])
    if verb == "--completion":
        return flushed(print_completion, rest)
    if verb not in COMMANDS:
        raise UserError(unknown_command(verb))
    check_memory()
    command = command_of(verb)
    if several_ranks():
        if verb not in ("train", "knn", "linear", "embed"):
            raise UserError(f"{verb} is for one process: start it without torchrun")
        from fastmoco.system.torchrun import as_one

        command = as_one(command)
    return flushed(command, rest)


def module_of(verb: str) -> ModuleType:
    """Return the module of a command, with its `Args` and `run`."""
    return importlib.import_module(f"fastmoco.commands.{COMMANDS[verb].module}")


def command_of(verb: str) -> Callable[[list[str]], int | None]:
    """Return the function that runs a command."""
    run_command: Callable[[list[str]], int | None] = module_of(verb).run
    return run_command


def overview() -> str:
    """Return the page of `fastmoco --help`: every command with its purpose, by group."""
    column = max(len(f"{verb} {c.usage}") for verb, c in COMMANDS.items()) + 4
    lines = [
        f"fastmoco {__version__}: pre-train MoCo v1 and v2 encoders on your own images", "",
        "usage: fastmoco COMMAND [ARGUMENTS]",
    ]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:"]
        for verb in verbs:
            name = f"  {verb} {COMMANDS[verb].usage}"
            lines.append(f"{name:{column}}{COMMANDS[verb].line}")
    return "\n".join([
        *lines, "",
        *(f"{name:{column}}{line}" for name, line in OTHERS.items()), "",
        "A wrong argument or input ends a command with one line and exit code 2.", "",
    ])


def unknown_command(verb: str) -> str:
    """Return the error for an unknown command, with the most similar one if there is any."""
    from fastmoco.terminal.suggestions import did_you_mean

    hint = did_you_mean(verb, (*COMMANDS, *OTHER_WORDS))
    return f"no command {verb!r}{hint or ': there are ' + ', '.join(COMMANDS)}"


def print_completion(argv: list[str]) -> None:
    """Run `fastmoco --completion SHELL`."""
    from fastmoco.terminal.completion import Completed, script
    from fastmoco.terminal.flag_list import flags_of
    from fastmoco.terminal.suggestions import did_you_mean

    shell = " ".join(argv)
    if shell not in SHELLS:
        hint = did_you_mean(shell, SHELLS) or f": give {', '.join(SHELLS)}"
        raise UserError(f"--completion {shell}".rstrip() + hint)
    print(script(shell, {
        verb: Completed(c.line, flags_of(module_of(verb).Args)) for verb, c in COMMANDS.items()
    }), end="")


def escape_unshowable() -> None:
    """Make print escape characters that the terminal's encoding lacks, and bytes of file names that
    are not UTF-8. No command may fail because of a name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flushed(command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a command, flush its output and return its exit code. A failure to write at exit would
    be a traceback."""
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
    """Return the reason why standard output cannot be written, and close it, or return nothing.

    An error of print does not name its file. Its buffer may have dropped the lost output, so
    another line is printed to find out.
    """
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
    """Return the line for an error that the machine caused, or nothing for any other error."""
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
