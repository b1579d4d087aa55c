"""A device like an Apple GPU, on a machine that has none: it computes, but any float64 on it raises a TypeError.

It is called "meta", since torch dispatches that without a driver; its tensors hold their values on the CPU. As any GPU
it takes no tensors of the CPU but single numbers, indices and what is copied, and no generator of the CPU.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from common import device

APPLE = torch.device("meta")
COPIES = ("copy_", "_to_copy")
INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class AppleTensor(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        if inner.dtype == torch.float64:
            raise TypeError("an Apple GPU has no float64")
        layout = dict(strides=inner.stride(), storage_offset=inner.storage_offset())
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=APPLE, **layout
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.__name__.split(".")[0]
        refuse_tensors_of_the_cpu(name, args, kwargs)
        leaves = kwargs.get("device") not in (None, APPLE)  # a copy to the CPU
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        out = function(*tree_map(inner_of, args), **tree_map(inner_of, kwargs))
        if name.endswith("_"):  # in place
            return None if name.startswith("_foreach") else args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return out if leaves else tree_map(on_apple, out)


def refuse_tensors_of_the_cpu(name, args, kwargs):
    """What CUDA and MPS raise where a tensor of the device meets one of the CPU."""
    of_cpu = [x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x) and x.device != APPLE]
    indices = name in INDEXES and args[0].device == APPLE
    if any(x.dim() for x in of_cpu) and name not in COPIES and not indices:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, found the CPU's"
        )


def inner_of(x):
    if torch.is_tensor(x) and x.device == APPLE and not isinstance(x, AppleTensor):
        return torch.zeros(
            x.shape, dtype=x.dtype, device="cpu"
        )  # the 0 of a backward pass's where(…, 0)
    return x.inner if isinstance(x, AppleTensor) else x


def on_apple(x):
    return AppleTensor(x) if type(x) in (torch.Tensor, torch.nn.Parameter) else x


class Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = device  # not torch.device(device): OnApple would take it for a move to the CPU
        return made


class OnApple(TorchFunctionMode):
    """Tensors that are made on the device, or moved to it, are AppleTensors."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist:
            return inner_of(args[0]).tolist()
        if function is torch._C._nn._parse_to:  # of Module.to, which moves its tensors one by one
            return function(*args, **kwargs)
        there = APPLE in (*(a for a in args if isinstance(a, torch.device)), kwargs.get("device"))
        place = getattr(kwargs.get("generator"), "place", None)
        in_place = args and isinstance(args[0], AppleTensor)
        if place is not None and (place == APPLE) != bool(there or in_place):
            raise RuntimeError(f"{function.__name__}: a generator of {place} elsewhere")
        if not there:
            return function(*args, **kwargs)
        args = [torch.device("cpu") if isinstance(a, torch.device) else a for a in args]
        kwargs |= {"device": torch.device("cpu")} if "device" in kwargs else {}
        if function is torch.Tensor.to and isinstance(args[0], AppleTensor):
            return args[0]
        return on_apple(function(*args, **kwargs))


@contextlib.contextmanager
def apple_device(patch):
    """Within it APPLE is a device without float64. patch: pytest's monkeypatch, whose changes last longer."""
    patch.setattr(device, "WITHOUT_FLOAT64", (APPLE.type,))
    patch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    patch.setattr(torch, "Generator", Generator)
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with OnApple():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
