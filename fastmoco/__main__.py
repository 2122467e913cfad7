"""Runs the command line as `python -m fastmoco` or `torchrun -m fastmoco`."""

import sys

from fastmoco.cli import main

sys.exit(main())
