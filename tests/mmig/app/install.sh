#!/bin/sh
# Install Chromium for the browser tests of tests/mmig/app where it is missing, from the package source of a Debian, as root.
# Exit status 0: there is one. 1: there is none, and one line on standard output says why.
set -u
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

skipped() {
    echo "browser tests skipped: $1"
    exit 1
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    quick="-o Acquire::http::Timeout=20 -o Acquire::Retries=1"
    # shellcheck disable=SC2086 # words on purpose
    timeout 120 apt-get $quick update && timeout 600 apt-get $quick install --yes --no-install-recommends chromium
}

command -v chromium >/dev/null && exit 0
[ "$(id -u)" = 0 ] || skipped "there is no chromium, and installing it takes root"
command -v apt-get >/dev/null || skipped "there is no chromium, and no apt-get to install it"
install >"$LOG" 2>&1 || skipped "Chromium cannot be installed ($(grep . "$LOG" | tail -n 1))"
command -v chromium >/dev/null || skipped "the package source's chromium has no program of that name"
