"""Finds sentences that are hard to read in docstrings, comments, strings and markdown.

    python -m tests.support.prose fastmoco/runs README.md

prints each with its file and line.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# A sentence that starts with one of these is a fragment, or a condition without "if".
FRAGMENT = re.compile(r"(What|Of|Where|Which|Whose|How)\b")
# Words that this project once used in senses of its own, each with the usual word.
WORDS = {
    r"tells?|told|telling": "report, print, log, show, say",
    r"so many": "N, this many",
    r"anew": "again",
    r"besides": "also, in addition to",
    r"begun": "started",
    r"lies|lay": "is, is stored",
    r"where there": "if there",
}
WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?])[)\"']*\s+|\n\s*\n")
PRAGMA = re.compile(r"noqa|type: ignore|pragma|!")
MARKDOWN_ITEM = re.compile(r"^\s*(?:[-*>]|\d+\.)\s+|\s*\|\s*")

Text = tuple[int, str]
"""(line of its start, text)"""


def faults(path: Path) -> list[str]:
    """One line per hard sentence of a .py or .md file: file, line, sentence."""
    source = path.read_text()
    texts = of_markdown(source) if path.suffix == ".md" else of_python(source)
    return [f"{path}:{line}: {sentence}" for line, sentence in hard_sentences(texts)]


def hard_sentences(texts: Iterator[Text]) -> list[Text]:
    """(line, sentence) of those sentences that are fragments or use a word of WORDS."""
    found = []
    for line, text in texts:
        at = 0
        for end in [*SENTENCE_END.finditer(text), None]:
            sentence = text[at : end.start() if end else len(text)]
            start = at + len(sentence) - len(sentence.lstrip())
            fragment = FRAGMENT.match(sentence.strip()) and not sentence.rstrip().endswith("?")
            if fragment or WORD.search(sentence):
                short = " ".join(sentence.split())
                found.append((line + text.count("\n", 0, start), short))
            at = end.end() if end else at
    return found


def of_python(source: str) -> Iterator[Text]:
    """Docstrings, comments, and strings of more than one word.

    Comments on consecutive lines are one text. A value in an f-string becomes {}.
    """
    tree = ast.parse(source)
    parts = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node) if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(
                part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        else:
            continue
        if " " in text.strip():
            yield node.lineno, text
    yield from comments(source)


def comments(source: str) -> Iterator[Text]:
    """Comments; lines of one block are joined."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or PRAGMA.match(token.string.lstrip("# ")):
            continue
        (line, column), text = token.start, token.string.lstrip("#").strip()
        alone = not token.line[:column].strip()
        if block and alone and line == last + 1:
            block.append(text)
            last = line
            continue
        if block:
            yield first, "\n".join(block)
        block, first, last = [text], line, line if alone else 0
    if block:
        yield first, "\n".join(block)


def of_markdown(source: str) -> Iterator[Text]:
    """Paragraphs, list items and cells of tables, without code and headings."""
    fenced, paragraph, first = False, [], 0
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            line = ""
        plain = re.sub(r"`[^`]*`", "`code`", line)
        starts = bool(MARKDOWN_ITEM.match(line)) or line.startswith("#")
        if paragraph and (fenced or starts or not line.strip()):
            yield first, "\n".join(paragraph)
            paragraph = []
        if fenced or not line.strip() or line.startswith("#"):
            continue
        if line.lstrip().startswith("|"):
            yield from ((number, cell) for cell in plain.split("|") if cell.strip())
            continue
        if not paragraph:
            first = number
        paragraph.append(MARKDOWN_ITEM.sub("", plain, count=1) if starts else plain)


def files(root: Path, name: str) -> list[Path]:
    """The .py and .md files below a folder, or the file of this name."""
    path = root / name
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md"))


if __name__ == "__main__":
    lines = [line for name in sys.argv[1:] for file in files(Path(), name) for line in faults(file)]
    print("\n".join([*lines, f"{len(lines)} hard sentences"]))
    sys.exit(bool(lines))
