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


def of_file_system(error: OSError) -> bool:
    """Whether the file system or network failed; False if what was read is at fault.

    Sources raise a bare OSError with a text alone for an image that they can see is not there, such
    as an empty cell. Drivers of remote places raise subclasses, some without a number.
    """
    return error.errno is not None or type(error) is not OSError
