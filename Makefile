# demo  run the shipped detector on the shipped clip (own environment, no torch)
# test  the whole test suite        lint  format, lint, types
# bench side-by-side measurements (those of a GPU are part of gpu-check)
# clean remove what these left    docs   the documentation site, into build/site
# peers          the servers that the tests of the streams talk to, from Debian's packages
# native         every native part that this machine can build, with C++ tests, into build/native
# test-native    the C++ tests with every compiler there is, plain and under its sanitizers
# plugin-matrix  the plugin against HEADERS=FOLDER, which holds a folder per TensorRT version
#
# `make test HEADERS=FOLDER` also runs the tests of the TensorRT plugin, which need TensorRT's public
# headers: FOLDER/8.5/include/NvInfer.h, FOLDER/10.3/include/NvInfer.h ...
# `make peers HEADERS=FOLDER` keeps them for every later `make test`.

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
PIP_FLAGS := --quiet --disable-pip-version-check

# These environments need no CUDA code, which takes minutes to compile; `make native` makes that.
HOST_ONLY := SKBUILD_CMAKE_DEFINE=AFDET_CUDA=OFF
CMAKE := $(DEV)/bin/cmake
CMAKE_STRICT := -DAFDET_TESTS=ON -DAFDET_WERROR=ON
COMPILERS := CMAKE="$(CURDIR)/$(CMAKE)" CTEST="$(CURDIR)/$(DEV)/bin/ctest" plugins/tests/all_compilers.sh
HEADERS ?= $(wildcard build/tensorrt-headers)
PYTEST := TRT_AFDET_LIBRARY_PATH="$(CURDIR)/build/host/lib" \
  $(if $(HEADERS),TRT_AFDET_TENSORRT_HEADERS="$$(cd "$(HEADERS)" && pwd)") $(DEV)/bin/python -m pytest
CXX_FILES = $(shell git ls-files 'plugins/*.h' 'plugins/*.hpp' 'plugins/*.cpp' 'plugins/*.cu' 'plugins/*.cuh')

.PHONY: demo peers test test-fast test-as-user test-native native native-cuda native-host plugin-matrix gpu-check lint format docs docs-serve \
        bench bench-peers clean check-python

demo: $(DEMO)/.ready
	$(DEMO)/bin/trt-afdet demo --out out/demo

test: test-native
	$(PYTEST)

test-fast: native-host
	$(PYTEST) -m "not slow"

# Root may write anywhere, so tests of what is refused need an ordinary user. This runs them as one.
AS_USER := $(shell [ "$$(id -u)" = 0 ] && echo setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp USER=nobody LOGNAME=nobody)
test-as-user: native-host
	$(AS_USER) sh -c '$(PYTEST) -p no:cacheprovider tests/trt_afdet/support/test_files.py tests/trt_afdet/cli/test_outputs.py'

# What runs on the CPU: the host library, the emulated kernels, the C++ tests.
native-host: $(DEV)/.ready
	@$(COMPILERS) --build "$(CURDIR)/$(DEV)/bin/python"

test-native: $(DEV)/.ready
	@$(COMPILERS) "$(CURDIR)/$(DEV)/bin/python"

native: $(DEV)/.ready
	$(CMAKE) -S . -B build/native $(CMAKE_STRICT) $(CMAKE_ARGS)
	$(CMAKE) --build build/native --parallel

# The same with the machine's own CMake and without the Python environment: what CI compiles.
native-cuda:
	cmake -S . -B build/native $(CMAKE_STRICT) -DAFDET_CUDA=ON $(CMAKE_ARGS)
	cmake --build build/native --parallel

plugin-matrix:
	@plugins/tensorrt/matrix.sh "$(HEADERS)"

gpu-check: $(DEV)/.ready
	$(DEV)/bin/python -m tests.gpu.check

peers:
	tests/install_peers.sh "$(HEADERS)"

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/clang-format --dry-run --Werror $(CXX_FILES)

# The documentation site into build/site; `make docs-serve` shows it while you write.
docs: $(DEV)/.ready
	$(DEV)/bin/mkdocs build --strict --quiet

docs-serve: $(DEV)/.ready
	$(DEV)/bin/mkdocs serve

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
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo "$(PYTHON) cannot make environments: apt-get install python3-venv (got no module ensurepip)"; exit 2; }

# Another package may bring opencv-python over the headless build, which bare machines cannot import.
IMPORTS_CV2 = $(1)/bin/python -c 'import cv2' 2> /dev/null || \
  $(1)/bin/pip install $(PIP_FLAGS) --force-reinstall --no-deps opencv-python-headless

$(DEMO)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEMO): the runtime, no torch"
	@$(PYTHON) -m venv $(DEMO)
	@$(HOST_ONLY) $(DEMO)/bin/pip install $(PIP_FLAGS) -e ".[runtime]"
	@$(call IMPORTS_CV2,$(DEMO))
	@touch $@

$(DEV)/.ready: pyproject.toml | check-python
	@echo "setting up $(DEV): training, tests and linters (several GB, a few minutes)"
	@$(PYTHON) -m venv $(DEV)
	@mkdir -p build
	@$(HOST_ONLY) $(DEV)/bin/pip install $(PIP_FLAGS) -e ".[train,dev]"
	@$(call IMPORTS_CV2,$(DEV))
	@touch $@

clean:
	rm -rf $(DEMO) $(DEV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
