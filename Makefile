# make demo: install, run the projectors grid, print the table. make test: everything that is checked before a change lands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint types tests docs slow gpu mutants clean

help:
	@echo "make demo     install and run ablations/projectors.yaml"
	@echo "make test     lint, types, tests, docs"
	@echo "make docs     the documentation, into site/"
	@echo "make slow     the tests that take minutes"
	@echo "make mutants  does a test fail where the code computes something else? A sample, 15 minutes"
	@echo "make gpu      what can be checked of a GPU without weights, in 8 minutes; writes reports/gpu/"
	@echo "make install  .venv with exact versions"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vr-eval needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $(STAMP)

demo: install
	$(BIN)/vr-eval run ablations/projectors.yaml

test: lint types tests docs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# A process for each core, one thread each: several threads in one process take twice as long.
tests: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile

# Every warning is an error. The variable silences a notice about a later major version.
docs: install
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs.yml

slow: install
	$(BIN)/python -m pytest -q -m slow

# MUTANTS="--seconds 3600 --seed 7 --modules methods/sva stats" for another sample.
mutants: install
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(MUTANTS)

gpu: install
	$(BIN)/python scripts/gpu_check.py

clean:
	rm -rf $(VENV) runs mutants site build dist .pytest_cache .mypy_cache .ruff_cache
