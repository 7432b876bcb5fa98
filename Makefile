# `make help` explains every target. Each sets up what it needs in .venv and is quick the second time.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types claims bench report clean

help: ## Explain every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Nearly needs Python 3.11 to 3.13; set PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

setup: $(STAMP) ## Install Nearly and all that its checks need into .venv

demo: $(STAMP) ## Replace the 3x3 thermal block by a certified surrogate; writes demo/report.html
	$(BIN)/nearly demo --out demo

# One process per core, each on one thread: the problems of tests are small, and two threads take twice the time that one takes.
test: lint types $(STAMP) ## Lint, types, doctests, contract tests and unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(STAMP) ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Static types
	$(BIN)/mypy

claims: $(STAMP) ## Check every published claim against its baseline; writes claims/RESULTS.md
	$(BIN)/python -m pytest claims --write-results

bench: $(BENCH_STAMP) ## Measure against peers, side by side; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

clean: ## Remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
