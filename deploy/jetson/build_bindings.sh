#!/bin/bash
# Builds TensorRT's Python bindings for a Python that JetPack has none for: on JetPack 5 they are for
# Python 3.8 only, and trt-afdet needs 3.10. NVIDIA publishes their source (python/ of
# github.com/NVIDIA/TensorRT); the library itself stays JetPack's.
#
#   deploy/jetson/build_bindings.sh .venv/bin/python wheels && .venv/bin/pip install wheels/tensorrt-*.whl
#
# Needs git, cmake, g++, TensorRT's headers (libnvinfer-dev and others, part of nvidia-jetpack) and
# the headers of that Python. TENSORRT_INCLUDE names another folder of TensorRT's headers.
#
# State: run on x86-64 with TensorRT 8.5.3 and Python 3.10 (two minutes); not on a Jetson, as there was
# none.
set -euo pipefail

if [ $# -ne 2 ]; then
  echo "usage: $0 PYTHON FOLDER_FOR_THE_WHEEL" >&2
  exit 2
fi
python=$(command -v "$1") || { echo "$1: there is no such Python" >&2; exit 2; }
mkdir -p "$2"
out=$(cd "$2" && pwd)

machine=$(uname -m)
headers=${TENSORRT_INCLUDE:-/usr/include/$machine-linux-gnu}
for header in NvInferVersion.h NvOnnxParser.h; do
  if [ ! -f "$headers/$header" ]; then
    echo "$headers/$header is missing: sudo apt-get install nvidia-jetpack" >&2
    exit 1
  fi
done
number() { awk -v name="NV_TENSORRT_$1" '$2 == name { print $3 }' "$headers/NvInferVersion.h"; }
major=$(number MAJOR) minor=$(number MINOR) patch=$(number PATCH)
read -r python_major python_minor include < <("$python" -c '
import sys, sysconfig
print(*sys.version_info[:2], sysconfig.get_path("include"))')
if [ ! -f "$include/Python.h" ]; then
  echo "$include/Python.h is missing: this Python came without its headers" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The bindings are called as their headers say, so both must be of one release.
git -c advice.detachedHead=false clone --depth 1 --branch "release/$major.$minor" \
  https://github.com/NVIDIA/TensorRT.git "$work/TensorRT"
# The branch has the headers of its last patch release: those of the library that is here go before.
cp "$headers"/Nv*.h "$work/TensorRT/include/"
mkdir -p "$work/TensorRT/parsers/onnx"
cp "$headers/NvOnnxParser.h" "$work/TensorRT/parsers/onnx/"

# pybind11 2.11: the oldest that knows Python 3.12, and it still takes the C++11 of these sources.
"$python" -m pip install --quiet --target "$work/packages" "pybind11==2.11.*" setuptools wheel
mkdir -p "$work/external/python$python_major.$python_minor"
ln -s "$work/packages/pybind11" "$work/external/pybind11"
ln -s "$include" "$work/external/python$python_major.$python_minor/include"

# build.sh makes the wheel with whatever python3 comes first. CMake 4 refuses files as old as its own
# unless it is told to take them.
mkdir "$work/bin"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" > "$work/bin/python3"
chmod +x "$work/bin/python3"
cd "$work/TensorRT/python"
env PATH="$work/bin:$PATH" PYTHONPATH="$work/packages" \
  CMAKE_POLICY_VERSION_MINIMUM=3.5 TRT_OSSPATH="$work/TensorRT" EXT_PATH="$work/external" \
  TARGET_ARCHITECTURE="$machine" PYTHON_MAJOR_VERSION="$python_major" \
  PYTHON_MINOR_VERSION="$python_minor" bash ./build.sh
cp build/dist/tensorrt-*.whl "$out/"
echo "bindings of TensorRT $major.$minor.$patch for Python $python_major.$python_minor: $out"
