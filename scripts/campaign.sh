#!/usr/bin/env bash
# Kills runs of every kind and lets faults happen to them, so many times; counts what was lost or went wrong in silence.
#
#     scripts/campaign.sh KILLS FAULTS [SEED]
#
# A full disk is a small tmpfs, which only root can mount.
set -euo pipefail

if [[ ! ${1:-} =~ ^[0-9]+$ || ! ${2:-} =~ ^[0-9]+$ ]]; then
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
export RESIDUUM_KILLS=$1 RESIDUUM_FAULTS=$2 RESIDUUM_SEED=${3:-1}
cd "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")/.."
# A state is written more often than a disk likes: in memory, where that is a folder.
TMPDIR=$(if [[ -d /dev/shm ]]; then mktemp -d -p /dev/shm; else mktemp -d; fi)
export TMPDIR
# A user that is not root is to reach the folders in it.
chmod 755 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
cargo test --release --test campaign -- --nocapture --test-threads 1
