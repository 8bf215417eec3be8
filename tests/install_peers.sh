#!/bin/sh
# Installs the servers and programs that the tests of the streams talk to, on Debian and Ubuntu as
# root. Elsewhere it says what is missing; the tests that need it are skipped and say so too.
set -eu

PACKAGES="mosquitto redis-server ffmpeg chromium chromium-driver prometheus shellcheck systemd xvfb curl
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
apt-get update -qq || true
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing > /dev/null 2>&1 \
  || echo "not all could be installed; tests that need them will say so"
