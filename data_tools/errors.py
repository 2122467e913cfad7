"""The one exception that bad input raises."""


class UserError(Exception):
    """What the user gave can't be used. `str(error)` is one line: which file, and what to do."""

    def __str__(self) -> str:
        # A file name may hold a newline; the promise of one line holds all the same.
        return " ".join(super().__str__().splitlines())
