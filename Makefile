# Everything a newcomer or a developer runs. `make` alone lists the targets.

PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.11 python3.13,\
	$(shell $(name) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(name))))
# Where to take torch from, if not from where pip takes everything (see README: a machine without a GPU).
TORCH_INDEX_URL ?=
TORCH := $(shell sed -n 's/^tested = \["\(.*\)"\]/\1/p' pyproject.toml)

VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo demo-picture up check format openapi test test-clients fuzz-api fuzz audit faults faults-long load bench-service bench-upload bench-doctor bench-plan bench-tokens bench-train bench-gpu screenshots clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## make .venv with what the service needs
install-dev: $(VENV)/installed-dev ## and with what checks and tests need

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Attune needs Python 3.11, 3.12 or 3.13, and there is none on the PATH. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Attune needs Python 3.11, 3.12 or 3.13; $(PYTHON) is `$(PYTHON) -V 2>&1`." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and alone: it is the large one, and the one that has builds to choose from
$(VENV)/torch: $(VENV)/bin/python
	@echo "Installing into $(VENV); the first time takes minutes, most of them torch."
	$(RUN) -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(RUN) -m pip install --quiet "$(TORCH)" -e '.[gpu]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(RUN) -m pip install --quiet "$(TORCH)" -e '.[gpu,dev]'
	@touch $@

demo: $(VENV)/installed ## train, chat with and download a first adapter, by itself, in minutes
	@$(RUN) -m cli.demo

demo-picture: $(VENV)/installed ## run the demo and draw its output to docs/demo.svg
	@$(RUN) -m cli.demo --picture docs/demo.svg

up: $(VENV)/installed ## run the service until Ctrl-C
	@$(VENV)/bin/attune up

check: $(VENV)/installed-dev ## lint, types, import contracts, migrations
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports
	$(RUN) -m core.migrate --check

format: $(VENV)/installed-dev ## rewrite the code in the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

openapi: $(VENV)/installed ## rewrite openapi.json from the code
	$(RUN) -m api.openapi openapi.json

test: $(VENV)/installed-dev ## every test, with its own Postgres, Redis and S3 server
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-clients: $(VENV)/installed-dev ## the contract by three generations of the official client; ends in one line of JSON
	$(RUN) -m tests.contract.clients

fuzz-api: $(VENV)/installed-dev ## schemathesis over every operation, 100 examples each
	$(RUN) -m tests.api.fuzz --examples 100

fuzz: $(VENV)/installed-dev ## bad input, mutated files, jobs in any order and the matrix of tenants; ends in one line of JSON
	$(RUN) -m tests.fuzz

audit: $(VENV)/installed-dev ## ask the advisory databases about every installed package
	$(RUN) -m pip check
	$(RUN) -m pip list --format=freeze --exclude-editable | sed 's/+[^ ]*//' > $(VENV)/audited
	$(RUN) -m pip_audit --strict --no-deps --disable-pip --requirement $(VENV)/audited

faults: $(VENV)/installed-dev ## harm a deployment in every way on the list and count what was lost; ends in one line of JSON
	$(RUN) -m tests.faults

faults-long: $(VENV)/installed-dev ## the same, ten times as often
	$(RUN) -m tests.faults --scale long

load: $(VENV)/installed-dev ## every floor of load, most of an hour; ends in one line of JSON
	$(RUN) -m tests.load

bench-service: $(VENV)/installed-dev ## measure the service; ends in one line of JSON
	$(RUN) -m tests.bench.service

bench-upload: $(VENV)/installed-dev ## measure a 512 MB upload; ends in one line of JSON
	$(RUN) -m tests.bench.upload

screenshots: $(VENV)/installed-dev ## take the README's pictures of a running demo, in minutes the first time
	@$(RUN) -m tests.dashboard.screenshots

bench-doctor: $(VENV)/installed-dev ## measure the dataset doctor; ends in one line of JSON
	$(RUN) -m tests.bench.doctor

bench-plan: $(VENV)/installed-dev ## the plan's memory against the measured; ends in one line of JSON
	$(RUN) -m tests.bench.plan

bench-tokens: $(VENV)/installed-dev ## measure tokenising and packing on one core; ends in one line of JSON
	$(RUN) -m tests.bench.tokens

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(RUN) -m pip install --quiet "$(TORCH)" -e '.[gpu,bench]'
	@touch $@

bench-train: $(VENV)/installed-bench ## measure training beside TRL's on the CPU; ends in one line of JSON
	$(RUN) -m tests.bench.train

bench-gpu: $(VENV)/installed-bench ## measure training on this machine's GPU beside its peers; ends in one line of JSON
	$(RUN) -m tests.bench.gpu

clean: ## remove .venv and caches; data folders stay
	rm -rf $(VENV) .venv-clients build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
