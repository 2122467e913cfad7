"""A short run of bench.training.kills: killed, resumed, and equal to a run never killed."""

import subprocess
import sys


def test_killed_runs_end_as_if_never_killed():
    done = subprocess.run(
        [sys.executable, "-m", "bench.training.kills", "--kills", "2", "--seed", "3"],
        capture_output=True, text=True, timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run ended as if never killed" in done.stdout
