# Targets for working on Mulligan. Everything lives in .venv; nothing outside it is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo selfcheck test test-long soak check audit sbom format bench \
	bench-policy docs lock clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP)  ## Make .venv with everything, from the hashed lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Mulligan needs Python 3.11 or later; name one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "this Python cannot make virtual environments (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Where the environment forbids Python to keep what it compiles, every command would do it anew.
	$(BIN)/python -m compileall -q src
	@touch $@

demo: install  ## See it work: isolation, a refused secret, a stopped runaway, timings
	@$(BIN)/mulligan demo

selfcheck: install  ## Try VMs' walls from inside, and write the tables of docs/security.md
	$(BIN)/python tools/selfcheck_docs.py

test: install  ## Run the tests
	@$(BIN)/python -m compileall -q src
	$(BIN)/pytest -m "not long" -n 2 --dist loadfile --no-loadscope-reorder

test-long: install  ## Run the tests that take minutes, too; DRIVER=gvisor: the suite of one driver
	$(BIN)/pytest $(if $(DRIVER),tests/conformance tests/oracle -k $(DRIVER) -rs)

soak: install  ## Ten minutes of everything mixed, with faults; each answer is checked
	$(BIN)/pytest tests/integration/test_soak.py -k ten_minutes

check: install  ## Format, lint, types, layers, sizes, known holes where they can be looked up
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py
	$(BIN)/python tools/audit.py --if-possible

audit: install  ## Look up known holes of every locked package; fails where that cannot be done
	$(BIN)/python tools/audit.py

sbom: install  ## Write what is installed as CycloneDX, with licences, into build/sbom.json
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o build/sbom.json $(BIN)/python

format: install  ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## Measure, side by side with what is installed
	$(BIN)/python -m bench
	$(BIN)/python -m bench.undo
	$(BIN)/python -m bench.pool
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.http_load
	$(BIN)/python -m bench.performance --write
	$(BIN)/python -m bench.drivers --write

bench-policy: install  ## Measure extraction, dangerous patterns and secrets beside the seed's rules
	$(BIN)/python -m bench.policy_extraction
	$(BIN)/python -m bench.policy_dangerous
	$(BIN)/python -m bench.policy_secrets

docs: export NO_MKDOCS_2_WARNING = 1
docs: install  ## Build the site of docs/ into build/site, from there and from the code
	$(BIN)/mkdocs build
	@echo "open build/site/index.html"

lock:  ## Resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --extra dev --upgrade pyproject.toml -o requirements.lock

clean:  ## Remove what the targets made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
