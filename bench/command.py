"""How every script here ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from data_tools.errors import UserError


def finish(main: Callable[[], int]) -> NoReturn:
    """Exit with what main returns; what the user can mend is one line, and 2."""
    try:
        code = main()
    except UserError as error:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr)
        code = 2
    raise SystemExit(code)
