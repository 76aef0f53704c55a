"""Speed of a training step and of inference in PyTorch: the rows that benches/step.rs measures for residuum.

    python benches/peers/step.py [--rows TEXT] [--seconds S] [--threads N] [--precision f32|bf16]

One JSON object a line on stdout: peer, version, model, size, batch, mode (train or infer), images_per_second (median
over repetitions), spread (interquartile range over median), layout and precision. Both memory layouts run; the faster one is
printed. f32 throughout, or with bf16 PyTorch's autocast; training is forward, loss, backward and an SGD step with momentum 0.9
and weight decay 1e-4.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
import torchvision

CLASSES = 100
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
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


def autocast(precision: str):
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def training_step(model, x, labels, precision):
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def step():
        optimiser.zero_grad(set_to_none=True)
        with autocast(precision):
            loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()

    return step


def inference(model, x, precision):
    model.eval()

    def step():
        with torch.inference_mode(), autocast(precision):
            model(x)

    return step


def measure(row, layout: str, seconds: float, precision: str) -> dict:
    """Median rate of one row in one layout; repetitions until `seconds` have passed, at least MIN_REPS."""
    name, size, batch, mode = row
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=CLASSES).to(memory_format=LAYOUTS[layout])
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(CLASSES, (batch,))
    step = training_step(model, x, labels, precision) if mode == "train" else inference(model, x, precision)
    for _ in range(WARM_UP_REPS):
        step()
    rates = []
    deadline = time.perf_counter() + seconds
    while len(rates) < MIN_REPS or time.perf_counter() < deadline:
        start = time.perf_counter()
        step()
        rates.append(batch / (time.perf_counter() - start))
    low, median, high = statistics.quantiles(rates, n=4)
    return {
        "peer": "pytorch",
        "version": torch.__version__,
        "model": name,
        "size": size,
        "batch": batch,
        "mode": mode,
        "images_per_second": round(median, 2),
        "spread": round((high - low) / median, 3),
        "layout": layout,
        "precision": precision,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose `model size mode` contains TEXT")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per row and layout (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="default f32")
    args = parser.parse_args()
    rows = [row for row in ROWS if args.rows in f"{row[0]} {row[1]} {row[3]}"]
    if not rows:
        sys.exit(f"--rows {args.rows!r} matches none of: " + ", ".join(f"{r[0]} {r[1]} {r[3]}" for r in ROWS))
    torch.set_num_threads(args.threads)
    for row in rows:
        results = [measure(row, layout, args.seconds, args.precision) for layout in LAYOUTS]
        print(json.dumps(max(results, key=lambda result: result["images_per_second"])), flush=True)


if __name__ == "__main__":
    main()
