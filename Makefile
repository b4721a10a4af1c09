# The same few commands for people and for continuous integration.
#
#   make demo     a fresh virtual environment, then the whole way on scikit-learn's digits
#   make test     the test suite
#   make check    ruff and mypy
#   make hosts    the old tflite-runtime and an emulated ARM machine, from pip and Debian (under a minute; what is there is kept)
#   make bench    edgekit's winners beside its peers on five networks, written to docs/benchmarks.md (about 40 minutes; BENCH=--quick for a look)
#
# PYTHON=python3.12 make demo     another interpreter (3.11 to 3.13)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: demo test check hosts bench format clean

demo: $(VENV)/installed
	$(BIN)/edgekit run recipes/digits.yaml --out runs/digits

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hosts: $(VENV)/installed-dev
	$(BIN)/edgekit hosts setup tflite-runtime qemu-arm64

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(BENCH)

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .hosts runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps: pip runs again only when pyproject.toml is newer. The package itself is installed in place (-e).
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing edgekit[all] into $(VENV) (about two minutes the first time)"
	@$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing edgekit[all,dev] into $(VENV)"
	@$(PIP) --editable '.[all,dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	@echo "installing edgekit[all,bench] into $(VENV)"
	@$(PIP) --editable '.[all,bench]'
	@touch $@ $(VENV)/installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "edgekit needs Python 3.11 to 3.13; $(PYTHON) is another one. Give one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing. On Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
