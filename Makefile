# Each target does all the set-up it needs: a virtual environment of its own, pinned by
# constraints.txt and requirements.lock.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
LOCK   ?= requirements.lock
TORCH  := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
VISION := $(shell sed -n 's/^torchvision==/torchvision==/p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One thread each; a file's tests stay in one process, so that what they share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q

.PHONY: demo test test-slow lint types docs format lock audit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a student learns from its teacher on digits: one table, under three minutes"
	@echo "make test    all tests but the slow ones: minutes on two cores;   make test-slow   those"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make lint    ruff;   make types   mypy;   make format   ruff's formatter"
	@echo "make audit   licences and known weaknesses of what is installed;   make lock   its hashes"

demo: $(VENV)/ready
	$(BIN)/svdistill demo

test: $(VENV)/ready
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/ready
	$(PYTEST) -m slow

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
# (macOS, Windows: plain wheels are CPU builds) by its plain name. Likewise torchvision's; without it
# PyPI's, which imports beside a CPU build of torch with .ci/cpu_torchvision.py only. All else has to
# have the hashes in requirements.lock; `make LOCK= ...` takes any file of the versions in
# constraints.txt instead.
$(VENV)/ready: pyproject.toml constraints.txt $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "svdistill needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps "$(TORCH)+cpu" 2>/dev/null \
	  || $(PIP) install -q --no-deps "$(TORCH)+cpu" --extra-index-url $(CPU_INDEX) \
	  || $(PIP) install -q -c constraints.txt "$(TORCH)"
	$(PIP) install -q --no-deps "$(VISION)+cpu" 2>/dev/null \
	  || $(PIP) install -q --no-deps "$(VISION)+cpu" --retries 0 \
	    --extra-index-url $(CPU_INDEX) 2>/dev/null || true
ifneq ($(LOCK),)
	$(PIP) install -q --no-deps --require-hashes --only-binary :all: -r $(LOCK)
	$(PIP) install -q --no-deps --no-build-isolation -e .
else
	$(PIP) install -q -c constraints.txt -e '.[dev]'
endif
	$(PIP) check
	$(BIN)/python -c 'import torchvision' 2>/dev/null || cp .ci/cpu_torchvision.* \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

# The lock again, after a change in constraints.txt; of torch and what only its CUDA build needs it
# has nothing (SECURITY.md says why).
lock: $(VENV)/ready
	$(PIP) install -q uv
	$(BIN)/uv pip compile pyproject.toml --extra dev -c constraints.txt --universal \
	  --python-version 3.11 --generate-hashes --no-emit-package torch --no-annotate --no-header -q \
	  | awk '/^[^ ]/ {kept = !/^(nvidia-|cuda-|triton=)/} kept' > requirements.lock.new
	mv requirements.lock.new requirements.lock

audit: $(VENV)/ready
	$(PIP) check
	$(BIN)/python .ci/licences.py
	$(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install -q pip-audit
	build/audit/bin/python .ci/advisories.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
