# Two commands do everything on a machine with Python 3.11, pip and make: `make run` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Installs into a virtual environment that has no pip of its own yet.
BOOTSTRAP := $(PYTHON) -m pip --disable-pip-version-check -q --python $(BIN)/python
EDITABLE := $(PIP) install --no-deps --no-build-isolation -e .
# Tests wait for processes and clocks more than they compute, so a third worker is worth it on two cores.
SIDE_BY_SIDE := -n 3 --dist worksteal
HERE := HOTPLATE_DATA_DIR=$(CURDIR)/.hotplate

.PHONY: venv run demo serve test test-full test-workers check arch compatibility bench docs lock wheel clean

venv: .venv/ready-dev

run: demo ## the main job: everything on the embedded model

demo: .venv/ready
	$(HERE) $(BIN)/hotplate demo $(ARGS)

serve: .venv/ready
	$(HERE) $(BIN)/hotplate serve $(ARGS)

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv --without-pip .venv
	$(BOOTSTRAP) install --require-hashes -r requirements.lock
	$(PIP) install --require-hashes -r requirements-build.lock
	$(EDITABLE)
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(PIP) install --require-hashes -r requirements-dev.lock
	touch $@

test: .venv/ready-dev
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(ARGS)

test-full: .venv/ready-dev
	$(BIN)/python -m pytest -m slow --timeout 600 -n 2 --dist loadfile $(ARGS)

test-workers: .venv/ready-dev ## the flows through a proxy of several processes
	TEST_WORKERS=2 $(BIN)/python -m pytest --timeout 600 tests/flows $(ARGS)

check: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py

arch: .venv/ready-dev
	$(BIN)/lint-imports

compatibility: .venv/ready-dev ## every client against every case, and the page that says so
	$(BIN)/python -m pytest -m slow --timeout 600 tests/conformance
	$(BIN)/python -m tests.conformance.report

bench: .venv/ready-dev
	$(BIN)/python -m loadtests.bench $(ARGS)

docs: .venv/ready-dev
	$(BIN)/python docs/configuration.py

wheel: .venv/ready-dev
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .

# The locks; pip-tools lives in an environment of its own.
LOCK := /tmp/hotplate-lock/bin/pip-compile -q --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
lock:
	$(PYTHON) -m venv /tmp/hotplate-lock && /tmp/hotplate-lock/bin/pip install -q pip-tools==7.6.2
	$(LOCK) -o requirements.lock pyproject.toml
	printf 'hatchling==1.33.0\neditables~=0.5\n' | $(LOCK) -o requirements-build.lock -
	$(LOCK) -c requirements.lock --extra dev -o requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv .clients build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
