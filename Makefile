# `make demo` and `make test` need Python >= 3.11, a C compiler and pip's package index; nothing else is prepared.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(wildcard src/lazyseq/*)

.SECONDARY: $(VENV)/.built
.PHONY: demo test bench lint types c-tests clean

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/preprocessing_pipeline.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench_views.py
	$(BIN)/python benchmarks/bench_iteration.py
	$(BIN)/python benchmarks/bench_deep.py
	$(BIN)/python benchmarks/bench_arrays.py
	$(BIN)/python benchmarks/bench_caches.py
	$(BIN)/python benchmarks/bench_pipeline.py
	$(BIN)/python benchmarks/bench_prefetch.py
	$(BIN)/python benchmarks/bench_processes.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	. $(BIN)/activate && cython-lint src/lazyseq/*.pyx src/lazyseq/*.pxd  # which looks for pycodestyle on the PATH

types: $(VENV)/.installed-test $(VENV)/.types
	$(BIN)/mypy --strict src/lazyseq tests/typing
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist tests/typing/stubtest-allowlist lazyseq

c-tests:
	$(MAKE) -C tests/c

# Sources that changed are built and installed again, once; then the packages that the goal needs.
$(VENV)/.built: $(SOURCES) | $(BIN)/python
	rm -rf $(VENV)/wheel
	$(PIP) wheel --no-deps --wheel-dir $(VENV)/wheel .
	$(PIP) install --no-deps --force-reinstall $(VENV)/wheel/*.whl
	touch $@

$(VENV)/.installed-%: $(VENV)/.built
	$(PIP) install "$$(echo $(VENV)/wheel/*.whl)[$*]"
	touch $@

$(VENV)/.lint: | $(BIN)/python
	$(PIP) install ruff==0.17.6 cython-lint==0.22.1
	touch $@

$(VENV)/.types: | $(BIN)/python
	$(PIP) install mypy==2.4.1 basedpyright==1.40.2
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist .venv*
