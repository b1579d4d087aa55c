"""torchvision beside a CPU torch."""

import sys

import torch


_kept = []  # a Library lives as long as its Python object


def import_torchvision():
    """torchvision, also beside a CPU torch.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled operators can't be loaded,
    and its import stops at "operator torchvision::nms does not exist". We call none of them, so it
    is enough to declare them.
    """
    try:
        import torchvision
    except RuntimeError as e:
        if "torchvision::" not in str(e):
            raise
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision
    return torchvision
