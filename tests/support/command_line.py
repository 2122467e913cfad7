"""Runs the commands in this process, as a user would type them."""

from fastmoco.cli import main

# Flags of train for a run of a second on 96 images.
TINY = ["--arch", "resnet-mini", "--size", "16", "--batch", "16", "--bn-splits", "2", "--K", "32"]


def run(capsys, *argv):
    """Run a command in this process: return its exit code, stdout and stderr."""
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *argv):
    """Run a command that must refuse its input: return its one error line."""
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.startswith("fastmoco: ") and err.count("\n") == 1 and "Traceback" not in err
    return err
