# The same few commands for people and for continuous integration.
#
#   make demo         a new virtual environment, then the digits recipe from training to report
#   make test         the test suite (JOBS=2: on two processes, except for tests that time something)
#   make test-core    the tests of what needs none of the frameworks, in an environment without them
#   make test-newest  the test suite with the newest packages instead of those in constraints/
#   make check        ruff, mypy and the limits of scripts/measure_code.py
#   make coverage     the test suite with its coverage of edgekit/, as a table and in build/coverage
#   make docs         the documentation site in build/site, warnings are errors
#   make constraints  resolve the versions in constraints/ again
#   make hosts        the old tflite-runtime and an emulated ARM machine, from pip and Debian (under a minute;
#                     what is installed is kept)
#   make bench        edgekit's winners against its peers on five networks (about 40 minutes; BENCH=--quick for a look)
#
# PYTHON=python3.12 make demo     another interpreter (3.11 to 3.13)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check

# What is installed comes in tested versions: constraints/ has a file for each Python version.
# NEWEST=1 takes the newest versions that pyproject.toml allows.
ifdef NEWEST
VERSIONS := --upgrade --upgrade-strategy eager
unexport EDGEKIT_CONSTRAINED
else
VERSIONS  = --constraint "$$($(BIN)/python scripts/constraints.py path)"
export EDGEKIT_CONSTRAINED := 1
endif

.PHONY: demo test test-core test-newest check measure coverage docs constraints hosts bench format clean

demo: $(VENV)/installed
	$(BIN)/edgekit run recipes/digits.yaml --out runs/digits

# Two passes with JOBS=2: a test that times something never runs next to another one.
test: $(VENV)/installed-dev
ifdef JOBS
	$(BIN)/python -m pytest -m 'not alone' -n $(JOBS) --dist loadfile
	$(BIN)/python -m pytest -m alone
else
	$(BIN)/python -m pytest
endif

# What needs none of the frameworks, and is most of what a user meets first.
CORE := tests/test_core_only.py tests/test_artifact.py tests/test_cache.py tests/test_catalog.py \
        tests/test_errors.py tests/test_recipe.py tests/test_signature.py tests/test_target.py \
        tests/test_task.py tests/test_value.py tests/cli/test_listing.py \
        tests/cli/test_main.py tests/cli/test_plan.py tests/device_worker/test_bundled.py \
        tests/device_worker/test_frames.py tests/device_worker/test_judging.py tests/device_worker/test_store.py

test-core:
	@$(MAKE) --no-print-directory VENV=.venv-core core-tests

.PHONY: core-tests
core-tests: $(VENV)/installed-core
	$(BIN)/python -m pytest $(CORE)

test-newest:
	@rm -f .venv-newest/installed-dev
	@$(MAKE) --no-print-directory VENV=.venv-newest NEWEST=1 .venv-newest/installed-dev
	@$(MAKE) --no-print-directory VENV=.venv-newest NEWEST=1 test || \
	  { .venv-newest/bin/python scripts/constraints.py newer; exit 1; }

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory measure

measure: $(VENV)/installed-dev
	$(BIN)/python scripts/measure_code.py --check

coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html

docs: $(VENV)/installed-docs
	$(BIN)/python -m mkdocs build --strict

constraints:
	$(PYTHON) scripts/constraints.py update

hosts: $(VENV)/installed-dev
	$(BIN)/edgekit hosts setup tflite-runtime qemu-arm64

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(BENCH)

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-core .venv-newest .hosts runs build dist .coverage
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps: pip runs again only if pyproject.toml or a constraints file is newer. The package itself
# is installed in place (-e).
DECLARED := pyproject.toml $(wildcard constraints/*.txt)

$(VENV)/installed: $(DECLARED) | $(BIN)/python
	@echo "installing edgekit[all] into $(VENV) (about two minutes the first time)"
	@$(PIP) $(VERSIONS) --editable '.[all]'
	@touch $@

$(VENV)/installed-dev: $(DECLARED) | $(BIN)/python
	@echo "installing edgekit[all,dev] into $(VENV)"
	@$(PIP) $(VERSIONS) --editable '.[all,dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-core: $(DECLARED) | $(BIN)/python
	@echo "installing edgekit without the frameworks into $(VENV)"
	@$(PIP) $(VERSIONS) --editable '.[test-core]'
	@touch $@

$(VENV)/installed-docs: $(DECLARED) | $(BIN)/python
	@echo "installing edgekit[all,docs] into $(VENV)"
	@$(PIP) $(VERSIONS) --editable '.[all,docs]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: $(DECLARED) | $(BIN)/python
	@echo "installing edgekit[all,bench] into $(VENV)"
	@$(PIP) $(VERSIONS) --editable '.[all,bench]'
	@touch $@ $(VENV)/installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "edgekit requires Python 3.11 to 3.13, got $(PYTHON). Fix: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is missing. Fix: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
