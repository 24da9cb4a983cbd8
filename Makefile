# `make demo` and `make test` work on a bare machine with Python 3.11 and make: each builds .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fix clean

demo: .venv/installed ## train, fuse, evaluate on synthetic traffic signs; write runs/demo/report.html
	$(BIN)/steadylens reproduce --out runs/demo

# One process a core: threads beside them only wait for each other, and the suite takes twice as long.
test: .venv/installed-dev ## the test suite, with coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --cov --cov-report=term

check: .venv/installed-dev ## lint, formatting, types, layer contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/installed-dev ## what ruff can repair by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[report]"
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ .venv/installed
