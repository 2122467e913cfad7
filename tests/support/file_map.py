"""Writes the file maps of the packages' READMEs from the first sentences of their modules.

    python -m tests.support.file_map
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_tools", "fastmoco")
BEGIN = "<!-- file map: python -m tests.support.file_map -->\n"
END = "<!-- end of the file map -->"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"\.(?:\s|$)", paragraph, maxsplit=1)[0].rstrip(":")


def file_map(package: str) -> str:
    """A Markdown list of every module of a package, folder by folder."""
    lines = []
    top = ROOT / package
    for folder in sorted({path.parent for path in top.rglob("*.py")}):
        name = folder.relative_to(top.parent).as_posix()
        lines.append(f"\n**`{name}/`**: {first_sentence(folder / '__init__.py')}.\n")
        modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
        lines += [f"- `{path.name}`: {first_sentence(path)}" for path in modules]
    return "\n".join(lines) + "\n\n"


def with_map(text: str, package: str) -> str:
    """The text of a README with its file map made from the modules as they are now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + file_map(package) + END + rest.split(END)[1]


def main() -> None:
    """Rewrite the maps in the READMEs of the packages."""
    for package in PACKAGES:
        readme = ROOT / package / "README.md"
        readme.write_text(with_map(readme.read_text(), package))


if __name__ == "__main__":
    main()
