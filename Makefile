# Everything a newcomer needs. Each target sets up what it needs; `make help` explains them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.ready
JARS := $(VENV)/.jars-ready
TRAINED := $(VENV)/.java-trained

.DEFAULT_GOAL := help
.PHONY: help setup demo up down status test drills simulate check format docs bench lock clean

help: ## Show these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(JARS) $(TRAINED) ## Create .venv from the lock file, fetch the Java parts, train Kafka (needs Python 3.11+ and make)

demo: setup ## Start everything, deliver 5,000 tweets, check every timeline, stop everything
	$(RUN)/fanfold demo

up: setup ## Start the embedded stack and all roles; Ctrl-C stops them
	$(RUN)/fanfold up

down: setup ## Stop a stack that runs, or clean up after one that was killed
	$(RUN)/fanfold down

status: setup ## Show each part of the running stack, and the lag of both agents
	$(RUN)/fanfold status

test: setup ## Run all tests on real servers, in two processes
	$(RUN)/pytest -n 2 --dist loadscope

drills: setup ## Run the drills under much load, one after the other: nothing else should run
	$(RUN)/pytest -m heavy -s tests/drills

simulate: setup ## Run the simulator longer: SEED=7 STEPS=5000000, or one episode again: EPISODE=7/123
	$(RUN)/python -m tests.simulator $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(EPISODE),--episode $(EPISODE))

check: setup ## Lint, format, types and folder boundaries
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup ## Format the code
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: setup ## Make docs/metrics.md and docs/asyncapi.yaml anew from the code
	$(RUN)/python -m infra.metrics_table
	$(RUN)/python -m infra.asyncapi

bench: setup ## Measure deliveries and reads a second beside the limits of the same run (about 15 minutes)
	$(RUN)/fanfold bench deliveries --json
	$(RUN)/fanfold bench read --json

lock: $(STAMP) ## Make the lock files anew from pyproject.toml and infra/stack/jgo.toml
	$(RUN)/python -m infra.lock

clean: ## Remove the environment and all caches (not .fanfold)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The lock file pins every package by hash. uv installs it when there is one, plain pip otherwise.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Fanfold needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + ": make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(RUN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(RUN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

# Kafka's and ZooKeeper's jars, as infra/stack/jgo.lock.toml names them.
$(JARS): $(STAMP) infra/stack/jgo.lock.toml
	$(RUN)/python -m infra.stack.jars
	@touch $@

# What the Java runtime learns of Kafka while it works: each broker then starts in half the time. No harm if it fails.
$(TRAINED): $(JARS)
	$(RUN)/python -m infra.stack.training
	-@touch $@
