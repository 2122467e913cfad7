"""Prose is plain: no fragment that begins with What, Of or Where, no word in a sense of our own.

Prints file, line and sentence of each fault; tests/support/prose.py holds the rules.
"""

from pathlib import Path

import pytest

from tests.support.prose import faults, files, of_markdown, of_python

ROOT = Path(__file__).parents[2]
PROSE = [
    "README.md", "CHANGELOG.md", "bench/README.md", "data_tools/README.md", "fastmoco/README.md",
    "bench", "data_tools", "fastmoco", "tests",
]
# They name the words that they refuse.
EXEMPT = {"tests/laws/test_plain_words.py", "tests/support/prose.py"}


@pytest.mark.parametrize("name", PROSE)
def test_the_prose_is_plain(name):
    paths = files(ROOT, name)
    assert paths, f"{name} is gone"
    found = [
        line.removeprefix(f"{ROOT}/") for path in paths if str(path.relative_to(ROOT)) not in EXEMPT
        for line in faults(path)
    ]
    assert not found, "\n" + "\n".join(found)


def hard(tmp_path, name, source):
    (tmp_path / name).write_text(source)
    return [line.removeprefix(f"{tmp_path / name}:") for line in faults(tmp_path / name)]


@pytest.mark.parametrize(("source", "lines"), [
    ('"""What a run does."""', ["1: What a run does."]),
    ('"""Reads a run.\n\nOf its rows the last."""', ["3: Of its rows the last."]),
    ('x = 1\n"""Number of rows. Where it is\n0, none."""', ["2: Where it is 0, none."]),
    ("# Whose turn it is", ["1: Whose turn it is"]),
    ("x = 1  # Which of them", ["1: Which of them"]),
    ("x = 1  # a line that tells more", ["1: a line that tells more"]),
    ('print(f"{x} tells {y} apart")', ["1: {} tells {} apart"]),
    ('print("one step. "\n      "Begun anew")', ["1: Begun anew"]),
    ('"""The file lies there."""', ["1: The file lies there."]),
    ('"""None where there is none."""', ["1: None where there is none."]),
    ("# fine\n\n# told\n# so many", ["3: told so many"]),
])
def test_a_hard_sentence_is_found_with_its_line(tmp_path, source, lines):
    assert hard(tmp_path, "a.py", source) == lines


@pytest.mark.parametrize("source", [
    '"""Does the file exist? What does it hold?"""',  # a question
    '"""Reads the file and returns\nwhat follows."""',
    "# A comment of two lines,\n# Where the second continues the first",
    "x = 1  # noqa: What",
    'x = {"Where": "Of"}',  # single words are no prose
    '"""A teller, and a story that foretold it."""',
])
def test_plain_sentences_pass(tmp_path, source):
    assert hard(tmp_path, "a.py", source) == []


def test_markdown_is_read_without_code_and_headings(tmp_path):
    text = (
        "# How it is made\n\nA line\nWhere it goes on.\n\n- Of lists\n  the items\n"
        "| What | a `tell` |\n```\ntold\n```\n1. Is it so? How so?\nWhat follows."
    )
    assert hard(tmp_path, "a.md", text) == [
        "6: Of lists the items", "8: What", "13: What follows."
    ]


def test_every_text_of_a_file_is_read():
    code = '"""D."""\nx = 1\n"""An attribute."""\ny = f"{x} of {x:.1f} rows"  # a comment\n'
    assert [text for _, text in of_python(code)] == [
        "An attribute.", "{} of {} rows", "a comment"
    ]
    assert list(of_markdown("a\nb\n\nc")) == [(1, "a\nb"), (4, "c")]
