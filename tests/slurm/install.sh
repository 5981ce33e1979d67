#!/bin/sh
# Install SLURM for tests/slurm where it is missing, from the package source of a Debian or Ubuntu, as root.
# Exit status 0: there is one. 1: there is none, and one line on standard output says why.
set -u
PATH=$PATH:/usr/sbin
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

present() {
    for program in sbatch slurmctld slurmd munged; do
        command -v "$program" >/dev/null || return 1
    done
}

skipped() {
    echo "SLURM tests skipped: $1"
    exit 1
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    quick="-o Acquire::http::Timeout=20 -o Acquire::Retries=1"
    # shellcheck disable=SC2086 # words on purpose
    timeout 120 apt-get $quick update && timeout 600 apt-get $quick install --yes --no-install-recommends slurm-wlm munge
}

present && exit 0
[ "$(id -u)" = 0 ] || skipped "there is no sbatch, and installing it takes root"
command -v apt-get >/dev/null || skipped "there is no sbatch, and no apt-get to install it"
install >"$LOG" 2>&1 || skipped "SLURM cannot be installed ($(grep . "$LOG" | tail -n 1))"
present || skipped "the package source's SLURM lacks a program"
apt-get install --yes --no-install-recommends shellcheck >"$LOG" 2>&1 || true # one test more
