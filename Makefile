# make demo          set up and run the main job; ONCE=1 stops after the results
# make test          set up and pass the tests
# make test-long     those that start whole appliances, browsers or trainings
# make lint          ruff and mypy
# make translations  renew the catalogs of the page from its sentences; then translate what is new, and run it again
# make clean         remove the environments
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(p))) python3)
SAMPLES ?= ../shared/data/chest-kermany/test
COUNT ?= 6
PYTEST ?=
# Half as many processes again as cores, since tests wait much; threads besides would only wait for each other. Whole files
# to each: what a file builds once, its tests share. In their own order, since else files with few tests come last, which
# are the long ones.
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 2); expr $$cores + $$cores / 2)
TESTS = OMP_NUM_THREADS=1 .venv-dev/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-long lint translations clean

demo: .venv/ready
	.venv/bin/scanside demo --count $(COUNT) $(if $(ONCE),--once) $(if $(wildcard $(SAMPLES)),--samples $(SAMPLES))

test: .venv/ready .venv-dev/ready
	.ci/debian-packages
	.ci/node-packages
	$(if $(PYTEST),.venv-dev/bin/python -m pytest $(PYTEST),$(TESTS))

test-long: .venv/ready .venv-dev/ready
	.ci/debian-packages
	.ci/node-packages
	$(TESTS) -m "long and not slow"

lint: .venv-dev/ready
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy

BABEL = .venv-dev/bin/pybabel --quiet
CATALOGS = appliance/web/translations

translations: .venv-dev/ready
	mkdir -p .build
	$(BABEL) extract --mapping pyproject.toml --keyword marked --keyword m --sort-output --no-location \
		--project Scanside --copyright-holder Scanside --msgid-bugs-address CONTRIBUTING.md --output .build/messages.pot .
	$(BABEL) update --input-file .build/messages.pot --output-dir $(CATALOGS) --no-fuzzy-matching --ignore-obsolete \
		--ignore-pot-creation-date --width 100
	$(BABEL) compile --directory $(CATALOGS)

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
