# Every habit is one command. `make book` and `make test` need nothing but Python 3.11+ and the internet.
PYTHON ?= python3
VENV := .venv
VERSION_OF = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# A Python that was asked for gets an environment of its own where .venv is of another version.
ifneq ($(origin PYTHON), file)
ASKED := $(call VERSION_OF,$(PYTHON))
MADE := $(call VERSION_OF,.venv/bin/python)
$(if $(ASKED),,$(error $(PYTHON) does not run: set PYTHON to a Python of 3.11 or later, by its whole path if need be))
VENV := .venv$(if $(and $(MADE),$(filter-out $(ASKED),$(MADE))),-$(ASKED))
endif
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
PRESET ?= full
DEVICE ?= cpu
BENCH ?=
STEP ?=
# In a folder of its own and without its dependencies: it asks for a later PyTorch than torchaudio has.
TORCHDISTILL := benchmarks/.torchdistill
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# No widget, no progress bar and no frozen-module warning in a page.
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Two processes with a thread each: tests and smoke chapters train networks so small that a second thread only waits.
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: book fast test test-all elsewhere stress full gpu publish notebooks site bench lint format clean help

help:            ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "%-10s %s\n", $$1, $$2}' Makefile

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kdrepro needs Python 3.11 or later, not $$($(PYTHON) --version 2>&1): set PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $(INSTALLED)

book: $(INSTALLED)   ## every chapter at smoke, the site built from them; prints the page to open
	$(BIN)/kdrepro run all --preset smoke
	$(BIN)/kdrepro book --preset smoke

fast: $(INSTALLED)   ## unit and property tests
	$(TWO) --dist loadfile -m "not slow and not browser" tests

test: fast           ## those, nbval, the strict build of the published book, and the site in a browser
	$(TWO) --dist loadscope --nbval-lax --nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider notebooks
	$(BIN)/kdrepro book --published
	$(BIN)/python -m pytest -rs -m browser tests/publishing

test-all: test       ## those, and the slow rest
	$(TWO) --dist worksteal -m slow tests

elsewhere: $(INSTALLED) ## tests of executors and stores with Ray and an S3, which it installs
	$(BIN)/python -m pip install --quiet -e '.[test,elsewhere]'
	$(TWO) --dist worksteal tests/executors tests/store

stress: $(INSTALLED) ## the processes that are killed at random moments in `make test-all`, 100 times instead of 5
	KDREPRO_KILLS=100 $(BIN)/python -m pytest tests/test_processes.py

full: $(INSTALLED)   ## every chapter on the real data (hours on a CPU)
	$(BIN)/kdrepro data fetch mnist
	$(BIN)/kdrepro data fetch tiny-imagenet
	$(BIN)/kdrepro run all --preset full --device $(DEVICE)

gpu: $(INSTALLED)    ## on a machine with a GPU: tests, benchmark, full in pieces; one of them: STEP="full --out FOLDER"
	$(BIN)/python benchmarks/gpu.py $(STEP)

publish: $(INSTALLED)   ## copy the last run at PRESET into the book
	$(BIN)/kdrepro publish --preset $(PRESET)

notebooks: $(INSTALLED)   ## re-execute the sources at smoke: nbval's reference
	$(BIN)/kdrepro notebooks

site: $(INSTALLED)   ## the published book, built strictly
	$(BIN)/kdrepro book --published

bench: $(INSTALLED)   ## images a second beside ordinary PyTorch loops and torchdistill; into the book (a quarter of an hour)
	test -d $(TORCHDISTILL) || $(BIN)/python -m pip install --quiet --no-deps --target $(TORCHDISTILL) torchdistill==1.1.5 \
		|| echo "torchdistill could not be installed: the table will say that it is absent."
	$(BIN)/python benchmarks/bench.py $(BENCH)

lint: $(INSTALLED)   ## check formatting and lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)   ## apply formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the environment, the builds and the smoke run (trained networks of full stay)
	rm -rf .venv .venv-* $(TORCHDISTILL) _build runs/smoke kdrepro.egg-info .pytest_cache .ruff_cache .hypothesis
