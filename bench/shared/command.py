"""How every script here reads its flags, and how it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data_tools.errors import UserError


class Flags(argparse.ArgumentParser):
    """A parser whose help begins with the script's docstring, and whose errors are one line."""

    def __init__(self, docstring: str) -> None:
        script = Path(sys.argv[0]).stem
        super().__init__(prog=f"python -m bench.{script}", description=docstring.splitlines()[0])

    def error(self, message: str) -> NoReturn:
        """Raises UserError; argparse itself would print the whole usage above the message."""
        raise UserError(f"{message} (--help lists the flags)")


def finish(main: Callable[[], int | None]) -> NoReturn:
    """Exits with what main returns; 2 and one line for what the user can mend, 130 at Ctrl-C."""
    try:
        code = main() or 0
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)
