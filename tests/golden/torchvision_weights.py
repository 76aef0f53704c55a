"""Saves a network of torchvision as its users do, and what it computes.

    python tests/golden/torchvision_weights.py resnet18 folder        (PyTorch, torchvision; seconds)

Into the folder go `weights.pth` and `legacy.pth` (the state dict by torch.save, in its two formats), `module.pth` (the
network whole), `ddp.pth` (a checkpoint of a parallel and compiled network with its optimiser) and `logits.f32`: the logits
of four images of 64 pixels, stream `eval` of formula.py. The weights are random, and the statistics those of other images.
"""

import sys
from pathlib import Path

import torch
import torchvision

import formula


def main(name: str, folder: Path):
    torch.manual_seed(7)
    model = getattr(torchvision.models, name)(weights=None)
    with torch.no_grad():
        for step in range(3):
            model(torch.from_numpy(formula.images(f"step{step}", 4, 64)))
        model.eval()
        logits = model(torch.from_numpy(formula.images("eval", 4, 64)))
    logits.numpy().astype("<f4").tofile(folder / "logits.f32")
    torch.save(model.state_dict(), folder / "weights.pth")
    torch.save(model.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(model, folder / "module.pth")
    wrapped = torch.nn.DataParallel(torch.compile(model))
    optimiser = torch.optim.SGD(wrapped.parameters(), 0.1, momentum=0.9)
    checkpoint = {"epoch": 3, "model": wrapped.state_dict(), "optimizer": optimiser.state_dict()}
    torch.save(checkpoint, folder / "ddp.pth")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
