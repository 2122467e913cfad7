"""The flags of every command in bench/, and the way it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from data_tools.errors import UserError


class Flags(argparse.ArgumentParser):
    """A parser whose help is the command's docstring and whose errors are one line.

    A command defines its flags in a block above its other imports:

        with Flags(__name__, __doc__) as flags:
            flags.add_argument("folder", type=Path)

    The end of the block answers --help. The imports below it, torch above all, take seconds.
    """

    def __init__(self, module: str, docstring: str | None) -> None:
        paragraphs = (docstring or "").strip().split("\n\n")
        super().__init__(
            prog=f"python -m {command_name()}",
            # argparse prints the usage itself
            description="\n\n".join(p for p in paragraphs if not p.startswith("    ")),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._is_main = module == "__main__"

    def add_rounds(self, count: int) -> None:
        """Add --rounds."""
        self.add_argument("--rounds", type=int, default=count,
                          help=f"number of interleaved rounds [default: {count}]")

    def add_out(self, text: str = "write the result as JSON to this file") -> None:
        """Add --out."""
        self.add_argument("--out", type=Path, help=text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._is_main and {"-h", "--help"} & set(sys.argv[1:]):
            self.print_help()
            raise SystemExit(0)

    def error(self, message: str) -> NoReturn:
        """Raise UserError; argparse itself would print the whole usage above the message."""
        raise UserError(f"{message} (--help lists the flags)")


def command_name() -> str:
    """Return the name of the running module, such as bench.prep.speed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def finish(main: Callable[[], int | None]) -> NoReturn:
    """Run main and exit with its code; 2 and one line for a user's error, 130 after Ctrl-C."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"{command_name()}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
