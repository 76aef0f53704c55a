#!/usr/bin/env bash
# Makes the pictures of the documents, docs/pictures/*.png, from a run of the program on scenes that it generates.
#
#     scripts/pictures.sh [--quick]
#
# Takes some minutes on a CPU; --quick trains for seconds and writes to a temporary folder, to show that it works.
set -euo pipefail

root=$(realpath -- "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")/..")
pictures=$root/docs/pictures
amount="--train 1000 --val 200"
training="--epochs 5"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ ${1:-} == --quick ]]; then
    pictures=$scratch
    amount="--train 64 --val 16"
    training="--max-steps 2"
fi
residuum() { cargo run --quiet --release --manifest-path "$root/Cargo.toml" -- "$@"; }

mkdir -p "$pictures"
# shellcheck disable=SC2086
residuum data scenes --output "$scratch/scenes" --img-size 64 $amount
# shellcheck disable=SC2086
residuum train --data-dir "$scratch/scenes" --model resnet9 --img-size 32 $training --lr 0.02 --batch-size 32 \
    --output "$scratch/runs" --cache-dir "$scratch/cache"
run=$(echo "$scratch"/runs/*)
residuum eval --run "$run" --cache-dir "$scratch/cache" --confusion "$pictures/confusion.png"
# Captions are paths as they are given.
cd "$scratch/scenes/images/val"
residuum predict --run "$run" --explain "$pictures/grad_cam.png" 0000000[1-6].jpg
residuum augment --image 00000001.jpg --output "$pictures/augmentation.png"
