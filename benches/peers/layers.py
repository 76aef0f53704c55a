"""Prints every pass of every convolution of a training step next to cuDNN's: microseconds, TFLOP/s and the ratio.

    python benches/peers/layers.py OURS.jsonl THEIRS.jsonl

OURS holds rows of benches/kernels.rs, THEIRS rows of convs.py; other lines are passed over. Layers of the same shape are one
row with their number. Above 1 residuum is faster. A dgrad with a + also adds to the gradient of another branch, and passes
may compute sums for a batch norm besides, where PyTorch takes further kernels.
"""

import json
import re
import sys

PASSES = ("fprop", "dgrad", "wgrad")


def rows(path: str, bench: str) -> list:
    with open(path, encoding="utf-8") as lines:
        results = [json.loads(line) for line in lines if line.startswith("{")]
    return [r for r in results if r.get("bench") == bench]


def dims(text: str) -> list:
    """Of each operand in `bf16 2x8x8x64, bf16 64x3x3x64`."""
    return [tuple(map(int, found.split("x"))) for found in re.findall(r"\w+ (\d+(?:x\d+)*)", text)]


def convolution(ours: dict):
    """Pass, layer, and shapes (x, w, y) of a row of benches/kernels.rs; None where it is another operation."""
    pass_name = next((name for name in PASSES if f"conv2d_{name}" in ours["op"]), None)
    if pass_name is None or ours["mode"] != "train":
        return None
    inputs, outputs = map(dims, ours["shapes"].split(" -> "))
    shapes = {
        "fprop": lambda: (inputs[0], inputs[1], outputs[0]),
        "dgrad": lambda: (outputs[0], inputs[1], inputs[0]),
        "wgrad": lambda: (inputs[0], outputs[0], inputs[1]),
    }[pass_name]()
    # What a batch norm takes besides has six operands behind its two, the sum among them.
    adds = "+" if (ours["op"], len(inputs)) in (("conv2d_dgrad", 3), ("conv2d_dgrad_sums", 8)) else ""
    return pass_name, ours["node"].removesuffix("." + pass_name), shapes, adds


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    by_shape, by_layer = {}, {}
    theirs = rows(sys.argv[2], "convs")
    for r in theirs:
        place = (r["model"], r["size"], r["batch"], r["pass"])
        by_shape[*place, tuple(tuple(r[name]) for name in "xwy")] = r
        by_layer[*place, r["layer"]] = r
    sums, count = {}, 0
    line = "{:<9}{:>4} {:>5}  {:<22}{:<7}{:>3}{:>10}{:>9}{:>10}{:>9}{:>7}"
    heading = line.format("model", "size", "batch", "layer", "pass", "", "us", "TFLOP/s", "cuDNN us", "TFLOP/s", "ratio")
    for ours in rows(sys.argv[1], "kernels"):
        if (found := convolution(ours)) is None:
            continue
        pass_name, layer, shapes, adds = found
        place = (ours["model"], ours["size"], ours["batch"], pass_name)
        # The stem's images lie otherwise here, so its shapes are no other's.
        peer = by_shape.get((*place, shapes)) or by_layer.get((*place, layer))
        if peer is None:
            continue
        if count == 0:
            print(f"convolutions one by one, bf16: residuum against PyTorch {peer['version']}\n{heading}")
        count += 1
        both = (ours["us"], peer["us"])
        speeds = [value for us in both for value in (f"{us:.1f}", f"{1e3 * peer['gflop'] / us:.1f}")]
        times = f"x{ours['count']}" if ours["count"] > 1 else ""
        print(line.format(*place[:3], layer, pass_name + adds, times, *speeds, f"{both[1] / both[0]:.2f}"))
        for part in (pass_name, "all"):
            sum_us = sums.setdefault((*place[:3], part), [0.0, 0.0])
            for side in range(2):
                sum_us[side] += ours["count"] * both[side]
    if count == 0:
        sys.exit(f"no convolution is in both {sys.argv[1]} and {sys.argv[2]}")
    print("\nsums over the layers")
    for (model, size, batch, part), (a, b) in sums.items():
        print(line.format(model, size, batch, "", part, "", f"{a:.1f}", "", f"{b:.1f}", "", f"{b / a:.2f}"))


if __name__ == "__main__":
    main()
