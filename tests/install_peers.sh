#!/bin/sh
# Installs the servers and programs that the tests of the streams talk to, on Debian and Ubuntu as
# root. Elsewhere it says what is missing; the tests that need it are skipped and say so too.
#
#   tests/install_peers.sh [HEADERS]
#
# HEADERS: a folder of TensorRT's public headers, 8.5/include/NvInfer.h and so on (the repository
# NVIDIA/TensorRT has include/ in each release branch, Apache-2.0). They are copied to
# build/tensorrt-headers, where `make test` finds them.
set -eu

headers=${1:-}
if [ -n "$headers" ]; then
  if ! ls "$headers"/*/include/NvInfer.h > /dev/null 2>&1; then
    echo "no headers of TensorRT (got '$headers') - give a folder with VERSION/include/NvInfer.h" >&2
    exit 2
  fi
  kept=$(cd "$(dirname "$0")/.." && pwd)/build/tensorrt-headers
  if [ "$(cd "$headers" && pwd)" != "$kept" ]; then
    rm -rf "$kept"
    for include in "$headers"/*/include; do
      mkdir -p "$kept/$(basename "$(dirname "$include")")"
      cp -R "$include" "$kept/$(basename "$(dirname "$include")")/"
    done
  fi
  echo "headers of TensorRT for the tests: $(cd "$kept" && echo *)"
fi

PACKAGES="gcc libc6-dev mosquitto redis-server ffmpeg chromium chromium-driver prometheus shellcheck systemd xvfb curl zsh fish nginx-light caddy
  python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
  gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-rtsp"

missing=""
for package in $PACKAGES; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed \
    || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "missing, so tests will be skipped (apt-get install):$missing"
  exit 0
fi
echo "installing for the tests:$missing"
# A package that cannot be had only skips tests.
log=$(mktemp)
apt-get update -qq > "$log" 2>&1 || true
# shellcheck disable=SC2086
if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >> "$log" 2>&1; then
  echo "not all could be installed; tests that need them will say so. The installer's errors:"
  grep '^[EW]:' "$log" | sort -u || tail -3 "$log"
fi
rm -f "$log"
