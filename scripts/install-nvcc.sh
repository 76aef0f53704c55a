#!/bin/sh
# Installs nvcc 13.0 without root, and nvdisasm, by which `residuum profile` counts instructions: NVIDIA's own pip packages in
# a Python environment of their own (about 300 MB).
# Usage: scripts/install-nvcc.sh [DIR]
# In the default folder build.rs finds it by itself; elsewhere set NVCC as the last line printed says.
# No driver and no GPU are needed to compile; a program built so runs on driver 580 or later.
set -eu

cache="${RESIDUUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/residuum}"
dir="${1:-$cache/nvcc-13.0}"
python="${PYTHON:-python3}"

find_nvcc() {
    for nvcc in "$dir"/lib/python3*/site-packages/nvidia/*/bin/nvcc; do
        [ -x "$nvcc" ] && "$nvcc" --version >/dev/null 2>&1 && echo "$nvcc" && return
    done
    return 1
}

find_nvdisasm() {
    nvdisasm=$(dirname "$(find_nvcc)")/nvdisasm
    [ -x "$nvdisasm" ] && "$nvdisasm" --version >/dev/null 2>&1
}

# The mark is written last, so that an interrupted installation is not taken for a whole one.
mark="$dir/.complete"
if [ ! -e "$mark" ] || ! find_nvcc >/dev/null || ! find_nvdisasm; then
    command -v "$python" >/dev/null || { echo "install-nvcc: no $python; install Python 3 or set PYTHON" >&2; exit 1; }
    "$python" -m venv "$dir" || {
        echo "install-nvcc: $python cannot make a virtual environment in $dir; on Debian: apt install python3-venv" >&2
        exit 1
    }
    # There is no package of nvdisasm 13.0; later ones read what earlier assemblers write.
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvdisasm==13.2.*'
    find_nvcc >/dev/null && find_nvdisasm || {
        echo "install-nvcc: the packages are in $dir, but nvcc and nvdisasm do not run from there" >&2
        exit 1
    }
    : > "$mark"
    # cargo looks for nvcc again when its build script looks changed.
    touch "$(dirname "$0")/../build.rs"
fi
echo "export NVCC=$(find_nvcc)"
