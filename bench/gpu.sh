#!/usr/bin/env bash
# What only a GPU can show, in under ten minutes: bench/gpu.sh [DATA]
# The gpu tests, then bench.gpu: checks, memory, rates; writes bench/results/gpu_NAME.json.
# Exit code 0: everything passed; 1: something did not; 2: it cannot run here.
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-.venv/bin/python}

cannot() { echo "bench/gpu.sh: $1" >&2; exit 2; }
"$PYTHON" - 2> /dev/null << 'END'
import sys
import pytest, torch
sys.exit(0 if torch.cuda.is_available() else 3)
END
case $? in
  0) ;;
  3) cannot "torch sees no CUDA device here: nothing was run" ;;
  *) cannot "$PYTHON cannot import torch and pytest: run make test first, or set PYTHON" ;;
esac
command -v gcc > /dev/null || command -v cc > /dev/null || command -v clang > /dev/null ||
  cannot "torch.compile needs a C compiler: install gcc"

report=$(mktemp)
trap 'rm -f "$report"' EXIT
# by SIGINT, at which pytest still writes its report
timeout -s INT 240 "$PYTHON" -m pytest -m gpu tests/test_gpu.py --junitxml="$report"
tests=$?
[ -s "$report" ] || cannot "pytest wrote no report: nothing was measured"
timeout 360 "$PYTHON" -m bench.gpu "$@" --tests "$report"
measured=$?
[ $tests -eq 0 ] && [ $measured -eq 0 ]
