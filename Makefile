# `make demo` and `make test` work on a bare machine with Python 3.11 and make: each builds .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage check docs dist fix clean

demo: .venv/installed ## train, fuse, evaluate on synthetic traffic signs; write runs/demo/report.html
	$(BIN)/steadylens reproduce --out runs/demo

# One process a core: threads beside them only wait for each other, and the suite takes twice as long. Files in
# their own order: else those with few tests, which start processes of their own, would all come at the end.
# Compiled files are kept whatever the environment says, because the tests start some hundred processes.
TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: .venv/installed-dev ## the test suite
	$(TESTS)

coverage: .venv/installed-dev ## the test suite, and which lines it does not reach; takes longer
	$(TESTS) --cov --cov-report=term

check: .venv/installed-dev ## lint, formatting, types, layer contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The gallery is made by running examples/; the tests then read what the examples printed.
docs: .venv/installed-dev ## the documentation site, in build/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees docs build/docs
	$(BIN)/pytest --quiet tests/docs/test_examples.py

dist: .venv/installed-dev ## wheel and sdist, in dist; checks both and uses the wheel in a clean environment
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/wheel_alone.py dist

fix: .venv/installed-dev ## what ruff can repair by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, what was built and every cache
	rm -rf .venv build dist docs/gallery .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[report]"
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ .venv/installed
