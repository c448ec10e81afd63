# make demo PYTHON=/path/to/python uses that interpreter, and the torch it already has.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow lint bench docs clean

demo: $(STAMP)  ## train a network on real digits to its edge of stability and write the report
	@$(BIN)/tightrope run demo --report

test: $(STAMP)  ## the everyday suite
	@$(BIN)/python -m pytest

slow: $(VENV)/.installed-all  ## the everyday suite and what takes minutes, with every integration installed
	@$(BIN)/python -m pytest -m "slow or not slow"

lint: $(STAMP)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.installed-bench  ## the numbers the documentation quotes, measured here beside other libraries
	@$(BIN)/python -m benchmarks

docs: $(STAMP)  ## check that every public name, command and preset is documented, and run the README's code
	@$(BIN)/python -m pytest -q tests/test_docs.py

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@cp constraints.txt $(VENV)/constraints.txt
	@# An interpreter that has torch 2.13 lends it: its packages are seen after the environment's own.
	@if $(PYTHON) -c "import torch; assert torch.__version__.startswith('2.13.')" 2>/dev/null; then \
	  $(PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$(echo $(VENV)/lib/python*/site-packages)/lender.pth; \
	  grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $(STAMP)

$(VENV)/.installed-all: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev,print,ray,lightning,accelerate,transformers,trackers]"
	@touch $@

$(VENV)/.installed-bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev,bench,transformers]"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
