# Each target makes the virtual environment it needs; nothing else has to be installed than python3, make and git.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTHON_VERSION ?= 3.12
# CPU threads of one process. Trials set their own; this keeps a single test run from oversubscribing small machines.
export OMP_NUM_THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n > 4 ? 4 : n )))

.PHONY: help tune train test test-slow test-cluster test-faults gpu gpu-wheels check format clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

tune: $(VENV)/.use  ## a real search on real images: digits with 40 % wrong labels (about 4 minutes on 2 cores)
	$(BIN)/python launch/tune.py $(ARGS)

train: $(VENV)/.use  ## one training of Meta-Weight-Net on the same images, with its pictures
	$(BIN)/python launch/train.py $(ARGS)

test: $(VENV)/.dev  ## the tests, without those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev  ## the slow ones
	$(BIN)/python -m pytest -m slow $(ARGS)

test-cluster: $(VENV)/.dev  ## clusters of hosts on this machine, 8 to 20 minutes (root; openssh-server iproute2 rsync awscli)
	$(BIN)/python -m pytest -m cluster $(ARGS)

test-faults: $(VENV)/.dev  ## every process of a search killed 20 times (an hour); prints what was lost
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults $(ARGS)

gpu: $(if $(VENV),$(VENV)/.dev)  ## tests and benchmark of a GPU (7 minutes); VENV= PYTHON=python3 takes a Python that has PyTorch
	PYTHON="$(if $(VENV),$(BIN)/python,$(PYTHON))" sh benchmarks/gpu.sh $(ARGS)

gpu-wheels:      ## what a machine with PyTorch and no network lacks for that, into wheels/ (for its Python: PYTHON_VERSION=3.12)
	$(PYTHON) -m pip download -q --only-binary=:all: --python-version $(PYTHON_VERSION) \
	  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels annotated-types pydantic

check: $(VENV)/.dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## put the code into the form that `check` asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12) and "mwray needs Python 3.11 or 3.12; name one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.use: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.use
