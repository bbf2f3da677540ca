# What a developer or CI runs. Needs only python3 (3.11 or newer), pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The venv is filled from outside (--python), so it needs no pip and no ensurepip of its own.
PIP := $(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python
# The lock files name everything, so nothing is to be resolved. An older pip (23.2) that resolves
# refuses a locked package as soon as a newer one is out, if another asks for it with an extra.
INSTALL := $(PIP) install --quiet --no-deps

# Tests start hundreds of processes; where this is set, each would compile userlog again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help moved setup run test test-matrix property-test sealed-test attack-test crash-test bench bench-smoke bench-against check format lock build sbom clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Create .venv with userlog, editable, and all that checks and tests need

# The programs in .venv name the folder that they were installed in: in a checkout that was moved
# or copied they are made again.
MOVED := $(shell [ "$$(cat $(VENV)/.locked 2>&-)" = "$$(cd $(VENV) 2>&- && pwd -P)" ] || echo moved)
moved:

$(VENV)/.locked: requirements.lock requirements-build.lock $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit("userlog needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --require-hashes -r requirements-build.lock
	@cd $(VENV) && pwd -P > .locked

# What runs: the service's dependencies alone.
$(VENV)/.runs: $(VENV)/.locked pyproject.toml
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed: $(VENV)/.runs requirements-dev.lock
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/.runs ## Serve, in the foreground until Ctrl-C; ARGS="--port 9000" passes options on
	@exec $(BIN)/userlog serve $(ARGS)

test: setup ## Run the tests in three processes; ARGS="-k rebuild" passes options on
	$(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)

test-matrix: setup ## Try every kind of database on PostgreSQL 18 and 15; needs pgbouncer
	$(BIN)/pytest --matrix --numprocesses 2 --dist worksteal tests/acceptance/test_matrix.py $(ARGS)
	.ci/with-postgres15 $(BIN)/pytest --matrix --numprocesses 2 --dist worksteal tests/acceptance/test_matrix.py $(ARGS)

property-test: setup ## Try 1,000 examples of each property instead of 20, and others each time
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest --numprocesses 2 --timeout 7200 tests/properties $(ARGS)

sealed-test: setup ## Look for 20,000 deliveries in everything that a thief of the database has
	USERLOG_TEST_USERS=4000 $(BIN)/pytest --timeout 3600 tests/acceptance/test_sealed.py $(ARGS)

attack-test: setup ## Attack a service, beside an honest sender; ARGS="--short" for a quick look
	$(BIN)/python tests/load/attacks.py $(ARGS)

ROUNDS ?= 5
KILLS ?= 20
REBUILD_KILLS ?= 10
OUTAGES ?= 3
crash-test: setup ## Kill service, PostgreSQL, projectors, rebuilds; ROUNDS=50 for longer
	$(BIN)/python tests/crash/run.py --rounds $(ROUNDS)
	$(BIN)/python tests/crash/projectors.py --kills $(KILLS)
	$(BIN)/python tests/crash/rebuilds.py --kills $(REBUILD_KILLS)
	$(BIN)/python tests/crash/outages.py --outages $(OUTAGES) --seconds 5

bench: $(VENV)/.bench ## Measure everything beside its rivals, in 10 to 20 minutes; prints what is aimed at
	$(BIN)/python benchmarks/all.py $(ARGS)

bench-smoke: $(VENV)/.bench ## One short round of every benchmark: do they work?
	$(BIN)/python benchmarks/all.py --smoke $(ARGS)
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/against.py HEAD --smoke

bench-against: $(VENV)/.runs ## Measure an event beside another revision: REV=HEAD~20
	$(BIN)/python benchmarks/against.py $(REV) $(ARGS)

$(VENV)/.bench: $(VENV)/.installed requirements-bench.lock
	$(INSTALL) --require-hashes -r requirements-bench.lock
	@touch $@

check: setup $(VENV)/.bench ## Lint, formatting, types, import rules: everything that runs no code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/structure.py
	$(BIN)/python .ci/pure.py
	$(BIN)/python .ci/words.py

format: setup ## Format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Each lock names every package with its hashes, and no index.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(LOCK_ARGS)

lock: setup ## Pin what pyproject.toml asks for; LOCK_ARGS=--upgrade takes newer versions
	$(COMPILE) --group pyproject.toml:dev --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --constraints requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraints requirements-dev.lock --extra otel \
		--output-file requirements-otel.lock pyproject.toml
	$(COMPILE) --constraints requirements-dev.lock --group pyproject.toml:build \
		--output-file requirements-build.lock
	$(COMPILE) --constraints requirements-dev.lock --group pyproject.toml:bench \
		--output-file requirements-bench.lock

build: $(VENV)/.runs ## Build the wheel in dist/, and put the locks for its installation beside it
	$(BIN)/hatchling build --target wheel
	cp requirements.lock requirements-otel.lock dist/

sbom: setup ## List what an installation has, as CycloneDX, in dist/userlog.cdx.json
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--mc-type application --output-reproducible --output-file dist/userlog.cdx.json

clean: ## Remove what the targets above have made, but no data
	rm -rf $(VENV) .bench dist .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
