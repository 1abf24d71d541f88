# Everything for setup, use, tests and checks; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# The PyTorch that the tests run on. On Linux PyPI serves it with CUDA; for a smaller CPU build, or another CUDA:
#   make setup TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
ARGS ?=
BACKBONE ?= mpnet

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train compare test test-all crash-test test-lowest fuzz lint types format bench check-configs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything for use, tests and benchmarks

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(STAMP) ## train both tasks on the shipped corpus with MPNet; BACKBONE=minilm is faster; more with ARGS="seed=1"
	$(BIN)/python -m mtl.train experiment=quickstart backbone=$(BACKBONE) $(ARGS)

compare: $(STAMP) ## train the scenarios of conf/experiment/scenarios.yaml and compare them; the same command continues
	$(BIN)/python -m mtl.train -m experiment=scenarios backbone=$(BACKBONE) $(ARGS)

test: $(STAMP) ## run the tests, without the long ones
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-all: $(STAMP) ## run all tests, the property tests on new examples
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow" --hypothesis-profile=default $(ARGS)

crash-test: $(STAMP) ## kill a training 50 times, resume it, compare; other moments with ARGS="kills=20 seed=7"
	$(BIN)/python -m tests.crash.run $(ARGS)

test-lowest: ## run the tests on the lowest versions that pyproject.toml admits, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv $(TORCH)
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  --editable '.[dev]' '$(firstword $(TORCH))'
	.venv-lowest/bin/python -m pytest -n auto --dist loadfile $(ARGS)

fuzz: $(STAMP) ## put 10,000 broken inputs through every command; one target with ARGS="'damaged models'"
	$(BIN)/python -m tests.fuzz.run $(ARGS)

lint: $(STAMP) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-configs: $(STAMP) ## compose and check every configuration
	$(BIN)/python -m pytest -q tests/config $(ARGS)

bench: $(STAMP) ## measure against other tools; some with ARGS="encode train"
	$(BIN)/python -m tests.benchmarks.run $(ARGS)

clean: ## remove caches and build products, not outputs
	rm -rf .venv-lowest build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
