"""Records what torchvision makes of an image with single augmentations: augment.safetensors and augment.json.

    python tests/golden/augment.py path/to/miniplaces               (PyTorch, torchvision, Pillow; seconds)

The pixels of the images `scene19` and `scene22` (u8, HWC) are made here. Of real photos, which are not ours to pass on, only every 13th pixel of every
13th row of each result is kept; files are named by their path. augment.json maps each case to its image, kind and
attributes; augment.safetensors holds its result under its name, f32, HWC, in 0..255. `erase` is
recorded as the network's input, normalised by ImageNet's mean and deviation. Everything is computed in f64 and rounded once. `drop` has no counterpart in torchvision: its Philox4x32-10 is written here anew, from the paper.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
import torchvision.transforms.functional as F
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode

BILINEAR = InterpolationMode.BILINEAR
PHOTOS = [
    "images/train/a/abbey/00000001.jpg",
    "images/train/b/banquet_hall/00000011.jpg",
    "images/train/g/golf_course/00000001.jpg",
]
STEP = 13

TENSORS: dict[str, torch.Tensor] = {}
CASES: dict[str, dict] = {}


def scene(height: int, width: int) -> np.ndarray:
    """Slopes, an edge and noise, u8 HWC."""
    rng = np.random.default_rng(20261123)
    y, x = np.mgrid[0:height, 0:width]
    channels = [40 + 9 * x, 200 - 7 * y + 3 * x, 90 + 60 * np.sin(0.7 * x + 0.4 * y)]
    image = np.stack(channels, axis=-1) + rng.normal(0, 12, (height, width, 3))
    image[height // 3 : height // 2, width // 4 :] *= 0.4
    return image.clip(0, 255).round().astype(np.uint8)


def philox(counter: list[int], key: list[int]) -> list[int]:
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def drop(image: torch.Tensor, probability: float, seed: int, epoch: int, sample: int) -> torch.Tensor:
    """The counter is (pixel, epoch, sample, 5), the key the seed; word 0 decides, the bytes of word 1 are the colour."""
    result = image.clone()
    height, width = image.shape[1:]
    for pixel in range(height * width):
        words = philox([pixel, epoch, sample, 5], [seed & 0xFFFFFFFF, seed >> 32])
        if (words[0] >> 8) / 2**24 < probability:
            for channel in range(3):
                result[channel, pixel // width, pixel % width] = (words[1] >> 8 * channel & 255) / 255
    return result


def compute(image: torch.Tensor, kind: str, a: dict) -> torch.Tensor:
    """`image` is CHW f64 in 0..1; geometric results are black outside."""
    size = list(image.shape[1:])
    match kind:
        case "flip":
            return F.hflip(image)
        case "crop":
            box = (a["top"], a["left"], a["height"], a["width"])
            return F.resized_crop(image, *box, size, BILINEAR, antialias=False)
        case "shift":
            return F.affine(image, 0.0, [a["dx"], a["dy"]], 1.0, [0.0, 0.0], BILINEAR)
        case "rotate":
            return F.rotate(image, a["degrees"], BILINEAR)
        case "shear":
            return F.affine(image, 0.0, [0, 0], 1.0, [a["degrees"], 0.0], BILINEAR)
        case "rotate_shear_shift":
            # torchvision's affine turns clockwise, its rotate anticlockwise.
            return F.affine(image, -a["rotate"], [a["dx"], a["dy"]], 1.0, [a["shear"], 0.0], BILINEAR)
        case "brightness":
            return F.adjust_brightness(image, a["factor"])
        case "contrast":
            return F.adjust_contrast(image, a["factor"])
        case "saturation":
            return F.adjust_saturation(image, a["factor"])
        case "scale":
            enlarged = F.resize(image, [a["to"], a["to"]], BILINEAR, antialias=False)
            return F.crop(enlarged, a["top"], a["left"], *size)
        case "erase":
            normalised = F.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            return F.erase(normalised, a["top"], a["left"], a["height"], a["width"], torch.zeros(3, 1, 1).double())
        case "drop":
            return drop(image, a["probability"], a["seed"], a["epoch"], a["sample"])
    raise ValueError(kind)


def put(name: str, image_name: str, pixels: np.ndarray, kind: str, **attributes):
    image = torch.from_numpy(pixels).double().permute(2, 0, 1) / 255
    result = compute(image, kind, attributes).permute(1, 2, 0) * (1 if kind == "erase" else 255)
    step = STEP if image_name in PHOTOS else 1
    CASES[name] = {"image": image_name, "step": step, "kind": kind, **attributes}
    TENSORS[name] = result[::step, ::step].float().contiguous()


def all_kinds(name: str, image_name: str, pixels: np.ndarray):
    size = pixels.shape[0]
    side = math.floor(0.8 * size)

    def case(variant: str, kind: str, **attributes):
        put(f"{name}/{variant}", image_name, pixels, kind, **attributes)

    case("flip", "flip")
    case("crop", "crop", left=(size - side) // 2, top=1, width=side, height=side)
    case("crop_not_square", "crop", left=2, top=(size - side) // 3, width=side, height=side - 4)
    case("shift", "shift", dx=-size // 7, dy=3)
    case("rotate", "rotate", degrees=37.0)
    case("rotate_other_way", "rotate", degrees=-81.5)
    case("shear", "shear", degrees=30.0)
    case("shear_other_way", "shear", degrees=-12.25)
    case("rotate_shear_shift", "rotate_shear_shift", rotate=-25.0, shear=18.0, dx=4, dy=-2)
    case("brightness", "brightness", factor=1.375)
    case("contrast", "contrast", factor=0.625)
    case("contrast_above_one", "contrast", factor=1.4375)
    case("saturation", "saturation", factor=0.25)
    case("scale", "scale", to=size + size // 2, left=size // 3, top=2)
    case("erase", "erase", left=size // 4, top=2, width=size // 2, height=size - 5)
    case("drop", "drop", probability=0.1, seed=0x0123456789ABCDEF, epoch=3, sample=17)


def main():
    for size in (19, 22):
        pixels = scene(size, size)
        name = f"scene{size}"
        TENSORS[name] = torch.from_numpy(pixels)
        all_kinds(name, name, pixels)
    for path in PHOTOS:
        photo = np.array(Image.open(Path(sys.argv[1]) / path).convert("RGB"))
        all_kinds(Path(path).parts[-2], path, photo)

    here = Path(__file__)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    save_file(TENSORS, here.with_suffix(".safetensors"), metadata=versions)
    lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(attributes)}" for case, attributes in CASES.items())
    here.with_suffix(".json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
