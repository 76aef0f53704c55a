"""Speed of every convolution of a training step in cuDNN, through PyTorch: fprop, dgrad and wgrad, channels_last, bf16.

    python benches/peers/convs.py [--models NAMES] [--runs N] [--tiny] [--device D]

One JSON object a line on stdout: bench, peer, version, model, size, batch, layer (the first of its shape), pass, x (NHWC), w
(KRSC), y (NPQK), count (layers of that shape), us (median over runs, by the GPU's clock), spread (interquartile range
over median), gflop, tflop_s. cuDNN searches for the fastest algorithm first, and other memory is written between two
runs, as benches/kernels.rs does, so that no operand is left in a cache. Its wgrad gives bf16, residuum's f32.
`layers.py` puts these rows next to those of benches/kernels.rs.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torchvision

# (model, size, batch): the training rows of benches/kernels.rs.
ROWS = [("resnet18", 128, 128), ("resnet50", 128, 128), ("resnet50", 224, 64)]
TINY_ROWS = [("resnet18", 16, 2)]
PASSES = {"dgrad": [True, False, False], "wgrad": [False, True, False]}
FLUSHED_BYTES = 256 << 20


def layers(model: str, size: int, batch: int) -> dict:
    """Convolutions by input shape, filter shape, stride and padding: the names of those that have them."""
    found = {}
    network = torchvision.models.get_model(model, num_classes=100).to("meta")
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):

            def note(module, inputs, _, name=name):
                key = (tuple(inputs[0].shape), tuple(module.weight.shape), module.stride, module.padding)
                found.setdefault(key, []).append(name)

            module.register_forward_hook(note)
    network(torch.empty(batch, 3, size, size, device="meta"))
    return found


def times_us(run, runs: int, device) -> list:
    """Of each run, with caches full of other memory."""
    flush = torch.empty(FLUSHED_BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device)
    times = []
    for _ in range(3 + runs):
        flush.zero_()
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(1e3 * start.elapsed_time(end))
        else:
            start = time.perf_counter()
            run()
            times.append(1e6 * (time.perf_counter() - start))
    return times[3:]


def nhwc(shape) -> list:
    n, c, h, w = shape
    return [n, h, w, c]


def measure(model: str, size: int, batch: int, runs: int, device):
    """Prints a row for each pass of each layer that differs from those before."""
    for (x_shape, w_shape, stride, padding), names in layers(model, size, batch).items():
        x, w = (
            torch.randn(shape, device=device, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
            for shape in (x_shape, w_shape)
        )
        settings = (list(stride), list(padding), [1, 1], False, [0, 0], 1)

        def fprop():
            return torch.ops.aten.convolution(x, w, None, *settings)

        y = fprop()
        dy = torch.randn_like(y)

        def backward(mask):
            return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *settings, mask)

        passes = {"fprop": fprop} | {name: backward(mask) for name, mask in PASSES.items()}
        if names[0] == "conv1":
            # Nothing wants a gradient of the images.
            del passes["dgrad"]
        gflop = 2 * y.numel() * w[0].numel() / 1e9
        for name, run in passes.items():
            low, median, high = statistics.quantiles(times_us(run, runs, device), n=4)
            row = {
                "bench": "convs",
                "peer": "pytorch",
                "version": f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}",
                "model": model,
                "size": size,
                "batch": batch,
                "layer": names[0],
                "pass": name,
                "x": nhwc(x.shape),
                "w": nhwc(w.shape),
                "y": nhwc(y.shape),
                "count": len(names),
                "us": round(median, 2),
                "spread": round((high - low) / median, 4),
                "gflop": round(gflop, 4),
                "tflop_s": round(1e3 * gflop / median, 3),
            }
            print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,resnet50", metavar="NAMES", help="(default resnet18,resnet50)")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs that count, two or more (default 20)")
    parser.add_argument("--tiny", action="store_true", help="small images, to see that everything works")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script (default cuda)")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU; --device cpu tries the script without one")
    if args.runs < 2:
        sys.exit(f"--runs {args.runs}: a spread takes two")
    rows = [row for row in (TINY_ROWS if args.tiny else ROWS) if row[0] in args.models.split(",")]
    if not rows:
        sys.exit(f"--models {args.models}: take some of " + ", ".join(sorted({row[0] for row in ROWS})))
    torch.backends.cudnn.benchmark = True
    for row in rows:
        measure(*row, args.runs, device)


if __name__ == "__main__":
    main()
