"""Records what torchvision makes of an image with the operations of TrivialAugment and RandAugment: auto_augment.safetensors
and auto_augment.json.

    python tests/golden/auto_augment.py                              (PyTorch, torchvision, seconds)
    python tests/golden/auto_augment.py IMAGE SIZE CASES RESULTS     (applies CASES to the pixels in the file IMAGE, u8 HWC)

The pixels of the images are made here, u8 HWC. Every operation is torchvision's own, on a tensor of u8 with nearest neighbours
and its default fill, at the magnitude that its table has in a bin: `space` is `wide` for TrivialAugmentWide or `rand` for
RandAugment. auto_augment.json maps each case to its image, space and list of operations as [name, bin, sign]; the tensor of
its name holds its result. The second form writes the results of a list of such cases behind each other, for images that are
not ours to pass on.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

BINS = 31
SPACES = {
    "wide": lambda height, width: TrivialAugmentWide()._augmentation_space(BINS),
    "rand": lambda height, width: RandAugment()._augmentation_space(BINS, (height, width)),
}


def apply(pixels: np.ndarray, space: str, operations: list) -> torch.Tensor:
    """`pixels` is HWC u8, and so is the result."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    table = SPACES[space](*image.shape[1:])
    for name, bin, sign in operations:
        magnitudes, _ = table[name]
        magnitude = float(magnitudes[bin]) if magnitudes.ndim > 0 else 0.0
        image = _apply_op(image, name, sign * magnitude, InterpolationMode.NEAREST, None)
    return image.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)


def scene(height: int, width: int) -> np.ndarray:
    """Slopes, an edge and noise; the last channel lacks dark and bright values."""
    rng = np.random.default_rng(20261126)
    y, x = np.mgrid[0:height, 0:width]
    channels = [40 + 9 * x, 200 - 7 * y + 3 * x, 90 + 60 * np.sin(0.7 * x + 0.4 * y)]
    image = np.stack(channels, axis=-1) + rng.normal(0, 12, (height, width, 3))
    image[height // 3 : height // 2, width // 4 :] *= 0.4
    return image.clip([0, 0, 31], [255, 255, 207]).round().astype(np.uint8)


def flat(height: int, width: int) -> np.ndarray:
    """One colour but for a single pixel, and one channel of one value: nothing to stretch or flatten."""
    image = np.full((height, width, 3), (90, 140, 17), dtype=np.uint8)
    image[2, 3, :2] = (255, 3)
    return image


def cases() -> dict[str, dict]:
    found = {}

    def put(image: str, space: str, *operations):
        name = "+".join(f"{op}{'-' if sign < 0 else ''}{bin}" for op, bin, sign in operations)
        found[f"{image}/{space}/{name}"] = {"image": image, "space": space, "operations": list(operations)}

    for name, (_, signed) in SPACES["wide"](9, 9).items():
        put("scene21", "wide", (name, 30, 1))
        put("scene21", "rand", (name, 9, 1))
        for sign in (1, -1) if signed else (1,):
            put("scene18", "wide", (name, 13, sign))
        put("flat", "wide", (name, 22, 1))
        put("small", "rand", (name, 19, 1))
    put("scene21", "rand", ("Equalize", 9, 1), ("Rotate", 9, -1))
    put("scene21", "rand", ("Sharpness", 9, 1), ("Sharpness", 9, -1), ("ShearX", 9, 1))
    put("scene18", "rand", ("TranslateY", 9, -1), ("AutoContrast", 9, 1), ("Contrast", 9, -1), ("Color", 9, 1))
    put("scene18", "rand", ("Solarize", 9, 1), ("Equalize", 9, 1), ("Posterize", 30, 1), ("Brightness", 9, -1))
    return found


def main():
    if len(sys.argv) > 1:
        path, size, wanted, results = sys.argv[1:]
        pixels = np.fromfile(path, dtype=np.uint8).reshape(int(size), int(size), 3)
        made = [apply(pixels, case["space"], case["operations"]).numpy() for case in json.loads(Path(wanted).read_text())]
        np.stack(made).tofile(results)
        return
    images = {"scene21": scene(21, 21), "scene18": scene(18, 18), "flat": flat(16, 16), "small": scene(2, 2)}
    tensors = {name: torch.from_numpy(pixels) for name, pixels in images.items()}
    attributes = cases()
    for name, case in attributes.items():
        tensors[name] = apply(images[case["image"]], case["space"], case["operations"])
    here = Path(__file__)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    save_file(tensors, here.with_suffix(".safetensors"), metadata=versions)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(case)}" for name, case in attributes.items())
    here.with_suffix(".json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
