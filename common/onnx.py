"""A generator as an ONNX graph: one file that programs and languages without torch can run.

In Python, with the packages numpy and onnxruntime (z as the graph's metadata say):

    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("generator.onnx")
    print(session.get_modelmeta().custom_metadata_map)  # e.g. {'z': 'uniform on [-1, 1]'}
    z_dim = session.get_inputs()[0].shape[1]
    z = np.random.uniform(-1, 1, (16, z_dim)).astype(np.float32)
    (images,) = session.run(None, {"z": z})  # (16, C, H, W) in [-1, 1]
"""

import logging
import warnings
from pathlib import Path

import torch
from torch.export import Dim
from torch.nn.utils import parametrize

from .errors import UserError
from .evaluate import refuse_existing, say_written
from .runs import replace_file

INSTALL = "pip install onnxscript"
BATCH = {0: Dim("batch")}


def write_onnx(out, module, inputs, output, free=BATCH, about=None):
    """Write module(*inputs), which is in eval mode, as a graph of float32 with its weights.

    module: afterwards it is on the CPU and can't be trained on (see `plain`), but gives the same.
    inputs: {name: an example}, of 2 or more along the free axes. output: its name. free: {axis:
    Dim} of those along which inputs and output can have any length; a tuple of such: one for each
    input. about: {name: text}, the file's metadata.
    """
    out = Path(out)
    refuse_existing("--onnx", out)
    try:
        import onnxscript  # noqa: F401  torch.onnx writes with it
    except ImportError as e:
        raise UserError(f"--onnx needs onnxscript ({e}): {INSTALL}") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # what it didn't simplify
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.onnx.export(
            plain(module),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=free if isinstance(free, tuple) else (free,) * len(inputs),
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    graph = proto.graph
    # stack traces, with this machine's paths: half the file
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
    for name, text in (about or {}).items():
        proto.metadata_props.add(key=name, value=text)
    replace_file(out, proto.SerializeToString())
    shapes = [f"{value.name} {shape(value)}" for value in (*graph.input, *graph.output)]
    size = f"{out.stat().st_size / 1e6:.2f} MB"
    say_written(f"{out}, {size}: {', '.join(shapes[:-1])} -> {shapes[-1]}")


def plain(module):
    """The module itself on the CPU, its weights parametrised no more, as W / σ(W) was.

    No copy: it would share torch's classes of parametrised layers, which removing takes apart.
    """
    for part in list(module.modules()):
        for name in list(getattr(part, "parametrizations", ())):
            parametrize.remove_parametrizations(part, name)
    return module.cpu()


def shape(value):
    """The shape of a graph's input or output in words: (batch, 1, 28, 28)."""
    axes = value.type.tensor_type.shape.dim
    return f"({', '.join(axis.dim_param or str(axis.dim_value) for axis in axes)})"
