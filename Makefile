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

slow: $(STAMP)  ## the everyday suite and what takes minutes
	@$(BIN)/python -m pytest -m "slow or not slow"

lint: $(STAMP)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP)  ## the numbers the documentation quotes, measured here
	@$(BIN)/python -m benchmarks

docs: $(STAMP)  ## check that every public name, command and preset is documented, and run the README's code
	@$(BIN)/python -m pytest -q tests/test_docs.py

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes, once)"
	@if $(PYTHON) -c "import torch" 2>/dev/null; then \
	  $(PYTHON) -m venv --system-site-packages $(VENV) && grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt; \
	else \
	  $(PYTHON) -m venv $(VENV) && cp constraints.txt $(VENV)/constraints.txt; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
