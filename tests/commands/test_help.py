"""Help pages: every flag once, with its own text and its default, in lines that fit the terminal;
and the hint at the word that a user probably meant."""

import dataclasses
import re

import pytest

from fastmoco.cli import COMMANDS, GROUPS, main, module_of
from fastmoco.recipe import MOCO_V1, MOCO_V2
from fastmoco.terminal.flag_list import flags_of
from fastmoco.terminal.flags import RecipeFlags
from fastmoco.terminal.help import page, usage


def shown(monkeypatch, capsys, *argv, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    try:
        code = main(list(argv))
    except SystemExit as end:
        code = end.code
    assert code == 0
    return capsys.readouterr().out


def entries(text):
    """The text of each flag and position on a help page, by its name, on one line."""
    found, name = {}, ""
    for line in text.splitlines():
        if head := re.match(r"  (\[?[A-Z]{2,}|--[\w.-]+)", line):
            name = head[1].strip("[")
            assert name not in found, f"{name} is there twice"
            found[name] = line[len(head[0]) :]
        elif line.startswith("   ") and name:
            found[name] += f" {line}"
        else:
            name = ""
    return {name: " ".join(text.split()) for name, text in found.items()}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_lines_fit_and_words_are_whole(verb, columns, monkeypatch, capsys):
    text = shown(monkeypatch, capsys, verb, "--help", columns=columns)
    for line in text.splitlines():
        assert len(line) <= min(columns, 100), line
        assert line == line.rstrip() and line.isascii(), line
    words = " ".join(text.split())
    for flag in flags_of(module_of(verb).Args):
        assert flag.text in words  # neither cut nor hyphenated


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_flag_is_there_once_with_its_default_once(verb, monkeypatch, capsys):
    text = shown(monkeypatch, capsys, verb, "--help")
    found, flags = entries(text), flags_of(module_of(verb).Args)
    assert set(found) == {f.name for f in flags}
    for flag in flags:
        entry = found[flag.name]
        assert flag.text and flag.text.endswith((".", "?")), flag
        assert entry.count("[default:") == bool(flag.default), entry
        assert "(default" not in entry and "[default" not in flag.text
        if flag.default:
            assert entry.endswith(f"[default: {flag.default}]"), entry


def test_defaults_are_those_of_the_dataclasses():
    for verb in COMMANDS:
        kind = module_of(verb).Args
        for field in dataclasses.fields(kind):
            if field.type in ("int", "float") and field.default:
                name = f"--{field.name}".replace("_", "-")
                (flag,) = (f for f in flags_of(kind) if f.name == name)
                assert flag.default == f"{field.default:g}"


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_groups_list_every_flag(verb, monkeypatch, capsys):
    assert "\nother flags:\n" not in shown(monkeypatch, capsys, verb, "--help")


def test_train_is_grouped_by_the_decision(monkeypatch, capsys):
    text = shown(monkeypatch, capsys, "train", "--help")
    assert re.findall(r"^(\w.*):$", text, re.M) == [
        "data and views", "model and loss", "schedule", "time and memory", "records"
    ]


@pytest.mark.parametrize("verb", COMMANDS)
def test_no_switch_has_the_text_of_its_opposite(verb):
    """A switch's text says what giving it does, so --no-x must be worded as the absence of x."""
    for flag in flags_of(module_of(verb).Args):
        if re.search(r"(^--|\.)no-", flag.name):
            assert re.match(r"(Do not|Evaluate only|Convert to grey after)\b", flag.text), flag


def test_a_switch_that_a_recipe_turns_on_is_shown_with_the_other_text():
    def gray(recipe):
        found = entries(page(module_of("train").Args, "train", RecipeFlags.of(recipe)))
        return {name: text for name, text in found.items() if name.endswith("gray-first")}

    before, after = "before the colour jitter (v1)", "after the colour jitter (v2)"
    assert gray(MOCO_V2) == {
        "--augmentation.gray-first": f"Convert to grey {before} instead of after it (v2)."
    }
    assert gray(MOCO_V1) == {
        "--augmentation.no-gray-first": f"Convert to grey {after} instead of before it (v1)."
    }


def test_optional_positions_look_optional(monkeypatch, capsys):
    def first(verb):
        return shown(monkeypatch, capsys, verb, "-h").splitlines()[0]

    assert first("knn") == "usage: fastmoco knn CHECKPOINT TRAIN [VAL] [FLAGS]"
    assert first("prep") == "usage: fastmoco prep SOURCE [OUT] [FLAGS]"
    assert first("compare") == "usage: fastmoco compare RUN [RUN ...] [FLAGS]"
    assert first("export") == "usage: fastmoco export CHECKPOINT --to SYSTEM [FLAGS]"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_overview_lists_every_command_as_its_own_page_does(columns, monkeypatch, capsys):
    text = shown(monkeypatch, capsys, columns=columns)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert [verb for verbs in GROUPS.values() for verb in verbs] == list(COMMANDS)
    for verb, command in COMMANDS.items():
        assert re.search(rf"^  {re.escape(f'{verb} {command.usage}'.strip())}  +\S", text, re.M)
        said = usage(verb, flags_of(module_of(verb).Args)).removesuffix(" [FLAGS]")
        assert said == f"usage: fastmoco {verb} {command.usage}".rstrip()


def test_all_ways_to_help_agree(monkeypatch, capsys):
    overview = shown(monkeypatch, capsys)
    for argv in (["help"], ["-h"], ["--help"], ["help", "--help"]):
        assert shown(monkeypatch, capsys, *argv) == overview
    of_train = shown(monkeypatch, capsys, "help", "train")
    assert of_train == shown(monkeypatch, capsys, "train", "--help")
    assert of_train == shown(monkeypatch, capsys, "train", "somewhere", "-h")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian", "x"], "no command 'trian': did you mean train?"),
        (["help", "knm"], "no command 'knm': did you mean knn?"),
        (["--versoin"], "no command '--versoin': did you mean --version?"),
        (["xyz"], f"no command 'xyz': there are {', '.join(COMMANDS)}"),
        (["train", "x", "--bacth", "4"], "train has no flag --bacth: did you mean --batch?"),
        (["train", "x", "--bacth=4"], "train has no flag --bacth: did you mean --batch?"),
        (["train", "x", "--weigth_decay", "0"],
         "train has no flag --weigth-decay: did you mean --weight-decay?"),
        (["train", "x", "--blur-p", "0"],
         "train has no flag --blur-p: did you mean --augmentation.blur-p?"),
        (["knn", "x", "y", "--keep"], "knn has no flag --keep: did you mean --no-keep?"),
        (["verify", "x", "--jsn"], "verify has no flag --jsn: did you mean --json?"),
        (["train", "x", "--frobnicate"], "train has no flag --frobnicate"),
        (["--completion", "zhs"], "--completion zhs: did you mean zsh?"),
        (["--completion"], "--completion: give bash, zsh, fish"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_likely_one(argv, line, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    hint = f" (fastmoco {argv[0]} --help lists the flags)" if "has no flag" in line else ""
    assert err == f"fastmoco: {line}{hint}\n"


def test_underscores_still_parse(capsys):
    assert main(["verify", "/no/such", "--quick=1", "--wor_kers", "1"]) == 2
    assert "did you mean --workers?" in capsys.readouterr().err
    assert main(["prep", "/no/such", "out", "--max_side", "9"]) == 2
    assert "/no/such" in capsys.readouterr().err
