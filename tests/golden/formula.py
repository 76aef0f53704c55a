"""Weights, images and labels by formula: numbers that Python and Rust compute bit for bit alike.

The specification is the module comment of tests/common/formula.rs; this file is the same in numpy. Weights of whole
networks are too large to commit, so tests compute them. Run as a script, it writes formula.json: checksums that
tests/formula.rs holds the Rust side to.
"""

import json
import math
from pathlib import Path

import numpy as np

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
MASK_64 = (1 << 64) - 1


def fnv1a_64(data: bytes) -> int:
    state = FNV_OFFSET
    for byte in data:
        state = ((state ^ byte) * FNV_PRIME) & MASK_64
    return state


def draws(name: str, count: int) -> np.ndarray:
    """The first `count` 24-bit draws of the stream `name`, as u64."""
    index = np.arange(1, count + 1, dtype=np.uint64)
    z = np.uint64(fnv1a_64(name.encode())) + index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(40)


def uniforms(name: str, count: int) -> np.ndarray:
    """Uniform in [0, 1), multiples of 2^-24, as f64."""
    return draws(name, count).astype(np.float64) * 2.0**-24


def value_range(name: str, shape, last_norm: str) -> tuple[float, float]:
    """The interval that the values of a tensor are spread over."""
    if len(shape) == 4:
        bound = math.sqrt(24.0 / (shape[0] * shape[2] * shape[3]))
        return -bound, bound
    if len(shape) == 2:
        bound = math.sqrt(6.0 if name.startswith("classifier.") else 1.0) / math.sqrt(shape[1])
        return -bound, bound
    if name.endswith(".running_mean"):
        return -0.3, 0.3
    if name.endswith(".running_var"):
        return 2.0, 4.0
    if name.endswith(".bias"):
        return -0.2, 0.2
    if name.startswith("layer") and name.endswith(f".{last_norm}.weight"):
        return 0.05, 0.2
    return 0.5, 1.5


def tensor(name: str, shape, last_norm: str) -> np.ndarray:
    """A network's tensor by its torchvision name and file shape; `last_norm` is `bn2` or `bn3` in ResNets."""
    low, high = value_range(name, shape, last_norm)
    values = low + (high - low) * uniforms(name, math.prod(shape))
    return values.astype(np.float32).reshape(shape)


def images(stream: str, batch: int, size: int) -> np.ndarray:
    """A batch of nearly normal pixels, NCHW f32, mean 0 and variance 1."""
    shape = (batch, 3, size, size)
    parts = uniforms(f"{stream}.images", 4 * math.prod(shape)).reshape(-1, 4)
    total = ((parts[:, 0] + parts[:, 1]) + parts[:, 2]) + parts[:, 3]
    return ((total - 2.0) * math.sqrt(3.0)).astype(np.float32).reshape(shape)


def labels(stream: str, batch: int, classes: int) -> np.ndarray:
    return ((draws(f"{stream}.labels", batch) * np.uint64(classes)) >> np.uint64(24)).astype(np.int32)


def describe(values: np.ndarray) -> dict:
    flat = values.reshape(-1)
    return {
        "shape": list(values.shape),
        "first": [float(v) for v in flat[:3]],
        "last": float(flat[-1]),
        "fnv1a_64": f"{fnv1a_64(np.ascontiguousarray(values).tobytes()):016x}",
    }


def main():
    cases = [
        ("conv1.weight", [64, 3, 7, 7], "bn2"),
        ("layer1.0.conv2.weight", [8, 5, 3, 1], "bn2"),
        ("layer1.0.bn2.weight", [64], "bn2"),
        ("layer1.0.bn2.weight", [64], "bn3"),
        ("layer4.2.bn3.weight", [2048], "bn3"),
        ("layer2.0.downsample.1.weight", [128], "bn2"),
        ("bn1.weight", [64], "bn2"),
        ("bn1.bias", [64], "bn2"),
        ("bn1.running_mean", [64], "bn2"),
        ("bn1.running_var", [64], "bn2"),
        ("fc.weight", [100, 512], "bn2"),
        ("fc.bias", [100], "bn2"),
        ("classifier.0.weight", [48, 147], "none"),
    ]
    record = {
        "tensors": [
            {"name": name, "last_norm": norm, **describe(tensor(name, shape, norm))} for name, shape, norm in cases
        ],
        "images": {"stream": "step0", **describe(images("step0", 3, 17))},
        "labels": {"stream": "step0", "classes": 100, "values": labels("step0", 16, 100).tolist()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
