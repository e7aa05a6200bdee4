# make fit        environment and a training on the built-in demo data
# make setup      the environment, with all that development and the tests need
# make test       the environment, then the tests, on as many workers as there are cores (WORKERS=1: in one process)
# make test-fast  what takes a minute of them, for the loop while writing
# make test-oldest  the same with the oldest versions that pyproject.toml allows, in an environment of its own (8 GB)
# make parity     the parity tests but the long ones, and a line on these versions in docs/parity/versions.csv
# make parity-oldest  the same with the oldest versions of TensorFlow, Keras, torch and Lightning that pyproject.toml allows
# make long       minutes more: the tests marked `long`
# make evaluate   each released model on a fixed sample of CIFAKE, against its floor; CIFAKE_ROOT: where it is, else downloads it
# make lint       style, format, types, spelling, layers (which module may import which), and pages
# make docs       the pages as a site, in site/, with every figure checked
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
OLDEST := .venv-oldest
# what rests on a dependency's behaviour, and needs neither TensorFlow nor the tools of `make lint`
OLDEST_TESTS := tests/test_private_apis.py tests/commands tests/data tests/deploy tests/evaluation tests/hub tests/networks tests/training
WORKERS ?= auto
# bytecode is kept, whatever the shell says: else each process of a run compiles the package and its tests anew
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: help fit setup test test-fast test-oldest parity parity-oldest long evaluate lint docs clean

help:
	@sed -n 's/^# //p' Makefile

fit: $(VENV)/.installed
	$(RUN) -m lightning_cifake fit

setup: $(VENV)/.installed-all
	@echo "ready: $(VENV)/bin/python, with torch, Lightning, TensorFlow and the test tools"

test: $(VENV)/.installed-all
	$(PYTEST)

test-fast: $(VENV)/.installed-all
	$(PYTEST) -m "not long and not slow"

# old versions warn of what newer ones of their own dependencies deprecate: that is no fault here
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder -W default \
		-m "not long and not slow" $(OLDEST_TESTS)

parity: $(VENV)/.installed-all
	$(RUN) -m parity_tests --versions

parity-oldest: $(OLDEST)/.installed-tf
	PYTEST_ADDOPTS="-W default" $(OLDEST)/bin/python -m parity_tests --versions

long: $(VENV)/.installed-all
	$(RUN) -m pytest -m long

evaluate: $(VENV)/.installed-all
	test -n "$$CIFAKE_ROOT" || $(RUN) -m lightning_cifake download
	CIFAKE_ROOT="$${CIFAKE_ROOT:-data/cifake/CIFAKE.zip}" $(RUN) -m pytest -m "" tests/deploy/test_floors.py

lint: $(VENV)/.installed-all
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/codespell
	$(MAKE) docs

docs: $(VENV)/.installed-all
	$(RUN) docs/figures.py
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(OLDEST) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(OLDEST)/.installed: pyproject.toml .github/constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -c .github/constraints-oldest.txt \
		-e '.[train,hub]' pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

$(OLDEST)/.installed-tf: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -c .github/constraints-oldest.txt \
		-e '.[evaluate,hub,tf]' pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": name another with make PYTHON=python3.11")'
	@echo "creating $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing lightning_cifake and what training needs (about 6 GB, a minute or two)"
	$(RUN) -m pip install --disable-pip-version-check -e '.[train]'
	@touch $@

$(VENV)/.installed-all: pyproject.toml | $(VENV)/bin/python
	@echo "installing lightning_cifake, TensorFlow and the test tools (about 9 GB, a few minutes)"
	$(RUN) -m pip install --disable-pip-version-check -e '.[dev,tf]'
	@touch $(VENV)/.installed $@
