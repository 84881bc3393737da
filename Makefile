# Each target does all the set-up it needs: a virtual environment of its own, pinned by constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint types docs format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a student learns from its teacher on digits: one table, under three minutes"
	@echo "make test    all tests"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make lint    ruff;   make types   mypy;   make format   ruff's formatter"

demo: $(VENV)/ready
	$(BIN)/svdistill demo

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The CPU build of torch: from where pip already looks, else from PyTorch's own index, else
# (macOS, Windows: plain wheels are CPU builds) by its plain name.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "svdistill needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "$(TORCH)+cpu" 2>/dev/null \
	  || $(BIN)/python -m pip install -q "$(TORCH)+cpu" --extra-index-url $(CPU_INDEX) \
	  || $(BIN)/python -m pip install -q "$(TORCH)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
