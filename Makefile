# make demo          set up and run the main job; ONCE=1 stops after the results
# make test          set up and pass the tests
# make lint          ruff and mypy
# make clean         remove the environments
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(p))) python3)
SAMPLES ?= ../shared/data/chest-kermany/test
COUNT ?= 6
PYTEST ?=
# A process for each core, whole files to each: what a file builds once, its tests share. In their own order, since else
# files with few tests come last, which are the long ones.
TESTS = .venv-dev/bin/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint clean

demo: .venv/ready
	.venv/bin/scanside demo --count $(COUNT) $(if $(ONCE),--once) $(if $(wildcard $(SAMPLES)),--samples $(SAMPLES))

test: .venv/ready .venv-dev/ready
	.ci/debian-packages
	.ci/node-packages
	$(if $(PYTEST),.venv-dev/bin/python -m pytest $(PYTEST),$(TESTS))

lint: .venv-dev/ready
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy

# The device, as it ships: no torch, no compiler.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --editable .
	touch $@

# Tools, tests and the training side. torch first: its CPU build, where the index has one, keeps CUDA out.
.venv-dev/ready: pyproject.toml
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-dev/bin/pip install --quiet --disable-pip-version-check --editable '.[training,dev]'
	touch $@

clean:
	rm -rf .venv .venv-dev .build
