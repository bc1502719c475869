# `make transfer` and `make test` are all that a new user types; they set everything up.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS_STAMP := $(VENV)/.tools
GL_STAMP := $(VENV)/.gl
BROWSER_STAMP := $(VENV)/.browser
GL_PACKAGES := libegl1 libopengl0 libgl1-mesa-dri
CONFIG ?= lab-quick
ARGS ?=

# A Python of 3.11 or newer; `make install PYTHON=...` takes another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# The build of torch: `cpu` needs neither a GPU nor CUDA's packages; `default` is what pip takes by itself.
TORCH := 2.13.0
TORCH_BUILD ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help transfer test smoke lint install tools gl browser
.DEFAULT_GOAL := help

help:  ## Say what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

transfer: install gl  ## See, act, transfer: the whole experiment on two cores, with a report (CONFIG=lab-quick ARGS=)
	$(BIN)/darla run $(CONFIG) $(ARGS)

test: tools gl browser  ## Run the tests, in two processes (ARGS=)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

smoke: install gl  ## The whole pipeline at its smallest, in a folder that is thrown away
	runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && $(BIN)/darla run lab-smoke runs="$$runs" $(ARGS)

lint: tools  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

install: $(STAMP)  ## Make .venv with the versions that were tested (PYTHON= TORCH_BUILD=cpu|default)

$(STAMP): constraints.txt setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python of 3.11 or newer; install one or give PYTHON=" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$(TORCH_BUILD)" = cpu ]; then \
		$(BIN)/pip install 'torch==$(TORCH)+cpu' -c constraints.txt 2>/dev/null \
		|| $(BIN)/pip install 'torch==$(TORCH)+cpu' -c constraints.txt --extra-index-url $(TORCH_INDEX) 2>/dev/null \
		|| $(BIN)/pip install 'torch==$(TORCH)' -c constraints.txt; \
	else \
		$(BIN)/pip install 'torch==$(TORCH)' -c constraints.txt; \
	fi
	$(BIN)/pip install -c constraints.txt -e .
	@touch $@

tools: $(TOOLS_STAMP)  ## Add what tests, lint and benchmarks.throughput need

$(TOOLS_STAMP): $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[test,lint,peers,video,rerun]'
	@touch $@

gl: $(GL_STAMP)

$(GL_STAMP): | $(STAMP)
	@look() { $(BIN)/python -c 'from darla.doctor import check_gl; found = check_gl(); print(found.found); exit(found.state == "broken")'; }; \
	if ! look; then \
		if [ "$$(id -u)" = 0 ]; then apt-get update && apt-get install -y --no-install-recommends $(GL_PACKAGES); \
		elif sudo -n true; then sudo apt-get update && sudo apt-get install -y --no-install-recommends $(GL_PACKAGES); \
		else echo "off-screen OpenGL is missing; ask for: apt-get install $(GL_PACKAGES)" >&2; exit 2; fi; \
		look; \
	fi
	@touch $@

browser: $(BROWSER_STAMP)

# Without a browser its tests are skipped, and say so.
$(BROWSER_STAMP): | $(STAMP)
	@if command -v "$(or $(CHROMIUM),chromium)" || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update && apt-get install -y --no-install-recommends chromium; \
	elif sudo -n true; then sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium; \
	else false; fi || echo "there is no Chromium, so that the tests of the pages are skipped; ask for: apt-get install chromium" >&2
	@touch $@
