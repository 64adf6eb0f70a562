# make demo        install into .venv, run the whole path on a generated cohort, say where its report is
# make test        the same .venv, then lint, types and the test suite
# make test-slow   the long proofs
# make format      lay out and tidy the code
# make clean       remove .venv and what tools left behind

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test test-slow format clean

demo: .venv/.installed
	$(BIN)/m4oe demo

test: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) --dist loadfile

# pytest exits with 5 when no test is marked slow: nothing to prove is no failure.
test-slow: .venv/.installed-dev
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "slow and not gpu" || test $$? -eq 5

format: .venv/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache src/*.egg-info

# A stamp is younger than all it was installed from, so that a second run installs nothing.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "m4oe needs Python 3.11 to 3.13; name one that you have: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no 'venv' module; install it (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv (the first time, this takes some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(PIP) --editable '.[dev]'
	@touch $@
