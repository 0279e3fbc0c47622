# The front door. `make demo` and `make test` work on a machine that has Python 3.11+, pip, make and gcc.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format bench lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED)  ## the project's own environment in .venv, from requirements.lock

# uv is not on a fresh machine, so pip brings it into the environment once and it does the rest.
# requirements-nodeps.txt holds test clients that must come without their own dependencies. The TPU's compiler goes into
# a folder of its own: where JAX can import it, it looks for a TPU at every start. Tests name it in TPU_LIBRARY_PATH.
$(INSTALLED): requirements.lock requirements-nodeps.txt requirements-compilers.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --no-deps -r requirements-nodeps.txt
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --no-deps --target $(VENV)/compilers -r requirements-compilers.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: $(INSTALLED)  ## documents in, a served model out: about five minutes on two cores
	$(BIN)/maxllm demo

test: $(INSTALLED)  ## the default suite: no GPU, no network
	$(BIN)/python -m pytest -n 2 $(TEST_FLAGS)

test-all: $(INSTALLED)  ## the default suite and the slow, peer and multi-process tests
	$(BIN)/python -m pytest -m "" $(TEST_FLAGS)

lint: $(INSTALLED)  ## ruff, the floors (import-linter), types of the contracts (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the code as ruff would have it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## the side-by-side measurements under benchmarks/ (peers in environments of their own)
	$(BIN)/python benchmarks/run.py

lock: $(INSTALLED)  ## resolve pyproject.toml into requirements.lock (records no index address)
	$(BIN)/uv pip compile --universal --generate-hashes --no-header --python-version 3.11 \
	  --extra all --group dev pyproject.toml -o requirements.lock

clean:  ## remove the environment and what runs have written
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
