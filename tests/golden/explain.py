"""Records Grad-CAM by PyTorch's autograd: explain.json.

    python tests/golden/explain.py            (PyTorch and torchvision, CPU; seconds)

Networks, weights and images are those of models.py and formula.py, in f64: 2 images of 128 px, whose last feature map has
4 x 4 places, and 2 of 96 px, where it has 3 x 3 and the last one of at least 4 x 4 is explained, both of stream `explain`. Per
network, size and image: the most probable category with its probability, and for it and for category 17 the weighted sum of
the map's channels, before the negative part is cut off. `torch_f32` is how far PyTorch's own f32 path is from that, over
the largest magnitude.
"""

import json
from pathlib import Path

import torch

import formula
import models

MODELS = ("resnet18", "resnet50", "resnet50_v1", "resnet18_v2")
SIZES = (128, 96)
MIN_EXTENT = 4
BATCH = 2
OTHER_CATEGORY = 17


def before_last_stage(model: torch.nn.Module, model_name: str, x: torch.Tensor) -> torch.Tensor:
    """What the last stage reads, NCHW: in form v2 after the norm and the ReLU that it begins with."""
    x = model.conv1(x)
    if model_name.endswith("v2"):
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    else:
        x = model.maxpool(model.relu(model.bn1(x)))
    x = model.layer3(model.layer2(model.layer1(x)))
    return torch.relu(model.layer4[0].bn1(x)) if model_name.endswith("v2") else x


def last_stage(model: torch.nn.Module, model_name: str, x: torch.Tensor) -> torch.Tensor:
    """The feature map that the global average is taken of, NCHW, from what before_last_stage returns."""
    if not model_name.endswith("v2"):
        return model.layer4(x)
    block = model.layer4[0]
    y = block.conv1(x)
    for i in range(2, block.depth + 1):
        y = getattr(block, f"conv{i}")(torch.relu(getattr(block, f"bn{i}")(y)))
    x = y + block.downsample(x)
    return torch.relu(model.norm(model.layer4[1:](x)))


def explain(model_name: str, size: int, dtype) -> list[dict]:
    model = models.build(model_name, dtype).eval()
    images = torch.from_numpy(formula.images("explain", BATCH, size)).to(dtype)
    records = []
    for image in images:
        early = before_last_stage(model, model_name, image[None]).detach().requires_grad_()
        late = last_stage(model, model_name, early)
        features = late if late.shape[-1] >= MIN_EXTENT else early
        logits = model.fc(late.mean((2, 3)))[0]
        assert torch.allclose(logits, model(image[None])[0])
        best = int(logits.argmax())
        record = {"best": best, "probability": logits.softmax(0)[best].item(), "evidence": {}}
        for category in (best, OTHER_CATEGORY):
            gradient = torch.autograd.grad(logits[category], features, retain_graph=True)[0]
            evidence = (gradient.mean((2, 3), keepdim=True) * features).sum(1)[0]
            record["evidence"][str(category)] = evidence.detach().double().tolist()
        records.append(record)
    return records


def spread(got: list[dict], want: list[dict]) -> float:
    errors = []
    for a, b in zip(got, want):
        for category, evidence in b["evidence"].items():
            x, y = torch.tensor(a["evidence"][category]), torch.tensor(evidence)
            errors.append(((x - y).abs().max() / y.abs().max()).item())
    return max(errors)


def main():
    record = {}
    for model_name in MODELS:
        record[model_name] = {}
        for size in SIZES:
            truth = explain(model_name, size, torch.float64)
            error = spread(explain(model_name, size, torch.float32), truth)
            record[model_name][str(size)] = {"images": truth, "torch_f32": error}
            print(model_name, size, error, [image["probability"] for image in truth], flush=True)
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
