"""The commands of bench/: their help, their errors, and how they end."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bench.shared.command import finish

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "bench").rglob("*.py") if 'if __name__ == "__main__":' in path.read_text()
)
HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def test_a_folder_without_photographs_is_one_line(tmp_path):
    (tmp_path / "note.txt").write_text("no photograph")
    command = [sys.executable, "-m", "bench.prep.plan", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"bench.prep.plan: {tmp_path}: no JPEGs there; give a folder of photographs, by class\n"
    )


def test_every_command_is_listed_in_the_readme():
    listed = (ROOT / "bench" / "README.md").read_text()
    inner = {"bench.demo.images", "bench.learning.time_to_knn.sides"}  # other commands run these
    missing = [c for c in COMMANDS if not re.search(rf"`python -m {c}[` ]", listed)
               and c not in inner]
    assert len(COMMANDS) >= 25 and missing == ["bench.gpu"]  # by gpu.sh
    assert "`bench/gpu/gpu.sh [DATA]`" in listed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_at_once(name):
    """Torch takes seconds to import, so --help must not need it."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"usage: python -m {name} [-h]")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_unknown_flag(name, monkeypatch, capsys):
    """In this process: most import torch, which takes seconds."""
    for loaded in (name, f"{name}.__main__"):  # runpy warns of a module that is imported already
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out
    assert err.startswith(f"{name}: ") and err.count("\n") == 1 and "--help" in err


def test_ctrl_c_ends_a_script_without_a_traceback():
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        finish(stopped)
    assert end.value.code == 130
