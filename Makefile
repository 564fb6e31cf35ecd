# Every target sets up its own environment in .venv: on a fresh machine `make race` or `make test` is all there is to type.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: race test check bench peers fashion clean

race: .venv/ready
	$(BIN)/secant race burgers --compile

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: peers
	$(BIN)/python -m benchmarks

# None of the peers asks for another torch than the one installed; curvlinops goes in without dependencies, one of which asks for torchvision for its examples.
peers: .venv/ready
	$(PIP) install --quiet -c constraints.txt -e '.[peers]'
	$(PIP) install --quiet --no-deps -c constraints.txt curvlinops-for-pytorch backpack-for-pytorch einconv einops linear_operator unfoldNd opt_einsum jaxtyping tqdm

# Elsewhere the four files may come from anywhere: what is in them is checked when they are read.
FASHION := /usr/share/datasets/fashion-mnist
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
fashion:
	@if [ -d $(FASHION) ]; then echo "Fashion-MNIST is in $(FASHION)."; \
	elif command -v apt-get >/dev/null; then \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends dataset-fashion-mnist; \
	else \
		echo "error: Fashion-MNIST is installed by apt, which is not here." >&2; \
		echo "hint: put its four *-ubyte.gz files into a folder and set SECANT_FASHION_MNIST to it" >&2; exit 1; \
	fi

# torch first and by its exact version, so that nothing else pulls in another build.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Expected Python 3.11 or newer, got " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -c constraints.txt torch==2.13.0
	$(PIP) install --quiet -c constraints.txt -e '.[race,dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
