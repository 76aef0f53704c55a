"""Speed of a training step and of inference in PyTorch: the rows that benches/step.rs measures for residuum.

    python benches/peers/step.py [--rows TEXT] [--seconds S] [--threads N] [--precision f32|bf16] [--setups NAMES]

One JSON object a line on stdout: peer, version, model, size, batch, mode (train or infer), images_per_second (median
over repetitions), spread (interquartile range over median), setup, precision, cpu_ms (processor time of an image) and peak_mib
(largest memory of the process so far). The setups are channels_last and contiguous, as PyTorch runs by default, and compiled,
torch.compile with channels_last; one that fails is told on stderr. f32 throughout, or with bf16 PyTorch's autocast; training is
forward, loss, backward and an SGD step with momentum 0.9 and weight decay 1e-4.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

CLASSES = 100
SETUPS = ["channels_last", "contiguous", "compiled"]
WARM_UP_REPS = 3
MIN_REPS = 5

# (model, size, batch, mode)
ROWS = [
    ("resnet18", 64, 16, "train"),
    ("resnet18", 128, 16, "train"),
    ("resnet34", 64, 16, "train"),
    ("resnet34", 128, 16, "train"),
    ("resnet50", 64, 8, "train"),
    ("resnet50", 128, 8, "train"),
    ("resnet18", 64, 16, "infer"),
    ("resnet50", 64, 16, "infer"),
]


def is_asked_for(row: tuple, text: str) -> bool:
    return text in f"{row[0]} {row[1]} {row[3]}"


def measure(step, row: tuple, seconds: float) -> dict:
    """Median rate of `step`; repetitions until `seconds` have passed, at least MIN_REPS."""
    name, size, batch, mode = row
    for _ in range(WARM_UP_REPS):
        step()
    rates = []
    begin, cpu = time.perf_counter(), time.process_time()
    while len(rates) < MIN_REPS or time.perf_counter() < begin + seconds:
        start = time.perf_counter()
        step()
        rates.append(batch / (time.perf_counter() - start))
    cpu = time.process_time() - cpu
    low, median, high = statistics.quantiles(rates, n=4)
    return {
        "model": name,
        "size": size,
        "batch": batch,
        "mode": mode,
        "images_per_second": round(median, 2),
        "spread": round((high - low) / median, 3),
        "cpu_ms": round(1e3 * cpu / (batch * len(rates)), 3),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def flags(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose `model size mode` contains TEXT")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per row and setup (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="default f32")
    return parser


def rows_of(args, modes=("train", "infer")) -> list:
    rows = [row for row in ROWS if is_asked_for(row, args.rows) and row[3] in modes]
    if not rows:
        sys.exit(f"--rows {args.rows!r} matches none of: " + ", ".join(f"{r[0]} {r[1]} {r[3]}" for r in ROWS))
    return rows


def step_of(row: tuple, setup: str, precision: str):
    import torch
    import torchvision

    name, size, batch, mode = row
    torch.manual_seed(0)
    layout = torch.contiguous_format if setup == "contiguous" else torch.channels_last
    model = torchvision.models.get_model(name, num_classes=CLASSES).to(memory_format=layout)
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    labels = torch.randint(CLASSES, (batch,))
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    run = torch.compile(model) if setup == "compiled" else model
    if mode == "infer":
        model.eval()

        def infer():
            with torch.inference_mode(), autocast():
                run(x)

        return infer
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def train():
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            loss = torch.nn.functional.cross_entropy(run(x), labels)
        loss.backward()
        optimiser.step()

    return train


def main():
    parser = flags(__doc__)
    parser.add_argument("--setups", default=",".join(SETUPS), metavar="NAMES", help="default: all")
    args = parser.parse_args()
    rows = rows_of(args)
    setups = args.setups.split(",")
    if unknown := [setup for setup in setups if setup not in SETUPS]:
        sys.exit(f"--setups {','.join(unknown)}: there are {', '.join(SETUPS)}")

    import torch

    torch.set_num_threads(args.threads)
    for row in rows:
        for setup in setups:
            try:
                result = measure(step_of(row, setup, args.precision), row, args.seconds)
            except Exception as error:  # what compilers raise is theirs
                print(f"{setup} of {row}: {error}", file=sys.stderr)
                continue
            made_by = {"peer": "pytorch", "version": torch.__version__, "setup": setup, "precision": args.precision}
            print(json.dumps(made_by | result), flush=True)


if __name__ == "__main__":
    main()
