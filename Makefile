# Two commands on a machine with python3 (3.11 or newer) and make: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
BESIDE := --numprocesses $(JOBS) --dist loadfile
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test quick format lint types pytest node models inference academy bench clean

help:            ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/.installed ## Make .venv and install arsenale into it.

demo: install    ## Play a recorded coding session through the real thing.
	$(BIN)/arsenale demo

test: lint types pytest ## The whole gate.

quick: $(VENV)/.developed ## The gate's fast part: no slow tests.
	$(BIN)/pytest -q $(BESIDE) -m "not slow"

lint: $(VENV)/.developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.developed
	$(BIN)/pyright

pytest: $(VENV)/.developed
	$(BIN)/pytest -q $(BESIDE)

format: $(VENV)/.developed ## Format, and mend what ruff can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

node: $(VENV)/.node ## Install the MCP Inspector and the conformance suite for the tests that use them.

models: $(VENV)/.developed ## Fetch MiniLM into ARSENALE_HOME: better vectors than the built-in ones.
	$(BIN)/arsenale models install minilm

inference: $(VENV)/.inference ## Build llama-cpp-python, once a machine: about 4 minutes on two free cores.

academy: $(VENV)/.academy ## Install torch for training: on Linux its CPU build, 192 MB.

bench: $(VENV)/.developed ## Print every figure of benchmarks/.
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:           ## Remove what was built here.
	rm -rf $(VENV) dist .pytest_cache .ruff_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Arsenale needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(PIP) --group dev
	touch $@

$(VENV)/.node: $(VENV)/.developed tests/node/package.json
	tests/node/install $(BIN)/python $(VENV)/node
	touch $@

$(VENV)/.inference: $(VENV)/.installed
	$(BIN)/python -m arsenale_inference.installing --constraint constraints.txt
	touch $@

# PyPI's torch for Linux does not start without CUDA's libraries. The CPU build lies at its makers' own index;
# where that cannot be reached, pip takes PyPI's.
$(VENV)/.academy: $(VENV)/.installed
	$(PIP) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu --editable '.[academy]'
	touch $@
