PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench lock clean

demo: $(STAMP)
	$(BIN)/tenantry demo

# Two halves at once, one for each core of a small machine; what the first one says comes after the second one's words.
test: $(STAMP)
	@$(BIN)/python -m pytest tests/integration > $(VENV)/integration.log 2>&1 & \
	first=$$!; trap "kill $$first" INT TERM; \
	$(BIN)/python -m pytest tests/contract tests/fault tests/unit; second=$$?; \
	wait $$first; first=$$?; cat $(VENV)/integration.log; \
	exit $$((first > second ? first : second))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python bench/collect.py
	$(BIN)/python bench/vault.py
	$(BIN)/python bench/demo.py

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tenantry needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.x.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

# Needs uv; pins every package for every supported Python with its hashes, and records no address.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 requirements.in -o requirements.txt

clean:
	rm -rf $(VENV) .tenantry-demo .simulator
