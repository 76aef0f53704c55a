"""Writes small files of weights in every form that PyTorch has for them: torch/*.pth.

    python tests/golden/torch_files.py            (PyTorch, torchvision and numpy; seconds)

All but those of `refused` hold the same numbers, which `tests/weight_files.rs` knows by formula:

    conv.weight            [2, 3, 2, 2]   element i is i / 4 - 1, exact in bf16
    bn.running_var         [3]            1, 2, 3
    bn.num_batches_tracked []             7

`resnet18.pth` is a whole ResNet-18 for ten categories in 40 kB: each of its tensors is one number, expanded.
"""

import argparse
import datetime
import io
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

OUTPUT = Path(__file__).with_name("torch")


def tensors(dtype=torch.float32) -> OrderedDict:
    return OrderedDict(
        {
            "conv.weight": (torch.arange(24) / 4 - 1).reshape(2, 3, 2, 2).to(dtype),
            "bn.running_var": torch.tensor([1, 2, 3]).to(dtype),
            "bn.num_batches_tracked": torch.tensor(7),
        }
    )


def module() -> nn.Module:
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 2, bias=False), bn=nn.BatchNorm2d(3, affine=False)))
    net.load_state_dict(tensors(), strict=False)
    return net


def strided() -> OrderedDict:
    state = tensors()
    weight = state["conv.weight"]
    # In the order of its last dimension first, behind five numbers of no meaning.
    storage = torch.full((29,), 99.0)
    view = storage[5:].view(2, 2, 3, 2).permute(3, 2, 0, 1)
    view.copy_(weight)
    state["conv.weight"] = view
    state["bn.running_var"] = torch.arange(7.0)[1:4]
    return state


def rezipped(saved: bytes, compression: int, **replaced: bytes) -> bytes:
    """The entries of an archive in another one, some with other bytes."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved)) as source, zipfile.ZipFile(output, "w", compression) as target:
        for name in source.namelist():
            target.writestr(zipfile.ZipInfo(name), replaced.get(name.split("/")[-1], source.read(name)), compression)
    return output.getvalue()


def save(name: str, value, **options):
    torch.save(value, OUTPUT / name, **options)


def optimiser() -> torch.optim.Optimizer:
    net = module()
    chosen = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net.conv(torch.ones(1, 3, 2, 2)).sum().backward()
    chosen.step()
    return chosen


def readable():
    save("zip.pth", tensors())
    save("protocol_4.pth", tensors(), pickle_protocol=4)
    save("legacy.pth", tensors(), _use_new_zipfile_serialization=False)
    save("legacy_protocol_4.pth", tensors(), _use_new_zipfile_serialization=False, pickle_protocol=4)
    save("legacy_strided.pth", strided(), _use_new_zipfile_serialization=False)
    for name, dtype in [("half", torch.float16), ("bfloat16", torch.bfloat16), ("double", torch.float64)]:
        save(f"{name}.pth", tensors(dtype))
    save("strided.pth", strided())
    state = tensors()
    save("tied.pth", {**state, "tied.weight": state["conv.weight"], "tied.first": state["conv.weight"][0]})
    save("parameters.pth", {name: nn.Parameter(value, value.is_floating_point()) for name, value in tensors().items()})
    save("module.pth", module())
    state = module().state_dict()
    checkpoint = {
        "epoch": 3,
        "state_dict": state,
        "optimizer": optimiser().state_dict(),
        "args": argparse.Namespace(lr=0.1, data=Path("/data")),
        "best": np.float64(0.5),
        "when": datetime.datetime(2020, 1, 2),
        "random": (random.getstate()[1][:3], 2**70, torch.float32, torch.device("cpu")),
    }
    save("checkpoint.pth", checkpoint)
    saved = io.BytesIO()
    torch.save(tensors(), saved)
    (OUTPUT / "compressed.pth").write_bytes(rezipped(saved.getvalue(), zipfile.ZIP_DEFLATED))
    torch.serialization.set_crc32_options(False)
    save("without_checksums.pth", tensors())
    torch.serialization.set_crc32_options(True)

    network = torchvision.models.resnet18(num_classes=10).state_dict()
    for index, (name, value) in enumerate(network.items()):
        if value.is_floating_point():
            network[name] = torch.tensor(0.001 * (index % 7 + 1)).expand(value.shape)
    save("resnet18.pth", network)


def refused():
    saved = io.BytesIO()
    torch.save(tensors(), saved)
    (OUTPUT / "big_endian.pth").write_bytes(rezipped(saved.getvalue(), zipfile.ZIP_STORED, byteorder=b"big"))
    torch.jit.script(module()).save(str(OUTPUT / "script.pt"))
    save("optimiser_object.pth", {"model": tensors(), "optimizer": optimiser()})
    save("sparse.pth", {"conv.weight": torch.eye(3).to_sparse()})
    save("complex.pth", {"conv.weight": torch.ones(2, dtype=torch.complex64)})
    save("list.pth", [torch.ones(2)])
    save("without_tensors.pth", {"epoch": 3})
    np.savez(OUTPUT / "arrays.npz", weight=np.ones(2))


if __name__ == "__main__":
    torch.manual_seed(0)
    random.seed(0)
    OUTPUT.mkdir(exist_ok=True)
    readable()
    refused()
