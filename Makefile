# Two commands on a machine with python3 (3.11 or newer) and make: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
BESIDE := --numprocesses $(JOBS) --dist loadfile
PIP    := $(BIN)/python -P -m pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --requirement requirements

LOCK   := cd requirements && ../$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
          --no-emit-index-url --python-version 3.11 --constraint ../constraints.txt --output-file

.DEFAULT_GOAL := help
.PHONY: help install demo test quick tools format lint types pytest models inference academy bench fuzz lock clean

help:            ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/bin/arsenale ## Make .venv and install arsenale into it.

demo: install    ## Show in a minute what each server is for, in a temporary home.
	@$(BIN)/python -m arsenale_inference.installation --constraint constraints.txt || echo "The demo goes on without local models."
	$(BIN)/arsenale demo

test: tools lint types pytest ## The whole gate. It installs what it can and reports what it skips.

quick: $(VENV)/.developed ## The gate's fast part: no slow tests.
	$(BIN)/pytest -q $(BESIDE) -m "not slow"

tools: $(VENV)/.developed ## Install what some tests need: engine, Node tools, torch (CPU build).
	$(BIN)/python tests/tools.py

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

models: $(VENV)/.developed ## Fetch MiniLM into ARSENALE_HOME: better vectors than the built-in ones.
	$(BIN)/arsenale models install minilm

inference: install ## Install the inference engine: prebuilt in seconds, else built in minutes.
	$(BIN)/python -m arsenale_inference.installation --constraint constraints.txt $(if $(FROM_SOURCE),--from-source)

academy: $(VENV)/.developed ## Install torch for training: on Linux its CPU build, 192 MB.
	$(BIN)/python tests/tools.py torch

bench: $(VENV)/.developed ## Print every figure of benchmarks/.
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

fuzz: $(VENV)/.developed ## Attack every parser of foreign bytes: make fuzz MINUTES=120.
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

lock: $(VENV)/.made ## Write requirements/*.txt: the versions of constraints.txt with their hashes.
	$(PIP) uv
	printf 'hatchling>=1.27\neditables\npip\n' | $(LOCK) build.txt -
	$(LOCK) run.txt ../pyproject.toml
	$(LOCK) dev.txt --group ../pyproject.toml:dev --constraint run.txt

clean:           ## Remove what was built here.
	rm -rf $(VENV) dist .pytest_cache .ruff_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Arsenale needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is missing or broken (Debian, Ubuntu: apt install python3-venv)."; exit 1; }
	$(LOCKED)/build.txt
	touch $@

$(VENV)/bin/arsenale: $(VENV)/.made pyproject.toml requirements/run.txt
	$(LOCKED)/run.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.developed: $(VENV)/bin/arsenale
	$(LOCKED)/dev.txt
	touch $@
