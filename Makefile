# Every target sets up its own environment in .venv: on a fresh machine `make race` or `make test` is all there is to type.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: race test check bench peers clean

race: .venv/ready
	$(BIN)/secant race burgers --compile --out runs/burgers

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready peers
	$(BIN)/python -m benchmarks

# Each peer without its dependencies, which would bring a second torch or an older SciPy.
peers: .venv/ready
	$(PIP) install --quiet --no-deps -c constraints.txt pytorch-minimize torchzero ssbroyden-optimistix optimistix
	$(PIP) install --quiet -c constraints.txt jax equinox lineax

# torch first and by its exact version, so that nothing else pulls in another build.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -c constraints.txt torch==2.13.0
	$(PIP) install --quiet -c constraints.txt -e '.[race,dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
