# Everything a fresh machine with Python and make needs. `make train` and `make test` set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: train test test-slow lint format docs bench bench-report clean

train: $(READY)
	$(BIN)/flowebm train --data mixture --out runs/mixture --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist loadfile -m 'optimised and not slow'

# Long runs are optimised, unlike most of `make test`: see tests/conftest.py.
test-slow: $(READY)
	XLA_FLAGS= $(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The guide, in site/: open site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Peers are an extra of their own. Everything takes hours; each script goes on where it stopped.
# MNIST=DIR is the folder of MNIST's files; what needs them is left out without.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python benchmarks/balanced.py
	$(BIN)/python benchmarks/density.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/small_fits.py
	$(BIN)/python benchmarks/tabular.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/sampling_known.py --keys 5
	$(BIN)/python benchmarks/posteriors.py --keys 2
	$(BIN)/python benchmarks/calibration_sampling.py --keys 100
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/class_balance.py --data-dir '$(MNIST)'
	$(MAKE) bench-report

# docs/benchmarks.md from what was measured.
bench-report: $(READY)
	$(BIN)/python benchmarks/report.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) site .jax_cache .pytest_cache .ruff_cache
