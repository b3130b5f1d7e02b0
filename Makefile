# Everything that a contributor or a user types. Needs Python 3.11+ and make, nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup demo test conformance failures crashes soak figures simulate mutants check lint types imports lock clean
BIN := .venv/bin
ARGS ?=

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: ## create .venv with everything (does nothing when nothing changed)
	@tools/setup.sh dev

demo: ## play one trading day; options in ARGS, for example make demo ARGS="--seed 7"
	@tools/setup.sh runtime
	@$(BIN)/exitguard demo $(ARGS)

test: setup ## run the tests; options in ARGS
	@$(BIN)/python -m pytest $(ARGS)

# A fresh seed each time unless one is given; a failure prints how to see it again.
SEED := $(or $(SEED),$(shell date +%s))
CASES ?= 150

conformance: setup ## ask the paper exchange everything in Alpaca's API documents; options: SEED, CASES, ARGS
	@echo "conformance: SEED=$(SEED) CASES=$(CASES)"
	@EXITGUARD_CONFORMANCE_SEED=$(SEED) EXITGUARD_CONFORMANCE_CASES=$(CASES) \
		$(BIN)/python -m pytest tests/contract/alpaca --timeout 600 $(ARGS)

failures: setup ## write docs/failures.md: each known failure and the tests that carry its number
	@$(BIN)/python tools/failures.py

crashes: setup ## kill -9 at every named point; writes its table into docs/guarantees.md
	@$(BIN)/exitguard crashes --docs docs/guarantees.md $(ARGS)

soak: setup ## 200 accounts, 10,000 positions, an hour of market time under faults; options in ARGS
	@$(BIN)/exitguard soak $(ARGS)

figures: setup ## measure the figures of docs/guarantees.md (hours); ARGS="soak" for one, ARGS="--render" for none
	@$(BIN)/exitguard figures $(ARGS)

# Ten thousand days of trouble: fresh ones each time unless SEED says which.
SEEDS := $(or $(SEEDS),10000)
JOBS := $(or $(JOBS),$(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1))

simulate: setup ## play 10,000 fresh seeds with all faults; options: SEED, SEEDS, JOBS, ARGS
	@echo "simulate: SEED=$(SEED) SEEDS=$(SEEDS) JOBS=$(JOBS)"
	@$(BIN)/exitguard sim --seed $(SEED) --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

mutants: setup ## plant known bugs, each must be found within its number of seeds; options: JOBS, ARGS
	@$(BIN)/exitguard sim --mutants --jobs $(JOBS) $(ARGS)

check: setup lint types imports test ## everything that must hold before a change is shared

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

# Made for every platform and Python that we support; no address of a package index gets into them.
UV := $(shell command -v uv 2>/dev/null || echo .venv/bin/uv)
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

lock: ## resolve the dependencies again (needs uv)
	@test -x "$(UV)" || { echo "make lock needs uv on PATH, or: .venv/bin/python -m pip install uv" >&2; exit 1; }
	@$(COMPILE) --group build -o requirements-build.lock
	@$(COMPILE) -o requirements.lock pyproject.toml
	@$(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## remove what can be made again
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
