#!/bin/sh
# Runs the C++ tests with every compiler of this machine, plain and under its sanitizers:
#
#   plugins/tests/all_compilers.sh [PYTHON]           PYTHON: an interpreter, for the package ziglang
#   plugins/tests/all_compilers.sh --build [PYTHON]   only builds build/host, with the first compiler
#   plugins/tests/all_compilers.sh --paths [PYTHON]   only prints the compilers, one per line
#
# Compilers: g++, clang++, and Zig from the PyPI package ziglang. Sanitizers: address and undefined
# if both detect a fault, otherwise undefined. The first compiler builds into build/host, which the
# Python tests load, the others into build/cxx-NAME; sanitized builds go into
# build/cxx-NAME-sanitized. Prints a table at the end.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
mode=all
case ${1:-} in --build | --paths) mode=${1#--}; shift ;; esac
python=${1:-python3}
cmake=${CMAKE:-cmake}
ctest=${CTEST:-ctest}
tools=$root/build/zig
jobs=$(nproc 2> /dev/null || echo 2)

# CMake needs paths of programs for the compiler and the archiver.
zig_tools() {
  mkdir -p "$tools"
  for tool in c++ ar ranlib; do
    # Zig's caches stay in the build folder, because the home may be missing or read-only.
    printf '#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR="%s/cache" ZIG_LOCAL_CACHE_DIR="%s/cache"\nexec "%s" -m ziglang %s "$@"\n' \
      "$tools" "$tools" "$python" "$tool" > "$tools/$tool"
    chmod +x "$tools/$tool"
  done
}

found=""
for compiler in g++ clang++; do
  command -v "$compiler" > /dev/null && found="$found $compiler"
done
if "$python" -c 'import ziglang' 2> /dev/null; then
  zig_tools
  found="$found zig"
fi
if [ -z "$found" ]; then
  echo "no C++ compiler: apt-get install g++, or pip install ziglang" >&2
  exit 2
fi

# One option per line, because a path may contain spaces.
options_of() {
  case $1 in
    zig)
      echo "-DCMAKE_CXX_COMPILER=$tools/c++"
      echo "-DCMAKE_AR=$tools/ar"
      echo "-DCMAKE_RANLIB=$tools/ranlib"
      ;;
    *) echo "-DCMAKE_CXX_COMPILER=$1" ;;
  esac
}

program_of() {
  if [ "$1" = zig ]; then echo "$tools/c++"; else command -v "$1"; fi
}

if [ "$mode" = paths ]; then
  for name in $found; do program_of "$name"; done
  exit 0
fi

# A sanitizer counts if it stops a program with a matching fault: some compilers accept the option
# but do not link the sanitizer.
sanitizers_of() {
  program=$(program_of "$1")
  probe=$(mktemp -d)
  echo 'int main(int n, char**) { int* p = new int[2]; delete[] p; return p[n] * 0; }' > "$probe/address.cpp"
  echo 'int main(int n, char**) { int most = 2147483647; return (most + n) * 0; }' > "$probe/undefined.cpp"
  result=""
  for one in address undefined; do
    if "$program" -fsanitize=$one -fno-sanitize-recover=all "$probe/$one.cpp" -o "$probe/$one" 2> /dev/null &&
      ! "$probe/$one" > /dev/null 2>&1; then
      result="${result:+$result,}$one"
    fi
  done
  rm -rf "$probe"
  echo "$result"
}

failed=0
summary=""
run() { # NAME BUILD SANITIZERS
  name=$1 build=$2 sanitizers=$3
  log=$build.log
  mkdir -p build
  echo "C++ with $name, sanitizers: ${sanitizers:-none} (log: $log)"
  result=ok
  (
    # CMake's options as positional parameters, one per line of options_of.
    set -- -S . -B "$build" -DAFDET_TESTS=ON -DAFDET_WERROR=ON -DAFDET_CUDA=OFF
    while IFS= read -r option; do set -- "$@" "$option"; done <<OPTIONS
$(options_of "$name")
OPTIONS
    if [ -n "$sanitizers" ]; then
      set -- "$@" -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DAFDET_SANITIZE=$sanitizers"
    fi
    "$cmake" "$@" && "$cmake" --build "$build" --parallel "$jobs"
  ) > "$log" 2>&1 || { result=FAILED; tail -40 "$log" >&2; }
  if [ $result = ok ] && [ "$mode" = all ]; then
    "$ctest" --test-dir "$build" --output-on-failure --no-tests=error || result=FAILED
  fi
  [ $result = ok ] || failed=1
  summary="$summary$(printf '%-10s %-20s %s' "$name" "${sanitizers:-none}" $result)
"
}

build=build/host
for name in $found; do
  run "$name" "${build:-build/cxx-$name}" ""
  build=""
  [ "$mode" = all ] || exit $failed
  sanitizers=$(sanitizers_of "$name")
  if [ -n "$sanitizers" ]; then
    run "$name" "build/cxx-$name-sanitized" "$sanitizers"
  else
    summary="$summary$(printf '%-10s %-20s %s' "$name" "none can be linked" "not run")
"
  fi
done
printf '%-10s %-20s %s\n%s' compiler sanitizers result "$summary"
exit $failed
