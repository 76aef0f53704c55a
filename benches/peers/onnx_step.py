"""Speed of inference in onnxruntime on torchvision's networks, exported by PyTorch: the rows of benches/step.rs.

    python benches/peers/onnx_step.py [--rows TEXT] [--seconds S] [--threads N]

Prints what step.py prints; f32 alone.
"""

import io
import json
import sys

from step import CLASSES, flags, measure, rows_of


def session_of(row: tuple, threads: int):
    """The network of `row` with all of onnxruntime's optimisations, and a batch for it."""
    import onnxruntime
    import torch
    import torchvision

    name, size, batch, _ = row
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=CLASSES).eval()
    x = torch.randn(batch, 3, size, size)
    exported = io.BytesIO()
    torch.onnx.export(model, (x,), exported, dynamo=False, input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(exported.getvalue(), options, providers=["CPUExecutionProvider"])
    return session, {"x": x.numpy()}, onnxruntime.__version__


def main():
    args = flags(__doc__).parse_args()
    if args.precision != "f32":
        sys.exit("onnxruntime is measured in f32 alone")
    for row in rows_of(args, ["infer"]):
        session, batch, version = session_of(row, args.threads)
        result = measure(lambda: session.run(None, batch), row, args.seconds)
        made_by = {"peer": "onnxruntime", "version": version, "setup": "", "precision": args.precision}
        print(json.dumps(made_by | result), flush=True)


if __name__ == "__main__":
    main()
