#!/usr/bin/env bash
# Proves and measures residuum on this machine's GPU; scripts/gpu-kit.sh packs it with all it needs.
#
#   ./run.sh [--device cuda[:N]|simt] [--stages "NAME..."] [--quick] [OUT]
#
# Stages: doctor, tests, kernels, sanitizer, repeat, train, bench, pytorch, compare; all of them unless named. A stage that
# fails does not stop the others; the last lines say which did, and the exit status is 1. OUT (out unless given) receives
# summary.txt, environment.txt, log.txt, rows of JSON with date, GPU and commit, and ratios.txt and layers.txt, which put
# residuum next to PyTorch. Programs are unpacked into TMPDIR (/tmp unless set) and run there; BUILD has their size and what
# they need of the system.
#
# MINIPLACES names the folder of photos that train learns from. PYTHON names an interpreter with torch and torchvision
# (python3 unless given) for the comparison. --quick runs a short form of every stage, whose times say nothing: it proves
# this script, and is what simt, the emulator, always runs.
set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
stages=(doctor tests kernels sanitizer repeat train bench pytorch compare)
declare -A limit_s=([doctor]=60 [tests]=900 [kernels]=300 [sanitizer]=900 [repeat]=300 [train]=900 [bench]=1500
    [pytorch]=3600 [compare]=60)
# What a stage returns that had nothing to do.
skipped=77

usage() {
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}
refuse() {
    echo "run.sh: $1; see --help" >&2
    exit 2
}

device=cuda
out=
only=
is_quick=false
while (($# > 0)); do
    case $1 in
        --device | --stages | --one)
            (($# >= 2)) || refuse "$1 needs a value"
            case $1 in
                --device) device=$2 ;;
                --stages) read -ra stages <<<"$2" ;;
                --one) only=$2 ;;
            esac
            shift 2
            ;;
        --quick)
            is_quick=true
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        -*) refuse "unknown flag $1" ;;
        *)
            [[ -z $out ]] || refuse "one output folder, not both $out and $1"
            out=$1
            shift
            ;;
    esac
done
for stage in "${stages[@]}"; do
    [[ -n ${limit_s[$stage]:-} ]] || refuse "no stage is called $stage"
done
mkdir -p "${out:=out}" || exit 1
out=$(realpath -- "$out")
python=${PYTHON:-python3}
commit=$(sed -n 's/^commit //p' "$here/BUILD")
if [[ $device == simt ]]; then
    is_quick=true
fi

# Pixels and batch of runs that need no photos, and what the stages add to their commands.
if $is_quick; then
    quick=(--quick)
    small=(--img-size 16 --batch-size 4 --limit-val 4)
    repeated_model=resnet9
    repeated_steps=2
    photos=(--model resnet9 --img-size 16 --batch-size 4 --limit-train 8 --limit-val 4)
else
    quick=()
    small=(--img-size 64 --batch-size 32)
    repeated_model=resnet18
    repeated_steps=50
    photos=(--model resnet18 --img-size 128 --batch-size 128)
fi

# device_row: the line about this device in what `residuum devices` prints.
device_row() {
    local name=$device
    if [[ $name == cuda ]]; then
        name=cuda:0
    fi
    "$residuum" devices | grep "^$name "
}

# rows FILE: adds date, GPU and commit to rows of JSON and appends them to OUT/FILE.
rows() {
    local gpu
    gpu=$(device_row | sed -n 's/^cuda:[0-9]* *yes *\([^,]*\),.*/\1/p')
    sed -u 's/}$/,"date":"'"$(date -u +%Y-%m-%d)"'","gpu":"'"${gpu:-none}"'","commit":"'"$commit"'"}/' |
        tee -a "$out/$1"
}

has_torch() {
    "$python" -c 'import torch, torchvision' 2>/dev/null
}
has_torch_with_gpu() {
    "$python" -c 'import torch, torchvision; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null
}

# NCCL comes with PyTorch, in a folder where the loader does not look.
if [[ -z ${RESIDUUM_NCCL:-} ]]; then
    nccl=$("$python" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])' 2>/dev/null)/lib/libnccl.so.2
    if [[ -e $nccl ]]; then
        export RESIDUUM_NCCL=$nccl
    fi
fi

# small_data: scenes of a few images, made once.
small_data() {
    local folder=$scratch/scenes
    [[ -d $folder ]] || "$residuum" data scenes --output "$folder" --train 64 --val 8 --img-size 64 >&2 || return 1
    echo "$folder"
}

run_doctor() {
    {
        echo "date    $(date -u +%Y-%m-%dT%H:%M:%SZ)"
        cat "$here/BUILD"
        echo "device  $device"
        uname -srm
        nvidia-smi --query-gpu=index,name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit --format=csv 2>/dev/null
        "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())' 2>/dev/null
        "$residuum" devices
    } | tee "$out/environment.txt"
    # "not usable" says why in the same line.
    device_row | grep " yes " >/dev/null
}

run_tests() {
    local failed=0 test kernel_tests=kernel_tests
    if $is_quick; then
        # Of those that hold kernels to loops on the host at length, one.
        kernel_tests=kernel_tests::long_reductions_are_split_and_summed
    fi
    RESIDUUM_TEST_DEVICES=cuda
    if [[ $device == simt ]]; then
        RESIDUUM_TEST_DEVICES=simt
    fi
    export RESIDUUM_TEST_DEVICES
    for test in "$scratch"/tests/*; do
        echo "-- $(basename "$test")"
        # The others are the same at greater length.
        if $is_quick && [[ $test != */kernels_linear && $test != */residuum ]]; then
            continue
        fi
        case $test in
            # Of the library's own tests, those that ask for a GPU.
            # A name that no test has would ask for none.
            */residuum) "$test" --test-threads=1 device::cuda "$kernel_tests" | tee "$scratch/library.txt" &&
                grep -q "kernel_tests::.* ok$" "$scratch/library.txt" ;;
            # One at a time: some look at clocks and free memory.
            *) "$test" --test-threads=1 --nocapture ;;
        esac || failed=1
    done
    return "$failed"
}

run_kernels() {
    "$residuum" check-kernels --device "$device"
}

# train_once PRECISION MODEL STEPS FOLDER [COMMAND...]: a short run, started by COMMAND if one is given.
train_once() {
    local precision=$1 model=$2 steps=$3 folder=$4 data
    shift 4
    data=$(small_data) || return 1
    "$@" "$residuum" train --device "$device" --precision "$precision" --model "$model" --data-dir "$data" \
        "${small[@]}" --max-steps "$steps" --output "$folder"
}

run_sanitizer() {
    local tool sanitizer failed=0 small=(--img-size 32 --batch-size 8)
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || {
        echo "no compute-sanitizer on the PATH"
        return "$skipped"
    }
    for tool in memcheck racecheck; do
        echo "-- $tool, one step of ResNet-50 in bf16"
        train_once bf16 resnet50 1 "$scratch/$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 || failed=1
    done
    echo "-- memcheck, one step of ResNet-18 in f32"
    train_once f32 resnet18 1 "$scratch/memcheck-f32" "$sanitizer" --tool memcheck --error-exitcode 9 || failed=1
    return "$failed"
}

run_repeat() {
    local run precision failed=0
    for precision in f32 bf16; do
        for run in first second; do
            train_once "$precision" "$repeated_model" "$repeated_steps" "$scratch/$precision-$run" || return 1
        done
        if cmp "$scratch/$precision"-{first,second}/*/checkpoints/last.safetensors; then
            echo "two runs of $repeated_steps steps in $precision: the same bits"
        else
            failed=1
        fi
    done
    return "$failed"
}

run_train() {
    if [[ -z ${MINIPLACES:-} ]]; then
        echo "MINIPLACES names no folder of photos"
        return "$skipped"
    fi
    RESIDUUM_CACHE=$scratch/cache "$residuum" train --device "$device" --precision bf16 "${photos[@]}" \
        --data-dir "$MINIPLACES" --epochs 5 --output "$scratch/photos" || return 1
    rows training.jsonl <"$(echo "$scratch"/photos/*/metrics.jsonl)" >/dev/null
    # A few steps on a few photos need not learn.
    sed -n '/"kind":"epoch"/s/.*"train_loss":\([^,]*\).*/\1/p' "$out/training.jsonl" | awk -v is_quick="$is_quick" '
        { print "epoch " NR ": training loss " $1 }
        NR > 1 && !($1 < last) { rises = 1 }
        { last = $1 }
        END { if (NR != 5 || (rises && is_quick != "true")) { print "the loss does not fall over 5 epochs"; exit 1 } }'
}

run_bench() {
    local failed=0 peaks=() ceilings
    if ! $is_quick && has_torch_with_gpu; then
        if ceilings=$("$python" "$here/peers/gpu.py" --ceilings); then
            echo "$ceilings" | rows kernels.jsonl
            if [[ $ceilings =~ \"tflops\":\ ([0-9.]+),\ \"gb_s\":\ ([0-9.]+) ]]; then
                peaks=(--peak-tflops "${BASH_REMATCH[1]}" --peak-gb-s "${BASH_REMATCH[2]}")
            fi
        fi
    fi
    "$scratch/benches/step" --device "$device" "${quick[@]+"${quick[@]}"}" --json | rows residuum.jsonl || failed=1
    "$scratch/benches/step" --device "$device" "${quick[@]+"${quick[@]}"}" --json --copy --rows train | rows residuum.jsonl || failed=1
    "$scratch/benches/kernels" --device "$device" "${quick[@]+"${quick[@]}"}" --json "${peaks[@]+"${peaks[@]}"}" | rows kernels.jsonl || failed=1
    return "$failed"
}

run_pytorch() {
    local failed=0 tiny=()
    if $is_quick && has_torch; then
        # Shows that the scripts work.
        tiny=(--tiny --device cpu)
    elif ! has_torch_with_gpu; then
        echo "$python has no torch and torchvision that see a GPU"
        return "$skipped"
    fi
    "$python" "$here/peers/convs.py" "${tiny[@]+"${tiny[@]}"}" | rows pytorch.jsonl || failed=1
    if $is_quick; then
        "$python" "$here/peers/gpu.py" "${tiny[@]}" --seconds 0 --setups eager | rows pytorch.jsonl || failed=1
        return "$failed"
    fi
    "$python" "$here/peers/gpu.py" | rows pytorch.jsonl || failed=1
    # The search takes minutes a row.
    "$python" "$here/peers/gpu.py" --setups autotune --rows train --batch 256 | rows pytorch.jsonl || failed=1
    return "$failed"
}

run_compare() {
    local failed=0
    # Even of what a stage left that was not done in time.
    if ! [[ -s $out/residuum.jsonl && -s $out/kernels.jsonl && -s $out/pytorch.jsonl ]]; then
        echo "bench and pytorch have left no rows of both sides"
        return "$skipped"
    fi
    "$python" "$here/peers/layers.py" "$out"/{kernels,pytorch}.jsonl | tee "$out/layers.txt" || failed=1
    if $is_quick; then
        echo "the whole steps of both are not the same in short"
        return "$failed"
    fi
    "$python" "$here/peers/ratios.py" "$out"/{residuum,pytorch}.jsonl | tee "$out/ratios.txt" || failed=1
    return "$failed"
}

# The first process makes a folder and unpacks the executables into it; stages find it in the environment.
if [[ -z $only ]]; then
    scratch=$(mktemp -d)
    export scratch
    trap 'rm -rf "$scratch"' EXIT
fi
residuum=$scratch/bin/residuum
case $only in
    "") ;;
    doctor) run_doctor; exit ;;
    tests) run_tests; exit ;;
    kernels) run_kernels; exit ;;
    sanitizer) run_sanitizer; exit ;;
    repeat) run_repeat; exit ;;
    train) run_train; exit ;;
    bench) run_bench; exit ;;
    pytorch) run_pytorch; exit ;;
    compare) run_compare; exit ;;
    *) refuse "no stage is called $only" ;;
esac

tar -xJf "$here/programs.tar.xz" -C "$scratch" || {
    echo "run.sh: $here/programs.tar.xz cannot be unpacked; that takes tar and xz" >&2
    exit 1
}
# A copy of an archive may have lost modes, or a umask taken them.
chmod u+rwx "$scratch"/{bin,tests,benches} "$scratch"/{bin,tests,benches}/*
if ! reason=$("$residuum" --version 2>&1 >/dev/null); then
    printf '%s\n' "$reason" >&2
    echo "run.sh: programs do not run from $scratch. They need $(sed -n 's/^needs //p' "$here/BUILD"); here is" \
        "$(getconf GNU_LIBC_VERSION 2>/dev/null || echo another libc), $(uname -m). If TMPDIR's file system runs no programs" \
        "(noexec), set TMPDIR to another" >&2
    exit 1
fi
: >"$out/log.txt"
: >"$out/summary.txt"
rm -f "$out"/*.jsonl "$out"/{ratios,layers}.txt
group=
trap '[[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null; exit 130' INT TERM
status=0
for stage in "${stages[@]}"; do
    printf '== %s\n' "$stage" >>"$out/log.txt"
    start=$SECONDS
    # timeout makes a process group of its own, by which all that outlives the limit is ended.
    timeout --kill-after=20 "${limit_s[$stage]}" bash "$here/run.sh" --one "$stage" --device "$device" \
        "${quick[@]+"${quick[@]}"}" "$out" \
        >>"$out/log.txt" 2>&1 &
    group=$!
    wait "$group"
    code=$?
    kill -KILL -- "-$group" 2>/dev/null
    group=
    case $code in
        0) verdict=passed ;;
        "$skipped") verdict="skipped: $(tail -n 1 "$out/log.txt")" ;;
        124 | 137) verdict="FAILED: not done after ${limit_s[$stage]} s" status=1 ;;
        *) verdict="FAILED: $(grep . "$out/log.txt" | tail -n 1)" status=1 ;;
    esac
    printf '%5d s  %-10s %s\n' $((SECONDS - start)) "$stage" "$verdict" | tee -a "$out/summary.txt"
done
if ((status != 0)); then
    echo "at least one stage failed; see $out/log.txt" | tee -a "$out/summary.txt"
fi
exit "$status"
