#!/usr/bin/env bash
# Runs the step benchmark of residuum and of PyTorch in turn on this machine and prints their ratios.
#
#   benches/peers/compare.sh [--rows TEXT] [--seconds S] [--precision f32|bf16]
#
# Flags go to both benchmarks. PYTHON names an interpreter with torch and torchvision (default python3); RESULTS a folder
# to keep the raw rows, the table and the environment in.
set -euo pipefail

python=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

"$python" -c 'import torch, torchvision' 2>/dev/null || {
    echo "$python has no torch or no torchvision: set PYTHON to an interpreter that has both" >&2
    exit 2
}

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

cargo bench --bench step --no-run
echo "measuring residuum" >&2
cargo bench --quiet --bench step -- --json "$@" >"$results/residuum.jsonl"
echo "measuring PyTorch" >&2
"$python" "$here/step.py" "$@" >"$results/pytorch.jsonl"
"$python" "$here/ratios.py" "$results/residuum.jsonl" "$results/pytorch.jsonl" | tee "$results/summary.txt"
if [[ -n ${RESULTS:-} ]]; then
    {
        echo "date    $(date -u +%Y-%m-%d)"
        echo "commit  $(git rev-parse HEAD)"
        echo "cpu     $(grep -m 1 "model name" /proc/cpuinfo | cut -d: -f2- | xargs), $(nproc) threads"
        echo "load    $(cut -d" " -f1-3 /proc/loadavg)"
        echo "rust    $(rustc --version)"
        echo "flags   $*"
    } >"$results/environment.txt"
    mkdir -p "$RESULTS"
    cp "$results"/{residuum.jsonl,pytorch.jsonl,summary.txt,environment.txt} "$RESULTS/"
fi
