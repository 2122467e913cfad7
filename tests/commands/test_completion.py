"""Completion in each shell, asked as the shell asks it: commands, flags, choices, else paths."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from fastmoco.cli import COMMANDS, SHELLS, main, module_of
from fastmoco.terminal.flag_list import flags_of

CASES = [  # words typed so far, some completions, and words that must be none
    (["tra"], {"train"}, {"views"}),
    (["help", "kn"], {"knn"}, {"train"}),
    (["--compl"], {"--completion"}, {"train"}),
    (["--completion", "z"], {"zsh"}, {"bash"}),
    (["train", "DIR", "--ste"], {"--stem"}, {"--size"}),
    (["train", "DIR", "--augmentation.no"], set(), {"--augmentation.scale"}),
    (["train", "DIR", "--stem", "c"], {"cifar"}, {"imagenet"}),
    (["train", "--recipe", "moco-cifar"], {"moco-cifar", "moco-cifar-mini"}, {"moco-v2"}),
    (["knn", "--no-"], {"--no-keep", "--no-companions"}, {"--json"}),
    (["export", "x", "--to", "o"], {"onnx", "official"}, {"timm"}),
    (["verify", "--he"], {"--help"}, {"--json"}),
    (["train", "photo"], {"photographs"}, {"--stem"}),
    (["train", "--out", "photo"], {"photographs"}, {"train"}),
]


@pytest.fixture
def scripts(tmp_path, capsys, monkeypatch):
    (tmp_path / "photographs").mkdir()
    monkeypatch.chdir(tmp_path)
    for shell in SHELLS:
        assert main(["--completion", shell]) == 0
        (tmp_path / f"completion.{shell}").write_text(capsys.readouterr().out)
    return tmp_path


def asked(shell, script, folder):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    argv = [shell, "--norc", "-c", script] if shell == "bash" else [shell, "-c", script]
    env = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("words", "some", "none"), CASES)
def test_bash(scripts, words, some, none):
    typed = " ".join(f"'{w}'" for w in words)
    found = asked("bash", f"""
        source completion.bash
        COMP_WORDS=(fastmoco {typed}); COMP_CWORD={len(words)}
        $(complete -p fastmoco | sed 's/.*-F \\([^ ]*\\) .*/\\1/') fastmoco
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """, scripts)
    assert some <= set(found) and not none & set(found)


def test_bash_after_an_equals_sign(scripts):
    for typed, word in (("--stem = im", "imagenet"), ("--stem =", "imagenet cifar"),
                        ("--out = photo", "photographs")):
        words = typed.split()
        found = asked("bash", f"""
            source completion.bash
            COMP_WORDS=(fastmoco train {typed}); COMP_CWORD={1 + len(words)}
            _fastmoco; echo "${{COMPREPLY[@]}}"
        """, scripts)
        assert found == [word]


@pytest.mark.parametrize(("words", "some", "none"), CASES)
def test_fish(scripts, words, some, none):
    lines = asked("fish", f"""
        source completion.fish; complete -C 'fastmoco {" ".join(words)}'
    """, scripts)
    found = {line.split("\t")[0].rstrip("/") for line in lines}
    assert some <= found and not none & found


class Zsh:
    """An interactive zsh on a pseudo-terminal: the only place where zsh completes."""

    def __init__(self, folder):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            env = {**os.environ, "HOME": str(folder), "TERM": "dumb", "PS1": "", "COLUMNS": "200"}
            os.execvpe("zsh", ["zsh", "-f", "-i"], env)
        self.said("unsetopt zle_bracketed_paste; PS1=; autoload -Uz compinit; compinit -u -D; "
                  "source completion.zsh; zstyle ':completion:*' verbose no; LISTMAX=9999")

    def said(self, line, end="\n"):
        """Output of zsh up to a mark that this test prints."""
        os.write(self.fd, (line + end + "\n" * (end != "\n") + "print MA''RK\n").encode())
        text, until = "", time.monotonic() + 30
        while "MARK" not in text:
            if not select.select([self.fd], [], [], max(0, until - time.monotonic()))[0]:
                raise AssertionError(f"zsh said only {text!r}")
            text += os.read(self.fd, 65536).decode(errors="replace")
        return text

    def close(self):
        os.write(self.fd, b"exit\n")
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def test_zsh(scripts):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    zsh = Zsh(scripts)
    zsh.said("fastmoco() { : }; zmodload zsh/complist; bindkey '^I' list-choices")
    try:
        for words, some, none in CASES:
            text = zsh.said(f"fastmoco {' '.join(words)}", "\t")
            listed = set(re.sub(r"\x1b\[[\d;?]*\w|/", " ", text).split())
            # the typed word itself is echoed
            assert some <= listed, (words, text)
            assert not none & listed - set(words), (words, text)
    finally:
        zsh.close()


def test_every_script_names_every_flag(scripts):
    for shell in SHELLS:
        text = (scripts / f"completion.{shell}").read_text()
        for verb in COMMANDS:
            assert re.search(rf"\b{verb}\b", text)
            for flag in flags_of(module_of(verb).Args):
                if not flag.positional:
                    assert flag.name.removeprefix("--") in text, (shell, verb, flag.name)
                    assert all(choice in text for choice in flag.choices)


def test_completion_is_quick_and_imports_nothing_heavy():
    code = ("import sys; from fastmoco.cli import main; main(['--completion', 'zsh']); "
            "print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)")
    times = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = os.times()
        times.append(after.children_user + after.children_system
                     - before.children_user - before.children_system)
    assert not {"torch", "numpy", "numba", "PIL"} & set(re.findall(r"'(\w+)'", done.stderr))
    assert min(times) < 1
