#!/bin/sh
# Builds the plugin, with warnings as errors, against every TensorRT whose headers are in a folder:
#
#   plugins/tensorrt/matrix.sh HEADERS [BUILD]      HEADERS/8.5/include/NvInfer.h, HEADERS/10.3/...
#
# Writes BUILD/VERSION/libafdet_plugin.so (default BUILD: build/matrix) and prints a table. Builds
# for one GPU architecture, because only the adapter differs.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
headers=${1:-}
build=${2:-$root/build/matrix}
cmake=${CMAKE:-cmake}
if [ -z "$headers" ] || ! ls "$headers"/*/include/NvInfer.h > /dev/null 2>&1; then
  echo "plugin-matrix: no headers (got HEADERS='$headers') - give a folder that holds one folder per" \
       "TensorRT version, each with include/NvInfer.h (NVIDIA publishes them with every release)" >&2
  exit 2
fi
headers=$(cd "$headers" && pwd)
mkdir -p "$build"
failed=0
printf '%-10s %-22s %-8s %s\n' TensorRT adapter result seconds
for include in $(ls -d "$headers"/*/include | sort -V); do
  version=$(basename "$(dirname "$include")")
  start=$(date +%s)
  log=$build/$version.log
  result=ok
  adapter=IPluginV3
  case $version in 8.*) adapter=IPluginV2DynamicExt ;; esac
  # All versions share one build folder, because the kernels do not depend on TensorRT.
  if "$cmake" -S "$root" -B "$build/cmake" -UTensorRT_INCLUDE_DIR -UTensorRT_LIBRARY \
       -DTensorRT_ROOT="$headers/$version" -DAFDET_TENSORRT=ON -DAFDET_WERROR=ON \
       -DAFDET_CUDA_ARCHITECTURES="${AFDET_CUDA_ARCHITECTURES:-89-real}" > "$log" 2>&1 &&
     "$cmake" --build "$build/cmake" --parallel --target afdet_plugin >> "$log" 2>&1; then
    mkdir -p "$build/$version"
    cp "$build/cmake/lib/libafdet_plugin.so" "$build/$version/"
  else
    result=FAILED
    failed=1
  fi
  printf '%-10s %-22s %-8s %s\n' "$version" "$adapter" "$result" "$(($(date +%s) - start))"
  [ $result = ok ] || grep -m 3 -E 'error|Error' "$log" || tail -3 "$log"
done
exit $failed
