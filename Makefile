# The few verbs of this project. Plain pip and venv underneath.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint format clean

help:
	@echo "make demo    set up $(VENV) and run the main job on the embedded demo data"
	@echo "make test    set up $(VENV) with test extras and run all tests"
	@echo "make lint    ruff, formatting and mypy"

# One stamp for each set of extras, so that nothing is installed twice.
$(VENV)/.installed: EXTRAS =
$(VENV)/.installed-test: EXTRAS = [test]
$(VENV)/.installed-dev: EXTRAS = [dev]
$(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.$(EXTRAS)'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/signforge benchmark --config demo --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
