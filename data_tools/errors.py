"""The exceptions for bad input and for a failing machine, and text that is safe to print."""


class UserError(Exception):
    """The input cannot be used. `str(error)` is one line: the file, and what to do about it."""

    def __str__(self) -> str:
        # A message quotes names of files and classes that others chose. They may hold newlines,
        # escape sequences that steer a terminal, or bytes that no terminal prints.
        return escaped(super().__str__())


class Interrupted(UserError):
    """Something outside failed: a full disk, a vanished source. Work done so far can be resumed."""


class NotEnoughMemory(MemoryError):
    """A valid image does not fit into the memory of this machine. `str(error)` gives its size."""


def of_file_system(error: OSError) -> bool:
    """True if the file system or the network failed; False if the file's content is at fault.

    Sources raise a bare OSError without a number for an image that they know to be absent, such as
    an empty cell. Drivers of remote places raise subclasses, some of them without a number.
    """
    return error.errno is not None or type(error) is not OSError


def escaped(text: str) -> str:
    """Text for one line of a terminal or a table.

    Every character that does not print is escaped: control characters, escape sequences, line
    breaks, marks that reverse the reading direction, undecodable bytes of file names.
    """
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def one_line(error: BaseException) -> str:
    """A library's error as one line. Their messages may have several, which are no file names."""
    return " ".join(str(error).split())
