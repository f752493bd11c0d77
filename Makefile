# Each target works on a fresh checkout with Python 3.10+ and make: it makes .venv, installs, and runs.
PYTHON ?= python3
BIN := .venv/bin
TORCH ?= 2.6.0
COMPAT ?= .venv-compat
SOURCES := $(shell find src optimizers schedulers integrations compare -name '*.py' | sort)

.PHONY: demo test compat check lint types bench clean

demo: .venv/installed  ## train real data with every optimizer and print the comparison
	$(BIN)/optzoo compare run --quick

test: .venv/installed  ## every test, on all cores
	$(BIN)/python -m pytest --numprocesses logical --dist worksteal

# The pins of constraints.txt hold but for torch, and take the place of constraints that the machine's pip may have.
OTHER := $(COMPAT)/$(TORCH)-$(notdir $(PYTHON))
compat: $(OTHER)/installed  ## the quick tests with another torch and Python: make compat TORCH=2.8.0 PYTHON=python3.12
	rm -rf build/lib
	$(OTHER)/bin/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	$(OTHER)/bin/python -m pytest -m "not slow and not browser" $(TESTS)

$(OTHER)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OTHER)
	sed '/^torch==/d' constraints.txt > $(OTHER)/constraints.txt
	PIP_CONSTRAINT=$(abspath $(OTHER))/constraints.txt $(OTHER)/bin/python -m pip install --quiet \
		torch==$(TORCH) setuptools '.[dev]'
	touch $@

check: lint types test  ## what CI runs

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

bench: .venv/installed  ## step times in multiples of the memory-traffic floor
	$(BIN)/python benchmarks/step_time.py

clean:
	rm -rf .venv .venv-compat build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Installed in strict editable mode, which type checkers understand; it links file by file, so a new file needs it again.
.venv/installed: pyproject.toml constraints.txt .venv/sources
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
		--config-settings editable_mode=strict
	touch $@

.venv/sources: FORCE
	@mkdir -p .venv
	@echo '$(SOURCES)' | cmp --silent - $@ || echo '$(SOURCES)' > $@

FORCE:
