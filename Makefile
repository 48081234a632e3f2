# Every target sets up its own virtual environment first: a fresh machine needs Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,hf,x-transformers,tensorboard,ray,train]'
	@touch $@

install: $(READY)  ## Create .venv and install everything that the other targets need

figures: $(READY)  ## Regenerate every figure and the verdict table on the CPU (under 3 minutes on 2 cores)
	$(BIN)/python -m figures --device cpu

figures-paper: $(READY)  ## The same at the paper's sizes, 200 seeds
	$(BIN)/python -m figures --preset paper --out results/paper

figures-warmup: $(READY)  ## The training experiments on the CPU: under 25 minutes on 2 cores
	$(BIN)/python -m figures --preset warmup --device cpu

test: $(READY)  ## The test suite, long sweeps left out
	$(BIN)/python -m pytest -m 'not slow and not gpu'

test-all: $(READY)  ## The whole test suite, long sweeps included
	$(BIN)/python -m pytest

lint: $(READY)  ## Lint
	$(BIN)/ruff check .

format: $(READY)  ## Check the format
	$(BIN)/ruff format --check .

types: $(READY)  ## Check the types
	$(BIN)/mypy

check: lint format types test  ## Everything that CI asks for

benchmark: $(READY)  ## Run the benchmarks; they assert values before they time anything
	$(BIN)/python benchmarks/derive.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engine.py
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.measure

clean:  ## Remove the virtual environment and all results
	rm -rf $(VENV) results .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help install figures figures-paper figures-warmup test test-all lint format types check benchmark clean
