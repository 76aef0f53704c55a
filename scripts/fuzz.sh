#!/usr/bin/env bash
# Gives every reader of bytes that others wrote to a fuzzer, each for so many seconds, and says what that came to.
#
#     scripts/fuzz.sh SECONDS [READER...]
#
# Needs nightly Rust and cargo-fuzz (cargo install cargo-fuzz). Inputs that reach new code stay in fuzz/corpus; one that a
# reader fails on, takes more than a GiB for or 20 seconds, is named and kept in fuzz/artifacts, and the script ends with 1
# after all readers have had their turn.
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
seconds=$1
readers=("${@:2}")
cd "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")/.."
if ((${#readers[@]} == 0)); then
    for target in fuzz/targets/*.rs; do readers+=("$(basename "$target" .rs)"); done
fi
# No reader has kernels, and those of the emulator have sanitizers of their own.
export RESIDUUM_CUDA_ARCH=none CXXFLAGS="${CXXFLAGS:-} -fno-sanitize=address"
# Files of the readers lie in memory, where that is a folder.
TMPDIR=$(if [[ -d /dev/shm ]]; then mktemp -d -p /dev/shm; else mktemp -d; fi)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

cargo +nightly fuzz build
failed=()
for reader in "${readers[@]}"; do
    stored=tests/corpora/$reader
    if [[ $reader == pickle ]]; then stored=tests/golden/torch; fi
    mkdir -p "fuzz/corpus/$reader"
    options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1)
    # A pack that was made again is told of on stderr, every time.
    if [[ $reader == pack ]]; then options+=(-close_fd_mask=2); fi
    log=$TMPDIR/$reader.log
    cargo +nightly fuzz run "$reader" "fuzz/corpus/$reader" "$stored" -- "${options[@]}" >"$log" 2>&1 || {
        failed+=("$reader")
        tail -n 60 "$log"
    }
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%-12s %9d inputs, %5d kept\n' "$reader" "${inputs:-0}" "$(find "fuzz/corpus/$reader" -type f | wc -l)"
    rm -rf "${TMPDIR:?}/$reader"*
done
if ((${#failed[@]} > 0)); then
    printf 'FAILED: %s; the inputs are in fuzz/artifacts\n' "${failed[*]}"
    exit 1
fi
