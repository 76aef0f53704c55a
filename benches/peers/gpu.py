"""Speed of a training step and of inference in PyTorch on a GPU: the rows that benches/step.rs measures there.

    python benches/peers/gpu.py [--rows TEXT] [--batch N] [--seconds S] [--setups NAMES] [--tiny] [--device D]
    python benches/peers/gpu.py --ceilings

One JSON object a line on stdout: peer, version, model, size, batch, mode (train or infer), images_per_second (median
over groups of steps), spread (interquartile range over median), setup, input (resident on the GPU, or copied to it from
page-locked memory before every step) and memory_mib. The setups, all with channels_last and bf16 autocast:

    eager       as PyTorch runs by default, with cuDNN's search for the fastest algorithms
    graphs      torch.compile, mode "reduce-overhead": fused kernels, replayed as CUDA graphs
    autotune    torch.compile, mode "max-autotune": the same, each kernel picked by timing

A setup that fails is a line with "error". Training is forward, loss, backward and an SGD step with momentum 0.9 and
weight decay 1e-4 (fused). --ceilings prints what the GPU reaches in a large bf16 matrix product and a large copy,
which the roofline of benches/kernels.rs is drawn from.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torchvision

CLASSES = 100
SETUPS = {"eager": None, "graphs": "reduce-overhead", "autotune": "max-autotune"}
WARM_UP_GROUPS = 3
MIN_GROUPS = 5
STEPS_PER_GROUP = 10

# (model, size, batch, mode, input)
ROWS = [
    *((model, 128, batch, "train", "resident") for model in ("resnet18", "resnet34", "resnet50") for batch in (128, 256, 512)),
    ("resnet50", 224, 64, "train", "resident"),
    ("resnet50", 224, 256, "train", "resident"),
    ("resnet18", 128, 256, "train", "copied"),
    ("resnet50", 128, 256, "train", "copied"),
    ("resnet18", 128, 128, "infer", "resident"),
    ("resnet34", 128, 128, "infer", "resident"),
    ("resnet50", 128, 128, "infer", "resident"),
    ("resnet50", 224, 64, "infer", "resident"),
]
TINY_ROWS = [
    ("resnet18", 32, 2, "train", "resident"),
    ("resnet18", 32, 2, "train", "copied"),
    ("resnet18", 32, 2, "infer", "resident"),
]


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def training_step(model, x, labels, mode, device):
    """A step as users write it: the model is compiled with its loss, the optimiser is PyTorch's fused one."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=device.type == "cuda")

    def loss_of(x, labels):
        with torch.autocast(device.type, torch.bfloat16):
            return torch.nn.functional.cross_entropy(model(x), labels)

    forward = torch.compile(loss_of, mode=mode) if mode else loss_of

    def step():
        if mode:
            torch.compiler.cudagraph_mark_step_begin()
        optimiser.zero_grad(set_to_none=True)
        forward(x, labels).backward()
        optimiser.step()

    return step


def inference(model, x, mode, device):
    model.eval()

    def logits_of(x):
        with torch.autocast(device.type, torch.bfloat16):
            return model(x)

    forward = torch.compile(logits_of, mode=mode) if mode else logits_of

    def step():
        with torch.inference_mode():
            if mode:
                torch.compiler.cudagraph_mark_step_begin()
            forward(x)

    return step


def measure(row, setup: str, seconds: float, device) -> dict:
    """Median rate of one row; groups of steps, with one wait for the GPU each, until `seconds` have passed."""
    name, size, batch, mode, source = row
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = torchvision.models.get_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    compiled = SETUPS[setup]
    step = training_step(model, x, labels, compiled, device) if mode == "train" else inference(model, x, compiled, device)
    steps = STEPS_PER_GROUP if device.type == "cuda" else 1
    copied = [(tensor, tensor.cpu()) for tensor in ((x, labels) if source == "copied" else ())]
    if device.type == "cuda":
        copied = [(on_device, on_host.pin_memory()) for on_device, on_host in copied]

    def group() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            for on_device, on_host in copied:
                on_device.copy_(on_host, non_blocking=True)
            step()
        synchronize(device)
        return steps * batch / (time.perf_counter() - start)

    for _ in range(WARM_UP_GROUPS):
        group()
    rates = []
    deadline = time.perf_counter() + seconds
    while len(rates) < MIN_GROUPS or time.perf_counter() < deadline:
        rates.append(group())
    low, median, high = statistics.quantiles(rates, n=4)
    memory = torch.cuda.max_memory_reserved() >> 20 if device.type == "cuda" else None
    return {
        "images_per_second": round(median, 2),
        "spread": round((high - low) / median, 4),
        "steps": steps * len(rates),
        "memory_mib": memory,
    }


def result(row, setup: str, seconds: float, device) -> dict:
    name, size, batch, mode, source = row
    about = {
        "peer": "pytorch",
        "version": torch.__version__,
        "model": name,
        "size": size,
        "batch": batch,
        "mode": mode,
        "setup": setup,
        "layout": "channels_last",
        "precision": "bf16",
        "input": source,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
    }
    try:
        return about | measure(row, setup, seconds, device)
    except Exception as error:  # A compiler that fails on one row must not end the comparison.
        return about | {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def best_rate(run, work: float) -> float:
    """`work` over the median time of `run`, by the GPU's clock."""
    for _ in range(5):
        run()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return work / statistics.median(times)


def ceilings() -> dict:
    extent, copied_bytes = 8192, 2 << 30
    a, b = (torch.randn(extent, extent, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    tflops = best_rate(lambda: torch.mm(a, b), 2 * extent**3) / 1e12
    source = torch.randn(copied_bytes // 4, device="cuda")
    target = torch.empty_like(source)
    gb_s = best_rate(lambda: target.copy_(source), 2 * copied_bytes) / 1e9
    return {"bench": "ceilings", "device": torch.cuda.get_device_name(), "tflops": round(tflops, 1), "gb_s": round(gb_s, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose `model size mode` contains TEXT")
    parser.add_argument("--batch", type=int, metavar="N", help="only rows of this batch")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per row and setup (default 4)")
    parser.add_argument("--setups", default="eager,graphs", help="of " + ", ".join(SETUPS) + " (default eager,graphs)")
    parser.add_argument("--tiny", action="store_true", help="two small rows, to see that everything works")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (default cuda)")
    parser.add_argument("--ceilings", action="store_true", help="measure the GPU's own limits instead")
    args = parser.parse_args()
    device = torch.device(args.device)
    if (device.type == "cuda" or args.ceilings) and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU; --device cpu tries the script without one")
    setups = args.setups.split(",")
    if unknown := [setup for setup in setups if setup not in SETUPS]:
        sys.exit(f"--setups {','.join(unknown)}: take some of " + ", ".join(SETUPS))
    if args.ceilings:
        print(json.dumps(ceilings()))
        return
    torch.backends.cudnn.benchmark = True
    of_batch = [row for row in (TINY_ROWS if args.tiny else ROWS) if args.batch in (None, row[2])]
    rows = [row for row in of_batch if args.rows in f"{row[0]} {row[1]} {row[3]}"]
    if not rows:
        known = ", ".join(f"{r[0]} {r[1]} {r[3]} of {r[2]}" for r in ROWS)
        sys.exit(f"--rows {args.rows!r} and --batch {args.batch} match none of: {known}")
    for row in rows:
        for setup in setups:
            print(json.dumps(result(row, setup, args.seconds, device)), flush=True)


if __name__ == "__main__":
    main()
