# All set-up happens here: a fresh clone and Python 3.11 or later are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?= -n 2 --dist loadfile
COMPARE_ARGS ?=
MUTANTS_ARGS ?=

.PHONY: compare test check mutants proto docs man site wheel sbom clean help

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

compare: $(VENV)/.run   ## the main job: the built-in fleet under several accounting models
	$(BIN)/bpfleet compare $(COMPARE_ARGS)

test: $(VENV)/.dev      ## all tests
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.dev     ## style, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/compatible.py
	$(BIN)/python -m bpfleet.oracle.docs --check

mutants: $(VENV)/.dev   ## plant known faults one at a time; which seed or test notices?
	$(BIN)/python -m tests.mutants.run $(MUTANTS_ARGS)

proto: $(VENV)/.dev     ## regenerate services/bpfleet/v1 from protos/
	$(BIN)/python protos/generate.py

docs: $(VENV)/.dev      ## regenerate the pages of docs/ that come from code
	$(BIN)/python -m bpfleet.oracle.docs --write

man: $(VENV)/.run       ## write a man page of every command into dist/man
	$(BIN)/python -m bpfleet.cli.reference dist/man

site: $(VENV)/.run      ## build the pages of docs/ with references from the code into build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file deploy/site/mkdocs.yml

wheel: $(BIN)/python    ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

sbom: $(BIN)/python     ## list what the image installs, as CycloneDX, in dist/bpfleet.cdx.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=5'
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/bpfleet.cdx.json deploy/requirements.lock

clean:           ## remove the virtual environment and everything generated locally
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'bpfleet needs Python 3.11 or later; name one with: make PYTHON=python3.11 …' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run
