"""Help pages: a command's flags, grouped by what the user decides."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator

from fastmoco.terminal.flag_list import Flag, flags_of, opposite
from fastmoco.terminal.flags import Groups, RecipeFlags

MOST_WIDTH, LEAST_WIDTH = 100, 40  # characters of a line
MOST_NAME = 26  # characters; the text of a longer flag starts on the next line
FOOT = "-h or --help prints this page. Flags without a value are off by default."


def page(kind: type, command: str, recipe: RecipeFlags | None = None) -> str:
    """Return the help page of a command, as wide as the terminal, up to 100 characters."""
    width = max(LEAST_WIDTH, min(MOST_WIDTH, shutil.get_terminal_size().columns))
    flags = flags_of(kind, recipe)
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    column = max(len(n) for n in map(_name, flags) if len(n) <= MOST_NAME) + 4
    blocks = [
        usage(command, flags),
        *(textwrap.fill(p, width, break_on_hyphens=False) for p in paragraphs),
        *(
            (f"{title}:\n" if title else "")
            + "\n".join(line for f in group for line in _lines(f, column, width))
            for title, group in grouped(flags, getattr(kind, "groups", {}))
        ),
        textwrap.fill(FOOT, width),
    ]
    return "\n\n".join(blocks) + "\n"


def usage(command: str, flags: list[Flag]) -> str:
    """Return the usage line: positions, required flags, brackets around the optional ones."""
    words = [_name(f) for f in flags if f.positional or f.required]
    return " ".join(["usage: fastmoco", command, *words, "[FLAGS]"])


def grouped(flags: list[Flag], groups: Groups) -> Iterator[tuple[str, list[Flag]]]:
    """Yield titles and their flags. Positions come first, flags of no group last."""
    by_name = {f.name: f for f in flags}
    by_name |= {opposite(f.name): f for f in flags if not f.value}
    lists = {title: [by_name[f"--{n}"] for n in names] for title, names in groups.items()}
    listed = {f for group in lists.values() for f in group}
    lists = {"": [f for f in flags if f.positional] + lists.pop("", [])} | lists
    rest = [f for f in flags if f not in listed and not f.positional]
    lists["other flags" if groups else "flags"] = rest
    yield from ((title, group) for title, group in lists.items() if group)


def _name(f: Flag) -> str:
    """Return the flag with its value as usage lines spell it: --K INT, [VAL], RUN [RUN ...]."""
    if not f.positional:
        return f"{f.name} {f.value}".rstrip()
    name = f"{f.name} [{f.name} ...]" if f.many else f.name
    return name if f.required else f"[{name}]"


def _lines(f: Flag, column: int, width: int) -> Iterator[str]:
    """Yield the lines of one flag: its name, and its text in a column beside it."""
    default = f"[default: {f.default}]" if f.default else ""
    if len(default) <= width - column:
        default = default.replace(" ", "\0")  # keeps it on one line
    wrapped = textwrap.wrap(
        f"{f.text} {default}", width - column, break_long_words=False, break_on_hyphens=False
    )
    lines = [line.replace("\0", " ") for line in wrapped]
    name = f"  {_name(f)}"
    if len(name) + 2 > column:
        yield name
        name = ""
    for line in lines:
        yield f"{name:{column}}{line}"
        name = ""
