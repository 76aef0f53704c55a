"""Records what PyTorch computes with single operations: ops.safetensors and ops.json.

    python tests/golden/ops.py               (PyTorch, CPU; seconds)

ops.json maps each case to its operation and attributes; ops.safetensors holds its tensors as `<case>/<tensor>`, in
this crate's layouts: images NHWC, filters KRSC, linear weights [out, in]. Inputs are f32; results are computed in f64
from them and rounded once. `dy` is the random upstream gradient, `d<input>` the gradient it causes.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.manual_seed(20240914)

TENSORS: dict[str, torch.Tensor] = {}
CASES: dict[str, dict] = {}


def normal(*shape, mean=0.0, std=1.0) -> torch.Tensor:
    """Normal values that f32 holds exactly, as f64."""
    return (mean + std * torch.randn(shape)).float().double()


def uniform(*shape, low, high) -> torch.Tensor:
    return (low + (high - low) * torch.rand(shape)).float().double()


def put(case: str, **tensors):
    """Stores tensors of a case: integers as i32, the rest rounded to f32."""
    for name, value in tensors.items():
        dtype = torch.float32 if value.is_floating_point() else torch.int32
        TENSORS[f"{case}/{name}"] = value.detach().to(dtype).contiguous().clone()


def nhwc(x: torch.Tensor) -> torch.Tensor:
    """NCHW to NHWC, and OIHW to KRSC."""
    return x.permute(0, 2, 3, 1)


def nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def differentiate(case: str, inputs: dict, compute):
    """Stores inputs, `y` and every gradient; `inputs` are in our layouts, as `compute` takes and returns them."""
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    y = compute(*leaves.values())
    dy = normal(*y.shape)
    grads = torch.autograd.grad(y, list(leaves.values()), dy)
    put(case, **leaves, y=y, dy=dy, **{f"d{name}": grad for name, grad in zip(leaves, grads)})


def conv2d(case, x, w, stride, pad):
    """x is N, H, W, C; w is K, R, S; the filter's channels are those of x."""
    CASES[case] = {"op": "conv2d", "stride_h": stride[0], "stride_w": stride[1], "pad_h": pad[0], "pad_w": pad[1]}
    fan_in = w[1] * w[2] * x[3]
    inputs = {"x": normal(*x), "w": normal(*w, x[3], std=fan_in**-0.5)}
    differentiate(case, inputs, lambda x, w: nhwc(F.conv2d(nchw(x), nchw(w), stride=stride, padding=pad)))


def convolutions():
    conv2d("conv2d_3x3_s1p1", (2, 7, 9, 5), (6, 3, 3), (1, 1), (1, 1))
    conv2d("conv2d_3x3_s2x1_p1x0", (3, 8, 7, 5), (4, 3, 3), (2, 1), (1, 0))
    conv2d("conv2d_3x3_s2p1", (2, 10, 7, 3), (5, 3, 3), (2, 2), (1, 1))
    conv2d("conv2d_7x7_s2p3", (2, 17, 14, 3), (5, 7, 7), (2, 2), (3, 3))
    conv2d("conv2d_1x1_s1", (2, 5, 3, 11), (7, 1, 1), (1, 1), (0, 0))
    conv2d("conv2d_1x1_s2", (3, 6, 9, 8), (5, 1, 1), (2, 2), (0, 0))
    conv2d("conv2d_2x4_s1x3_p1x2", (2, 5, 11, 3), (7, 2, 4), (1, 3), (1, 2))
    conv2d("conv2d_3x3_wide", (2, 11, 13, 37), (29, 3, 3), (1, 1), (1, 1))


def linear():
    CASES["linear_bias"] = {"op": "linear"}
    inputs = {"x": normal(5, 13), "w": normal(7, 13, std=13**-0.5), "b": normal(7)}
    differentiate("linear_bias", inputs, F.linear)


def batch_norm(case, shape, training):
    eps, bn_momentum = 1e-5, 0.1
    CASES[case] = {"op": "batch_norm", "training": training, "eps": eps, "bn_momentum": bn_momentum}
    channels = shape[-1]
    running_mean, running_var = normal(channels, std=0.3), uniform(channels, low=0.5, high=1.5)
    put(case, running_mean=running_mean, running_var=running_var)
    inputs = {
        "x": normal(*shape, mean=0.7, std=1.5),
        "gamma": uniform(channels, low=0.5, high=1.5),
        "beta": normal(channels, std=0.2),
    }

    def compute(x, gamma, beta):
        y = F.batch_norm(nchw(x), running_mean, running_var, gamma, beta, training, bn_momentum, eps)
        return nhwc(y)

    differentiate(case, inputs, compute)
    if training:
        x = inputs["x"]
        put(
            case,
            running_mean_after=running_mean,
            running_var_after=running_var,
            save_mean=x.mean((0, 1, 2)),
            save_rstd=(x.var((0, 1, 2), correction=0) + eps).rsqrt(),
        )


def elementwise():
    CASES["relu"] = {"op": "relu"}
    differentiate("relu", {"x": normal(2, 3, 7, 5)}, torch.relu)
    CASES["add"] = {"op": "add"}
    differentiate("add", {"a": normal(2, 5, 3, 7), "b": normal(2, 5, 3, 7)}, torch.add)
    CASES["concat_2"] = {"op": "concat", "inputs": 2}
    inputs = {"x0": normal(2, 3, 4, 5), "x1": normal(2, 3, 4, 7)}
    differentiate("concat_2", inputs, lambda x0, x1: torch.cat((x0, x1), 3))
    CASES["concat_3"] = {"op": "concat", "inputs": 3}
    inputs = {"x0": normal(2, 5, 3, 1), "x1": normal(2, 5, 3, 6), "x2": normal(2, 5, 3, 4)}
    differentiate("concat_3", inputs, lambda x0, x1, x2: torch.cat((x0, x1, x2), 3))


def pooling():
    for case, shape in {"max_pool_odd": (2, 9, 7, 5), "max_pool_even": (3, 8, 10, 4)}.items():
        CASES[case] = {"op": "max_pool", "kernel": 3, "stride": 2, "pad": 1}
        # All values differ, so no window has ties; most are negative, so padding with zero would show.
        count = shape[0] * shape[1] * shape[2] * shape[3]
        x = ((torch.randperm(count) - 0.9 * count) / count).float().double().reshape(shape)
        assert x.unique().numel() == count
        differentiate(case, {"x": x}, lambda x: nhwc(F.max_pool2d(nchw(x), 3, 2, 1)))
    CASES["global_avg_pool"] = {"op": "global_avg_pool"}
    differentiate("global_avg_pool", {"x": normal(2, 3, 5, 7)}, lambda x: x.mean((1, 2)))


def reductions():
    CASES["mean"] = {"op": "mean"}
    differentiate("mean", {"x": normal(3, 4, 2, 5)}, torch.mean)
    CASES["sum"] = {"op": "sum"}
    differentiate("sum", {"x": normal(3, 4, 2, 5)}, torch.sum)


def cross_entropy(case, shape, smoothing, ignored=(), mean=0.0, std=2.0):
    """Rows of `ignored` get label -1: they have no loss and do not count in the mean."""
    CASES[case] = {"op": "softmax_cross_entropy", "label_smoothing": smoothing, "ignore_label": -1}
    labels = torch.randint(shape[1], (shape[0],))
    labels[list(ignored)] = -1
    put(case, labels=labels)

    def compute(logits):
        return F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing)

    differentiate(case, {"logits": normal(*shape, mean=mean, std=std)}, compute)


def losses():
    cross_entropy("cross_entropy", (7, 11), 0.0)
    cross_entropy("cross_entropy_smooth", (7, 11), 0.1)
    cross_entropy("cross_entropy_ignore", (9, 5), 0.0, ignored=(0, 4, 8))
    cross_entropy("cross_entropy_smooth_ignore", (9, 5), 0.1, ignored=(1, 2))
    # exp(logit) overflows f32 unless the row's maximum is taken off first.
    cross_entropy("cross_entropy_large", (3, 13), 0.0, mean=150.0, std=20.0)


def optimiser(case, op, make, **attributes):
    """Three steps on one weight: `w0`, gradients `g1..g3`, weights `w1..w3`, and the state after the last."""
    CASES[case] = {"op": op, "steps": 3, **attributes}
    w = torch.nn.Parameter(normal(5, 7))
    put(case, w0=w)
    optim = make([w], **attributes)
    for step in range(1, 4):
        w.grad = normal(5, 7)
        put(case, **{f"g{step}": w.grad})
        optim.step()
        put(case, **{f"w{step}": w})
    names = {"momentum_buffer": "momentum", "exp_avg": "m", "exp_avg_sq": "v"}
    state = optim.state[w]
    put(case, **{ours: state[theirs] for theirs, ours in names.items() if state.get(theirs) is not None})


def optimisers():
    sgd, adam, adamw = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
    optimiser("sgd", "sgd", sgd, lr=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)
    optimiser("sgd_momentum", "sgd", sgd, lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.0)
    optimiser("sgd_momentum_decay", "sgd", sgd, lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.01)
    optimiser("sgd_nesterov_decay", "sgd", sgd, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
    optimiser("adam", "adam", adam, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    optimiser("adam_decay", "adam", adam, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)
    optimiser("adamw", "adamw", adamw, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)


def ema():
    decay = 0.9
    CASES["ema"] = {"op": "ema", "decay": decay, "steps": 3}
    average = normal(4, 9)
    put("ema", ema0=average)
    for step in range(1, 4):
        w = normal(4, 9)
        average = torch.lerp(w, average, decay)
        put("ema", **{f"w{step}": w, f"ema{step}": average})


def clip_grad_norm(case, max_norm):
    """PyTorch scales by min(1, max_norm / (total_norm + 1e-6))."""
    CASES[case] = {"op": "clip_grad_norm", "max_norm": max_norm, "tensors": 3}
    params = [torch.nn.Parameter(torch.zeros(*shape)) for shape in ((3, 5), (7,), (2, 3, 1, 4))]
    for i, param in enumerate(params):
        param.grad = normal(*param.shape)
        put(case, **{f"g{i}": param.grad})
    put(case, total_norm=torch.nn.utils.clip_grad_norm_(params, max_norm))
    put(case, **{f"clipped{i}": param.grad for i, param in enumerate(params)})


def add_bias():
    CASES["add_bias"] = {"op": "add_bias"}
    differentiate("add_bias", {"x": normal(2, 5, 3, 7), "b": normal(7)}, torch.add)


def flatten():
    """PyTorch flattens images channel by channel."""
    CASES["flatten"] = {"op": "flatten"}
    differentiate("flatten", {"x": normal(2, 5, 3, 7)}, lambda x: nchw(x).flatten(1))


def adaptive_avg_pool(case, shape, out):
    CASES[case] = {"op": "adaptive_avg_pool", "out_h": out[0], "out_w": out[1]}
    differentiate(case, {"x": normal(*shape)}, lambda x: nhwc(F.adaptive_avg_pool2d(nchw(x), out)))


def main():
    convolutions()
    linear()
    batch_norm("batch_norm_training", (3, 5, 7, 11), training=True)
    batch_norm("batch_norm_inference", (3, 4, 5, 6), training=False)
    elementwise()
    pooling()
    reductions()
    losses()
    optimisers()
    ema()
    clip_grad_norm("clip_grad_norm", 1.5)
    clip_grad_norm("clip_grad_norm_not_reached", 100.0)
    add_bias()
    flatten()
    adaptive_avg_pool("adaptive_avg_pool_to_fewer", (2, 9, 5, 3), (4, 2))
    adaptive_avg_pool("adaptive_avg_pool_to_more", (2, 2, 3, 5), (7, 4))

    here = Path(__file__)
    save_file(TENSORS, here.with_suffix(".safetensors"), metadata={"torch": torch.__version__})
    lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(attributes)}" for case, attributes in CASES.items())
    here.with_suffix(".json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
