# demo  run the shipped detector on the shipped clip (own environment, no torch)
# test  the whole test suite        lint  format, lint, types
# bench side-by-side measurements   clean remove what these left

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test test-fast lint format bench bench-peers clean check-python

demo: $(DEMO)/.ready
	$(DEMO)/bin/trt-afdet demo --out out/demo

test: $(DEV)/.ready
	$(DEV)/bin/python -m pytest

test-fast: $(DEV)/.ready
	$(DEV)/bin/python -m pytest -m "not slow"

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy

format: $(DEV)/.ready
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

bench: $(DEV)/.ready
	@for file in benchmarks/bench_*.py; do echo; $(DEV)/bin/python $$file || exit 1; done

# The peers that bench compares with; without them it measures ours and says which is missing.
bench-peers: $(DEV)/.ready
	$(DEV)/bin/pip install $(PIP_FLAGS) -e ".[bench]"

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "trt-afdet needs Python 3.10 or newer; got $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 2; }

$(DEMO)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEMO): the runtime, no torch"
	@$(PYTHON) -m venv $(DEMO)
	@$(DEMO)/bin/pip install $(PIP_FLAGS) -e ".[runtime]"
	@touch $@

$(DEV)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEV): training, tests and linters (several GB, a few minutes)"
	@$(PYTHON) -m venv $(DEV)
	@$(DEV)/bin/pip install $(PIP_FLAGS) -e ".[train,dev]"
	@touch $@

clean:
	rm -rf $(DEMO) $(DEV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
