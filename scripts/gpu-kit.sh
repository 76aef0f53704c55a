#!/usr/bin/env bash
# Packs what proves and measures residuum on a GPU into a folder that needs an NVIDIA driver there and no Rust: the
# stripped program, the tests that use a GPU, the benchmarks, the same work in PyTorch, and run.sh, which runs them all.
#
#   scripts/gpu-kit.sh [--arch LIST] [DIR]
#
# DIR is gpu-kit unless given; it is replaced. LIST is RESIDUUM_CUDA_ARCH, all unless given: 90a packs machine code for
# an H100 alone.
set -euo pipefail

max_mib=60
usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0"
}
fail() {
    echo "gpu-kit: $1" >&2
    exit 1
}

cd "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")/.."
kit=
while (($# > 0)); do
    case $1 in
        --arch)
            [[ $# -ge 2 ]] || fail "--arch needs a list such as 90a"
            export RESIDUUM_CUDA_ARCH=$2
            shift 2
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        -*) fail "unknown flag $1; see --help" ;;
        *)
            [[ -z $kit ]] || fail "one folder, not both $kit and $1"
            kit=$1
            shift
            ;;
    esac
done
kit=${kit:-gpu-kit}
if [[ -e $kit && ! -e $kit/run.sh ]]; then
    fail "$kit is there and is no kit; name another folder"
fi
# Not the GPUs that happen to be here: the kit is for another machine.
export RESIDUUM_CUDA_ARCH=${RESIDUUM_CUDA_ARCH:-all}
# A kit without kernels for a GPU is of no use.
export RESIDUUM_REQUIRE_CUDA=1

# The tests that ask for a GPU name one of these two files.
mapfile -t gpu_tests < <(grep -lE 'common/(devices|gpu)\.rs"' tests/*.rs | xargs -n 1 basename -s .rs)
benches=(step kernels)

# built KIND NAME...: builds and prints "name path" of each executable.
built() {
    cargo "$@" --message-format=json-render-diagnostics |
        sed -n 's/.*"target":{[^}]*"name":"\([^"]*\)"[^}]*}.*"executable":"\([^"]*\)".*/\1 \2/p'
}

rm -rf "$kit"
mkdir -p "$kit"/{bin,tests,benches,peers}
# First, so that a folder whose build failed is known for a kit the next time.
cp scripts/gpu-kit-run.sh "$kit/run.sh"
chmod +x "$kit/run.sh"
pack() {
    local folder=$1 name path
    while read -r name path; do
        strip -o "$kit/$folder/$name" "$path"
    done
}
echo "building the program" >&2
built build --release --bin residuum | pack bin
echo "building the tests: the library's, ${gpu_tests[*]}" >&2
built test --release --no-run --lib "${gpu_tests[@]/#/--test=}" | grep -v "/release/residuum$" | pack tests
echo "building the benchmarks: ${benches[*]}" >&2
built bench --no-run "${benches[@]/#/--bench=}" | grep -v "/release/residuum$" | pack benches
cp benches/peers/{convs,gpu,layers,ratios}.py "$kit/peers/"

changes=$(git status --porcelain 2>/dev/null | wc -l)
{
    echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)$( ((changes == 0)) || echo -changed)"
    echo "built $(date -u +%Y-%m-%d)"
    echo "architectures $RESIDUUM_CUDA_ARCH"
    rustc --version
} >"$kit/BUILD"

packed=(bin/residuum tests/residuum "${gpu_tests[@]/#/tests/}" "${benches[@]/#/benches/}")
for wanted in "${packed[@]}"; do
    [[ -s $kit/$wanted ]] || fail "the build gave no $wanted"
done
# What the executables ask of the system: the newest version of glibc that any names, and the libraries they open.
needs() {
    local names=("${packed[@]/#/$kit/}")
    echo "glibc $(objdump -T "${names[@]}" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | cut -d _ -f 2) or later"
    objdump -p "${names[@]}" | sed -n 's/^ *NEEDED *//p' | sort -u | grep -vE '^(libc|libm|libdl|libpthread|ld-linux[^.]*)\.so'
}
echo "unpacked $(du -cm "${packed[@]/#/$kit/}" | tail -n 1 | cut -f 1) MiB" >>"$kit/BUILD"
echo "needs $(needs | paste -sd , | sed 's/,/, /g'), $(uname -m)" >>"$kit/BUILD"
# Every executable holds every kernel for every architecture; a window wider than an executable stores them once.
(cd "$kit" && tar -c "${packed[@]}" | xz --lzma2=preset=1,dict=256MiB >programs.tar.xz && rm -r bin tests benches)
mib=$(($(du -sb "$kit" | cut -f 1) / 1048576))
if ((mib >= max_mib)); then
    fail "$kit has $mib MiB, $max_mib are the most; take fewer architectures, as with --arch 90a"
fi
echo "$kit: $mib MiB; copy it to the machine with the GPU and run run.sh there"
