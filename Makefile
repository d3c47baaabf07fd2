# The few verbs of this project. Plain pip and venv underneath.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Whole files side by side, since tests of one file share what they train; a test uses one core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-plugins notebook lint format clean

help:
	@echo "make demo    set up $(VENV) and run the main job on the embedded demo data"
	@echo "make test    set up $(VENV) with test extras and run all tests"
	@echo "make test-plugins    the same with all extras: tests of plugins/ and of what needs an extra"
	@echo "make notebook    run notebooks/source.py, and keep its outputs as .ipynb and .html"
	@echo "make lint    ruff, formatting and mypy"

# One stamp for each set of extras, so that nothing is installed twice.
$(VENV)/.installed: EXTRAS =
$(VENV)/.installed-test: EXTRAS = [test]
$(VENV)/.installed-dev: EXTRAS = [dev]
$(VENV)/.installed-all: EXTRAS = [all,test]
$(VENV)/.installed-notebook: EXTRAS = [notebook]
$(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-dev $(VENV)/.installed-all $(VENV)/.installed-notebook: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.$(EXTRAS)'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/signforge benchmark --config demo --out runs/demo

test: $(VENV)/.installed-test
	$(PYTEST)

test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

# Each plugin with its own settings and its framework; then what of the core needs an extra.
test-plugins: $(VENV)/.installed-all
	for plugin in plugins/*/; do $(BIN)/python -m pip install --quiet --editable "$$plugin[test]"; done
	for plugin in plugins/*/; do (cd $$plugin && $(abspath $(BIN))/python -m pytest) || exit 1; done
	$(BIN)/python -m pytest tests/extras tests/test_notebook.py tests/evaluate/test_inception.py
	$(BIN)/python -m pip install --quiet --no-deps torch-mimicry==0.1.16
	$(BIN)/python -m pytest tests/benchmarks/test_gan_time_to_quality.py -k mimicry

notebook: $(VENV)/.installed-notebook
	$(BIN)/python notebooks/make_notebook.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
