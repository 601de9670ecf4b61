# Everything here works on a fresh clone: the first target that needs it makes .venv and installs. A second call installs nothing.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/demo
# Two processes on two cores, one arithmetic thread each; idle threads sleep instead of spinning.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 HF_HUB_OFFLINE=1
PYTEST := $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --durations=10

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-all lint types imports check clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## .venv with the package and what the demo needs

install-dev: $(VENV)/.installed-dev  ## the same with the tools for development and tests

demo: $(VENV)/.installed  ## debias the built-in model on the starter data (no model hub needed) and say where the page is
	@OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 $(BIN)/fairforget debias --out $(OUT)
	@echo
	@echo "The page: file://$(abspath $(OUT))/report.html"

test: $(VENV)/.installed-dev  ## all tests but those marked slow or gpu
	$(PYTEST)

test-all: $(VENV)/.installed-dev  ## all tests; those marked gpu only where there is one
	$(PYTEST) -m "$$($(BIN)/python -c 'import torch; print("" if torch.cuda.is_available() else "not gpu")')"

lint: $(VENV)/.installed-dev  ## ruff
	$(BIN)/ruff check --output-format concise .

types: $(VENV)/.installed-dev  ## pyright, strict on src
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.installed-dev  ## import-linter: the order of the rooms
	$(BIN)/lint-imports

check: lint types imports test  ## lint, types, imports and test

clean:  ## remove .venv, caches and build results; runs/ stays
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench recipes -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fairforget needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": say which with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $(VENV)/.installed $@
