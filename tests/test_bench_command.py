"""The scripts of bench/ end as the commands do."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_folder_without_photographs_is_one_line(tmp_path):
    (tmp_path / "note.txt").write_text("no photograph")
    command = [sys.executable, "-m", "bench.plan", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    wanted = f"plan.py: {tmp_path}: no JPEGs there; give a folder of photographs, by class\n"
    assert done.stderr == wanted
