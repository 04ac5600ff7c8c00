# make quickstart   a five-phase curriculum at 1e-6 scale out of this machine's own Python, then `verify`
# make test         everything that the project claims, the slow tests too
# make lint format  ruff and mypy
# Each target makes .venv by itself and installs what it needs; the second time is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-fast bench-smoke lint format clean

quickstart: $(VENV)/core.installed
	$(BIN)/tokenmill run recipes/quickstart.yaml --out runs/quickstart
	$(BIN)/tokenmill verify runs/quickstart

test: $(VENV)/all.installed
	$(BIN)/python -m pytest

test-fast: $(VENV)/all.installed
	$(BIN)/python -m pytest -m "not slow"

bench-smoke: $(VENV)/all.installed
	for script in $(filter-out %_stages.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script --smoke || exit 1; done

lint: $(VENV)/all.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/all.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "tokenmill needs Python 3.11 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	$(BIN)/python -c "import pipeline.catalog"  # compiles the kernels, once
	touch $@

# torch first and by its exact version: a bare `torch` may bring gigabytes of CUDA (see README, "Megatron")
$(VENV)/all.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) "torch==$(shell sed -n 's/^torch==//p' constraints.txt)"
	$(INSTALL) --editable '.[megatron,notebooks,bench,dev]'
	touch $@ $(VENV)/core.installed

clean:
	rm -rf $(VENV) runs
