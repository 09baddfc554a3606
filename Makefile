# Everything runs from .venv, which `make setup` builds from constraints.txt: pinned, with hashes.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
ARGS ?=
KILLS ?= 50
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PACKAGES := schemas streams services
TYPED := $(wildcard $(PACKAGES) tests benchmarks)
# The stamp's name carries what the environment was built from, so a stale one is never mistaken for a good one.
STAMP := $(VENV)/.weir-$(shell cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)
# Every hosted test that needs more than Python; `make check` leaves them to `make test`.
HEAVY := kafka or clickhouse or browser or slow

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(STAMP) ## install into .venv, fetch the Kafka jars and the demo's data (says how much first), compile the join
	@$(BIN)/python -m services.local.datasets && $(BIN)/python -m services.local.setup && $(BIN)/python -m streams.join.columns

$(STAMP): constraints.txt pyproject.toml
	@.ci/setup "$(PYTHON)" "$(VENV)"
	@rm -f $(VENV)/.weir-* && touch $@

.PHONY: check
check: setup ## lint, types, import rules, doctests, unit and contract tests: under a minute
	@$(MAKE) -j2 --output-sync=target lint types imports
	@HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-quick} $(BIN)/pytest -q -n 2 --dist loadgroup -m "not ($(HEAVY))"

.PHONY: lint types imports
lint:
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && echo "ruff: clean"
types:
	@$(BIN)/mypy $(TYPED)
imports:
	@report=$$($(BIN)/lint-imports --no-logo 2>&1) && tail -n 1 <<<"$$report" || { echo "$$report"; exit 1; }

# Two test processes share the processors; threads of BLAS and OpenMP beside them would only spin.
check test: export OMP_NUM_THREADS ?= 1
check test: export OPENBLAS_NUM_THREADS ?= 1

.PHONY: test
test: setup ## every test, the real Kafka, ClickHouse and browser included; ARGS goes to pytest
	@.ci/missing
	@$(BIN)/pytest -q -n 2 --dist loadgroup $(ARGS)

.PHONY: demo
demo: setup ## watch a model degrade on real data, be retrained and be promoted; ARGS goes to `weir demo`
	@$(BIN)/weir demo $(ARGS)

.PHONY: faults
faults: setup ## kill KILLS=50 join workers and more, and count what is lost (docs/faults.md); ARGS: --json, --seed
	@$(BIN)/python -m tests.faults --kills $(KILLS) $(ARGS)

.PHONY: bench
bench: setup ## one table per benchmark (benchmarks/*.py); ARGS names some of them
	@for file in $(if $(ARGS),$(ARGS:%=benchmarks/%.py),$(wildcard benchmarks/bench_*.py)); do $(BIN)/python "$$file"; done

.PHONY: schemas
schemas: setup ## write the JSON Schema of every event to schemas/json
	@$(BIN)/python -m schemas.generate

.PHONY: format
format: setup ## let ruff fix what it can, and format
	@$(BIN)/ruff check -q --fix-only . && $(BIN)/ruff format -q .

.PHONY: lock
lock: ## resolve pyproject.toml again into constraints.txt
	@.ci/lock "$(UV)" $(ARGS)

.PHONY: clean
clean: ## remove .venv and every tool's cache; downloads stay in the user's cache
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(PACKAGES) tests $(wildcard benchmarks) -name __pycache__ -prune -exec rm -rf {} +
