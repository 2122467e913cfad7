# Each target makes its own environment in .venv where there is none.
PYTHON ?= python3
BIN = .venv/bin
# Pinned: the versions that every figure of this project was measured with.
TORCH = torch==2.14.1 torchvision==0.29.1
OK = .venv/ok
DEV = .venv/dev

.PHONY: demo test lint bench clean

demo: $(OK)
	$(BIN)/python -m bench.demo

# A process a core: most tests keep one thread busy.
test: $(DEV) .venv/ffcv
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(DEV) .venv/ffcv
	$(BIN)/python -m bench.loading.stages
	@$(BIN)/pip install --quiet 'lightly>=1.5' || echo 'note: no lightly: left out'
	$(BIN)/python -m bench.loading.peers

$(OK): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e .
	touch $@

$(DEV): $(OK)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

# ffcv serves one group of tests (its official loader reads our files). It compiles against system
# libraries; where these may not be installed, those tests are skipped and say so.
.venv/ffcv: $(DEV)
	@pkg-config --exists opencv4 libturbojpeg 2>/dev/null || bash .ci/system-packages || true
	@$(BIN)/pip install --quiet 'ffcv>=1.0.2' > .venv/ffcv.log 2>&1 \
	  || echo 'note: ffcv did not build (.venv/ffcv.log tells why): its tests are skipped'
	@touch $@

clean:
	rm -rf .venv demo-out build *.egg-info
