"""The exceptions that bad input and a failing machine raise."""


class UserError(Exception):
    """What the user gave can't be used. `str(error)` is one line: which file, and what to do."""

    def __str__(self) -> str:
        # A file name may hold a newline, or bytes that no terminal prints.
        line = " ".join(super().__str__().splitlines())
        return line.encode("utf-8", "backslashreplace").decode()


class Interrupted(UserError):
    """Something outside failed (a full disk, a vanished source): what is done stays, for resume."""


class NotEnoughMemory(MemoryError):
    """A valid image does not fit into the memory of this machine. `str(error)` gives its size."""
