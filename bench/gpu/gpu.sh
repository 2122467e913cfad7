#!/usr/bin/env bash
# Tests and measures a GPU: bench/gpu/gpu.sh [DATA]
# Runs the gpu tests, then bench.gpu, which writes bench/results/gpu_NAME.json. Each is stopped after
# five minutes. The first run on a machine compiles and may need longer: then run it again.
# Exit code 0: everything passed; 1: something failed; 2: it cannot run here.
set -u
cd "$(dirname "$0")/../.." || exit 2
PYTHON=${PYTHON:-.venv/bin/python}

cannot() { echo "bench/gpu/gpu.sh: $1" >&2; exit 2; }
"$PYTHON" -c 'import pytest, torch' ||
  cannot "$PYTHON cannot import torch and pytest: run make test first, or set PYTHON"
# torch prints the reason on stderr, for example a driver that is too old
"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)' ||
  cannot "torch sees no CUDA device here: nothing was run"
lacking=$("$PYTHON" -c '
import torch
from fastmoco.augmentation.choose import lacks_compiler
print(lacks_compiler(torch.device("cuda")) or "")
') || cannot "the first small program on the GPU failed"
[ -z "$lacking" ] || cannot "$lacking"

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# SIGINT, after which pytest still writes its report
timeout --foreground -k 30 -s INT 300 "$PYTHON" -m pytest -m gpu tests/laws/test_gpu.py \
  --junitxml="$report"
tests=$?
[ -s "$report" ] || cannot "pytest wrote no report: nothing was measured"
[ $tests -eq 0 ] || echo "bench/gpu/gpu.sh: pytest ended with $tests (124, 2: it was cut off)" >&2
timeout --foreground -k 30 300 "$PYTHON" -m bench.gpu "$@" --tests "$report" --tests-exit $tests
measured=$?
[ $measured -ne 124 ] || echo "bench/gpu/gpu.sh: cut off after five minutes" >&2
[ $tests -eq 0 ] && [ $measured -eq 0 ]
