# Every target sets up what it needs: a virtual environment in .venv, installed once and again only when
# setup.cfg, constraints.txt or pyproject.toml have changed. All paths are relative, so spaces above do no harm.

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
# The stamp's name is a checksum of what was installed, by which interpreter and where: neither a new checkout of
# the same files nor `touch` installs again, a moved folder does.
STATE := $(shell { cat setup.cfg constraints.txt pyproject.toml; "$(PYTHON)" -V; pwd; } 2>&1 | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/installed-$(STATE)
# One thread a process: tests run in $(WORKERS) processes, and small tensors lose time in thread pools.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
OFFLINE := HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup demo chain-demo test slow-test slurm-test app-test lint format docs bench tiny-backbones clean

help:
	@echo "make demo            train stage 1 of MMIG on the small world, evaluate it, show pictures (minutes, CPU)"
	@echo "make chain-demo      all five stages in order, then tables (20 minutes, CPU)"
	@echo "make test            the tests (minutes, 2 cores)"
	@echo "make slow-test       those that repeat what make test shows, at more moments and in more forms (2 cores)"
	@echo "make slurm-test      the scripts of slurm/ on a real SLURM, which tests/slurm/install.sh installs (minutes, 2 cores)"
	@echo "make app-test        the page of python -m mmig.app in a real Chromium, which tests/mmig/app/install.sh installs (minutes)"
	@echo "make lint            ruff: lint and format; make format mends what it can"
	@echo "make docs            the site of docs/, every link checked: build/site/index.html (a minute)"
	@echo "make bench           every performance promise as a ratio"
	@echo "make tiny-backbones  train assets/tiny again (hours on 2 cores)"
	@echo "make clean           remove caches and what demo and tests wrote; keeps $(VENV), assets and other runs"
	@echo "All set up $(VENV) by themselves. PIP_ARGS='...' is passed to pip, PYTHON=... names the interpreter."

setup: $(STAMP)

$(STAMP): setup.cfg constraints.txt pyproject.toml
	@if [ -f "$@" ]; then touch "$@"; exit 0; fi; \
	set -e; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mmig needs Python 3.11 or newer, $(PYTHON) is $$("$(PYTHON)" -V 2>&1); set PYTHON=..." >&2; exit 1; }; \
	[ -x "$(RUN)" ] || { echo "== creating the virtual environment $(VENV)"; "$(PYTHON)" -m venv "$(VENV)"; }; \
	echo "== installing mmig and what it needs into $(VENV) (the first time several GB, some minutes)"; \
	"$(RUN)" -m pip install --quiet --quiet --disable-pip-version-check $(PIP_ARGS) \
		--constraint constraints.txt --editable '.[test,dev,docs]'; \
	rm -f "$(VENV)"/installed-*; touch "$@"; \
	echo "== installed"

demo: $(STAMP)
	@$(OFFLINE) "$(RUN)" -m experiments.demo

chain-demo: $(STAMP)
	@$(OFFLINE) "$(RUN)" -m experiments.chain_demo

test: $(STAMP)
	@echo "== tests: $(WORKERS) processes"
	@$(ONE_THREAD) $(OFFLINE) "$(RUN)" -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

slow-test: $(STAMP)
	@echo "== slow tests: $(WORKERS) processes"
	@$(ONE_THREAD) $(OFFLINE) "$(RUN)" -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow --durations 20

slurm-test: $(STAMP)
	@echo "== tests on SLURM: $(WORKERS) clusters"
	@$(ONE_THREAD) $(OFFLINE) "$(RUN)" -m pytest -q -n $(WORKERS) --dist loadfile -m slurm tests/slurm

app-test: $(STAMP)
	@echo "== tests of the page in a browser"
	@$(ONE_THREAD) $(OFFLINE) "$(RUN)" -m pytest -q -m browser tests/mmig/app

lint: $(STAMP)
	@echo "== ruff: lint and format"
	@"$(RUN)" -m ruff check .
	@"$(RUN)" -m ruff format --check .

format: $(STAMP)
	@"$(RUN)" -m ruff check --fix .
	@"$(RUN)" -m ruff format .

# mkdocs-material says in each build that it has an end and a successor
docs: $(STAMP)
	@echo "== the site: build/site/index.html"
	@$(ONE_THREAD) $(OFFLINE) NO_MKDOCS_2_WARNING=1 "$(RUN)" -m mkdocs build --quiet --strict

# not bench/learning.py: a table of trainings, of 10 minutes each
bench: $(STAMP)
	@set -e; for script in $(filter-out bench/learning.py,$(wildcard bench/*.py)); do echo "== $$script"; $(ONE_THREAD) $(OFFLINE) "$(RUN)" "$$script"; done

tiny-backbones: $(STAMP)
	@$(OFFLINE) "$(RUN)" -m experiments.tiny_backbones

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache runs/demo runs/chain-* data/demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
