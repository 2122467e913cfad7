"""The scripts of bench/ end as the commands do."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bench.shared.command import finish

ROOT = Path(__file__).parents[2]


def test_a_folder_without_photographs_is_one_line(tmp_path):
    (tmp_path / "note.txt").write_text("no photograph")
    command = [sys.executable, "-m", "bench.prep.plan", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    wanted = f"plan.py: {tmp_path}: no JPEGs there; give a folder of photographs, by class\n"
    assert done.stderr == wanted


SCRIPTS = sorted(
    path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text()
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_help_and_refuses_an_unknown_flag(name, monkeypatch, capsys):
    """In this process: each imports torch, which takes seconds."""
    path = str(ROOT / "bench" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code in (0, None) and not err
    assert out.startswith(f"usage: python -m bench.{name} [-h]")
    monkeypatch.setattr(sys, "argv", [path, "--no-such-flag"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out
    assert err.startswith(f"{name}.py: ") and err.count("\n") == 1 and "--help" in err


def test_ctrl_c_ends_a_script_without_a_traceback():
    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        finish(stopped)
    assert end.value.code == 130
