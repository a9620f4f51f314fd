# make run: from a fresh clone to a first report.   make test: lint, types and the whole test suite.
# Both make .venv with pinned versions (constraints.txt) first; PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint types tests bench clean

run: .venv/installed
	$(BIN)/python -m harness

test: lint types tests

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

tests: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

# Speed, as ratios of two things timed alternately in one run.
bench: .venv/installed-dev
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,iqr,rounds

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[offline]'
	touch $@

.venv/installed-dev: .venv/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[offline,dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
