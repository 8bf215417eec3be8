# demo  run the shipped detector on the shipped clip (own environment, no torch)
# test  the whole test suite        lint  format, lint, types
# bench side-by-side measurements (those of a GPU are part of gpu-check)
# clean remove what these left
# peers          the servers that the tests of the streams talk to, from Debian's packages
# native         every native part that this machine can build, with C++ tests, into build/native
# test-native    the C++ tests, plain and under sanitizers
# plugin-matrix  the plugin against HEADERS=FOLDER, which holds a folder per TensorRT version

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
PIP_FLAGS := --quiet --disable-pip-version-check

# These environments need no CUDA code, which takes minutes to compile; `make native` makes that.
HOST_ONLY := SKBUILD_CMAKE_DEFINE=AFDET_CUDA=OFF
CMAKE := $(DEV)/bin/cmake
CMAKE_STRICT := -DAFDET_TESTS=ON -DAFDET_WERROR=ON
# Clang has a fuzzer; GCC does for the rest.
SANITIZED_CXX := $(shell command -v clang++ || command -v g++ || echo c++)
CXX_FILES = $(shell git ls-files 'plugins/*.h' 'plugins/*.hpp' 'plugins/*.cpp' 'plugins/*.cu' 'plugins/*.cuh')

.PHONY: demo peers test test-fast test-native native native-host plugin-matrix gpu-check lint format \
        bench bench-peers clean check-python

demo: $(DEMO)/.ready
	$(DEMO)/bin/trt-afdet demo --out out/demo

test: native-host test-native
	TRT_AFDET_LIBRARY_PATH=$(CURDIR)/build/host/lib $(DEV)/bin/python -m pytest

test-fast: native-host
	TRT_AFDET_LIBRARY_PATH=$(CURDIR)/build/host/lib $(DEV)/bin/python -m pytest -m "not slow"

# What runs on the CPU: the host library, the emulated kernels, the C++ tests.
native-host: $(DEV)/.ready
	@$(CMAKE) -S . -B build/host $(CMAKE_STRICT) -DAFDET_CUDA=OFF > build/host.log 2>&1 || { cat build/host.log; exit 1; }
	@$(CMAKE) --build build/host --parallel

test-native: native-host
	@$(CMAKE) -S . -B build/sanitized $(CMAKE_STRICT) -DAFDET_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_CXX_COMPILER=$(SANITIZED_CXX) -DAFDET_SANITIZE=address,undefined > build/sanitized.log 2>&1 \
	  || { cat build/sanitized.log; exit 1; }
	@$(CMAKE) --build build/sanitized --parallel
	$(DEV)/bin/ctest --test-dir build/host --output-on-failure
	$(DEV)/bin/ctest --test-dir build/sanitized --output-on-failure

native: $(DEV)/.ready
	$(CMAKE) -S . -B build/native $(CMAKE_STRICT) $(CMAKE_ARGS)
	$(CMAKE) --build build/native --parallel

plugin-matrix:
	@plugins/tensorrt/matrix.sh "$(HEADERS)"

gpu-check: $(DEV)/.ready
	$(DEV)/bin/python tests/gpu/check.py

peers:
	tests/install_peers.sh

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

format: $(DEV)/.ready
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .
	$(DEV)/bin/clang-format -i $(CXX_FILES)

bench: $(DEV)/.ready
	@for file in $(filter-out %_cuda.py,$(wildcard benchmarks/bench_*.py)); do echo; $(DEV)/bin/python $$file || exit 1; done

# The peers that bench compares with; without them it measures ours and says which is missing.
bench-peers: $(DEV)/.ready
	$(DEV)/bin/pip install $(PIP_FLAGS) -e ".[bench]"

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "trt-afdet needs Python 3.10 or newer; got $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 2; }

$(DEMO)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEMO): the runtime, no torch"
	@$(PYTHON) -m venv $(DEMO)
	@$(HOST_ONLY) $(DEMO)/bin/pip install $(PIP_FLAGS) -e ".[runtime]"
	@touch $@

$(DEV)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEV): training, tests and linters (several GB, a few minutes)"
	@$(PYTHON) -m venv $(DEV)
	@mkdir -p build
	@$(HOST_ONLY) $(DEV)/bin/pip install $(PIP_FLAGS) -e ".[train,dev]"
	@touch $@

clean:
	rm -rf $(DEMO) $(DEV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
