# Two commands: `make demo` and `make test`. Each does all of its set-up on a machine that has
# Python 3.11, pip and make, and nothing else.
#
#   PYTHON    interpreter to build the environment with          make test PYTHON=python3.12
#   PIP_ARGS  passed to every pip install, e.g. an index         make demo PIP_ARGS="--index-url ..."
#   JOBS      test processes at once; 2
#   ARGS      passed on to pytest, the benchmark, the gallery    make test ARGS="-k glow"

PYTHON   ?= python3.11
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=
JOBS     ?= 2
OUT      ?= out

BIN      := $(VENV)/bin
READY    := $(VENV)/.ready
PLUGINS  := $(sort $(wildcard plugins/*))
# One thread a process: the tests start many processes, and torch's threads would fight.
THREADS  := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: setup demo test test-slow bench gallery lint format clean

setup: $(READY)

# Made afresh: what an interrupted or older run left behind is not trusted. Build isolation is off
# because ten editable installs would otherwise each fetch setuptools anew. pip compiles what it
# copies, not what it links to; where Python may not write bytecode, each command would compile anew.
$(READY): constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-build-isolation \
	    -e '.[dev]' $(foreach plugin,$(PLUGINS),-e ./$(plugin))
	$(BIN)/python -m compileall -q kexue_core $(wildcard plugins/*/kexue_*)
	@touch $@

demo: $(READY)
	@mkdir -p $(OUT)
	$(BIN)/kexue list
	$(BIN)/kexue verify glow-celeba
	$(BIN)/kexue sample glow-celeba -n 32 --columns 8 --out $(OUT)/glow-celeba.png

# A file's tests stay in one process: some share an environment that takes a while to make.
test: $(READY)
	$(THREADS) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# What takes minutes: timings, long trainings, exhaustive mutation.
test-slow: $(READY)
	$(THREADS) $(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

# Ours beside its peers, which are installed for this alone: benchmarks/results/table.md.
bench: $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-build-isolation \
	    -r benchmarks/requirements.txt
	$(THREADS) $(BIN)/python benchmarks/run.py $(ARGS)

# Every picture of the documentation, drawn from published weights: docs/images.
gallery: $(READY)
	$(THREADS) $(BIN)/python docs/make_gallery.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(foreach plugin,$(PLUGINS),$(BIN)/mypy --strict $(patsubst %/py.typed,%,$(wildcard $(plugin)/kexue_*/py.typed)) &&) true

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info plugins/*/*.egg-info plugins/*/build
