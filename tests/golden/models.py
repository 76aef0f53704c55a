"""Records what PyTorch computes with whole ResNets: models.safetensors and models.json.

    python tests/golden/models.py            (PyTorch and torchvision, CPU; a few minutes)

Everything recorded is PyTorch in f64, stored as f32 (losses and norms as JSON numbers). The JSON also holds how far
PyTorch's own f32 path is from it, measured in the run that wrote the file. Weights and inputs come from formula.py.

Per model (resnet18, resnet34, resnet50, resnet50_v1, resnet18_v2, resnet50_v2), all with 100 classes:

    <model>/eval/logits            4 images of 64 px, stream `eval`, evaluation mode
    <model>/train/buffers/<name>   running mean or variance of every norm after the first training step
    <model>/train/grads/<name>     gradient of the first step, without weight decay
    <model>/train/updates/<name>   weights after the last step minus the starting weights

Training: batches of 16 at 64 px, streams `step0`, `step1`, ...; SGD 0.05, momentum 0.9, weight decay 1e-4 on every
parameter, plain mean cross-entropy. Gradients and updates are samples in file order (filters OIHW): every element
where a tensor has at most 512, else those at `(i * numel) // 512` for i in 0..512. Only resnet18 records all of it.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import formula

CLASSES = 100
SIZE = 64
EVAL_BATCH = 4
TRAIN_BATCH = 16
SAMPLES = 512

# What is recorded: training steps, and which sampled tensors go into the file.
MODELS = {
    "resnet18": (5, ("buffers", "grads", "updates")),
    "resnet34": (2, ()),
    "resnet50": (2, ("grads",)),
    "resnet50_v1": (1, ()),
    "resnet18_v2": (2, ("grads",)),
    "resnet50_v2": (1, ()),
}
LAYERS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class PreactBlock(nn.Module):
    """Norm and ReLU before each convolution; a projection starts from the first ReLU and has no norm."""

    def __init__(self, in_channels, planes, stride, bottleneck):
        super().__init__()
        out_channels = planes * 4 if bottleneck else planes
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        widths = (in_channels, *(planes for _ in kernels[1:]), out_channels)
        self.depth = len(kernels)
        for i, kernel in enumerate(kernels):
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i]))
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, strides[i], kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        for i in range(2, self.depth + 1):
            y = getattr(self, f"conv{i}")(torch.relu(getattr(self, f"bn{i}")(y)))
        return y + shortcut


class PreactResNet(nn.Module):
    """ResNet v2: a bare stem convolution, pre-activation blocks, and one last norm called `norm`."""

    def __init__(self, layers, bottleneck):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        channels = 64
        for stage, count in enumerate(layers):
            planes = 64 << stage
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(PreactBlock(channels, planes, stride, bottleneck))
                channels = planes * 4 if bottleneck else planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.relu(self.norm(x)).mean((2, 3)))


def build(model_name: str, dtype) -> nn.Module:
    """The model with its weights by formula."""
    base, _, form = model_name.partition("_")
    bottleneck = base == "resnet50"
    if form == "v2":
        model = PreactResNet(LAYERS[base], bottleneck)
    else:
        model = torchvision.models.resnet.ResNet(
            Bottleneck if bottleneck else BasicBlock, LAYERS[base], num_classes=CLASSES
        )
    if form == "v1":
        for module in model.modules():
            if isinstance(module, Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    last_norm = "bn3" if bottleneck else "bn2"
    state = {
        name: torch.from_numpy(formula.tensor(name, list(value.shape), last_norm))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    return model.to(dtype)


def eval_logits(model_name: str, dtype) -> torch.Tensor:
    model = build(model_name, dtype).eval()
    with torch.no_grad():
        return model(torch.from_numpy(formula.images("eval", EVAL_BATCH, SIZE)).to(dtype)).double()


def train(model_name: str, dtype, steps: int) -> dict:
    """Losses of `steps` steps, first gradients and buffers, and what the weights moved by; all f64."""
    model = build(model_name, dtype).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = {"losses": []}
    for step in range(steps):
        x = torch.from_numpy(formula.images(f"step{step}", TRAIN_BATCH, SIZE)).to(dtype)
        y = torch.from_numpy(formula.labels(f"step{step}", TRAIN_BATCH, CLASSES)).long()
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        result["losses"].append(loss.item())
        if step == 0:
            result["grads"] = {name: value.grad.detach().clone().double() for name, value in model.named_parameters()}
            result["buffers"] = {
                name: value.detach().clone().double() for name, value in model.named_buffers() if "running" in name
            }
        optimiser.step()
    result["updates"] = {
        name: value.detach().double() - start[name].double() for name, value in model.named_parameters()
    }
    return result


def sample(values: torch.Tensor) -> torch.Tensor:
    flat = values.reshape(-1)
    if flat.numel() <= SAMPLES:
        return flat
    return flat[torch.arange(SAMPLES) * flat.numel() // SAMPLES]


def relative_l2(got: dict, want: dict) -> dict:
    """Median and largest of the tensors' relative L2 errors, over the recorded samples."""
    errors = [((sample(got[name]) - sample(want[name])).norm() / sample(want[name]).norm()).item() for name in want]
    return {"median": statistics.median(errors), "max": max(errors)}


def spreads(got: dict, want: dict) -> dict:
    """How far PyTorch's f32 training is from its f64 training."""
    return {
        "losses_abs": [abs(a - b) for a, b in zip(got["losses"], want["losses"])],
        "buffers_relative_l2": relative_l2(got["buffers"], want["buffers"]),
        "grads_relative_l2": relative_l2(got["grads"], want["grads"]),
        "updates_relative_l2": relative_l2(got["updates"], want["updates"]),
    }


def record_model(model_name: str, tensors: dict) -> dict:
    steps, recorded = MODELS[model_name]
    logits = eval_logits(model_name, torch.float64)
    truth = train(model_name, torch.float64, steps)
    tensors[f"{model_name}/eval/logits"] = logits.float().contiguous()
    for kind in recorded:
        for name, value in truth[kind].items():
            tensors[f"{model_name}/train/{kind}/{name}"] = sample(value).float().contiguous()
    return {
        "losses": truth["losses"],
        **{f"{kind}_l2": {name: value.norm().item() for name, value in truth[kind].items()} for kind in recorded},
        "logits_std": logits.std().item(),
        "logits_std_over_images": logits.std(0).mean().item(),
        "pytorch_f32": {
            "logits_abs": (eval_logits(model_name, torch.float32) - logits).abs().max().item(),
            **spreads(train(model_name, torch.float32, steps), truth),
        },
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dry-run", action="store_true", help="print the JSON, write nothing")
    args = parser.parse_args()
    tensors, record = {}, {}
    for model_name in args.models:
        record[model_name] = record_model(model_name, tensors)
        print(model_name, json.dumps({k: v for k, v in record[model_name].items() if not k.endswith("_l2")}), flush=True)
    if args.dry_run:
        return
    here = Path(__file__)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    save_file(tensors, here.with_suffix(".safetensors"), metadata=versions)
    here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
