# make demo: from a clone to a fitted law.  make test: everything that must hold.
# The one thing to choose is the Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
SITE := site
SOURCES := $(shell find csrc -type f)

.PHONY: demo test checks test-long test-gpu lint docs bench bench-gpu lock clean help

help:
	@echo "make demo    create $(VENV), build the kernels, sweep, fit and plot: writes $(DEMO)/"
	@echo "make test    lint, type check and all tests"
	@echo "make test-long   what takes minutes: emulated CUDA kernels, sanitizers, the CPU's tests on emulated ops, large fits"
	@echo "make docs    the site, from docs/ and docstrings: $(SITE)/index.html (Python 3.11 or newer)"
	@echo "make bench   time the kernels against a copy of the same bytes and the peers installed"
	@echo "make test-gpu, make bench-gpu   the same of the CUDA kernels; they say so where no device is"
	@echo "make lock    resolve requirements.lock anew"
	@echo "make clean   remove $(VENV), build/, $(SITE)/ and $(DEMO)/"

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "qscale needs Python 3.10 or newer: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

# Without build isolation, so that the kernels are built against the torch of the lock file and no other.
$(VENV)/built: $(VENV)/installed pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	    -C cmake.define.QSCALE_KERNELS=ON --editable .
	@touch $@

demo: $(VENV)/built
	$(BIN)/qscale sweep run examples/demo.yaml --out $(DEMO)/study
	$(BIN)/qscale sweep export $(DEMO)/study --out $(DEMO)/observations.csv
	$(BIN)/qscale fit $(DEMO)/study --out $(DEMO)/law.json
	$(BIN)/qscale report $(DEMO)/study --law $(DEMO)/law.json --out $(DEMO)/law.png
	$(BIN)/qscale report $(DEMO)/study --out $(DEMO)/report.html

lint: $(VENV)/built
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Side by side: tests that wait leave time to the type checker.
test: $(VENV)/built
	@$(MAKE) --no-print-directory --jobs 2 lint checks

checks: $(VENV)/built
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/built
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

test-gpu: $(VENV)/built
	$(BIN)/python -m pytest tests/gpu

# A warning is an error: a link that leads nowhere, a name in a docstring that is not there.
docs: $(VENV)/built
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
	    --doctree-dir build/doctrees docs $(SITE)
	@echo "open $(SITE)/index.html"

bench-gpu: $(VENV)/built
	$(BIN)/python benchmarks/gpu.py

bench: $(VENV)/built
	$(BIN)/qscale bench

# uv resolves for all Pythons at once. What torch's CUDA wheel pins for itself is left to that wheel.
lock: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	echo "torch==2.13.0" > $(VENV)/torch.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
	    --extra train --extra report --extra bench --extra docs --extra dev --constraints $(VENV)/torch.txt pyproject.toml \
	    --output-file $(VENV)/resolved.txt
	(grep '^#' requirements.lock; grep -vE '^(nvidia-|cuda-|triton==)' $(VENV)/resolved.txt) > $(VENV)/new.lock
	mv $(VENV)/new.lock requirements.lock

clean:
	rm -rf $(VENV) build $(SITE) $(DEMO)
