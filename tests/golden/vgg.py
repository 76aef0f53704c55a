"""Records what PyTorch computes with torchvision's vgg11_bn: vgg.safetensors and vgg.json.

    python tests/golden/vgg.py               (PyTorch and torchvision, CPU; a minute and 6 GB of memory)

As models.py: f64 rounded once to f32, weights and inputs from formula.py, 100 classes, samples of large tensors. Dropout
has probability 0, because every program draws its own random numbers.

    eval/<size>/logits             4 images of 96 px, 1 of 224 px, stream `eval`, evaluation mode
    train/buffers/<name>           running mean or variance of every norm after a training step
    train/grads/<name>             gradient of that step: 4 images of 96 px, stream `step0`, mean cross-entropy

The biases of convolutions have no gradient, because batch norm takes them away; what rounding leaves of it is not recorded.
"""

import json
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import formula
from models import CLASSES, relative_l2, sample

BATCHES = {96: 4, 224: 1}
TRAIN_SIZE = 96


def build(dtype) -> nn.Module:
    """The model with its weights by formula."""
    model = torchvision.models.vgg11_bn(num_classes=CLASSES, dropout=0.0, init_weights=False)
    state = {
        name: torch.from_numpy(formula.tensor(name, list(value.shape), "none"))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    return model.to(dtype)


def run(dtype) -> dict:
    """Logits in evaluation, then loss, gradients and running statistics of one training step; all f64."""

    def images(stream: str, size: int) -> torch.Tensor:
        return torch.from_numpy(formula.images(stream, BATCHES[size], size)).to(dtype)

    model = build(dtype).eval()
    with torch.no_grad():
        logits = {size: model(images("eval", size)).double() for size in BATCHES}
    labels = torch.from_numpy(formula.labels("step0", BATCHES[TRAIN_SIZE], CLASSES)).long()
    loss = nn.functional.cross_entropy(model.train()(images("step0", TRAIN_SIZE)), labels)
    loss.backward()
    of_convolutions = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {
        "logits": logits,
        "loss": loss.item(),
        "grads": {
            name: sample(value.grad).double()
            for name, value in model.named_parameters()
            if name not in of_convolutions
        },
        "buffers": {name: value.double() for name, value in model.named_buffers() if "running" in name},
    }


def main():
    truth, in_f32 = run(torch.float64), run(torch.float32)
    tensors = {f"eval/{size}/logits": logits for size, logits in truth["logits"].items()}
    for kind in ("grads", "buffers"):
        tensors |= {f"train/{kind}/{name}": value for name, value in truth[kind].items()}
    record = {
        "loss": truth["loss"],
        "logits_std": {size: logits.std().item() for size, logits in truth["logits"].items()},
        "pytorch_f32": {
            "logits_abs": {
                size: (in_f32["logits"][size] - logits).abs().max().item() for size, logits in truth["logits"].items()
            },
            "loss_abs": abs(in_f32["loss"] - truth["loss"]),
            "buffers_relative_l2": relative_l2(in_f32["buffers"], truth["buffers"]),
            "grads_relative_l2": relative_l2(in_f32["grads"], truth["grads"]),
        },
    }
    here = Path(__file__)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    rounded = {name: value.detach().float().contiguous() for name, value in tensors.items()}
    save_file(rounded, here.with_suffix(".safetensors"), metadata=versions)
    here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
