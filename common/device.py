"""Where and how to compute: device, autocast, float64, fused Adam, BatchNorm's least batch."""

import contextlib
import copy
import os
import sys

import torch

from .errors import UserError


def choose_device(name="auto"):
    """torch.device for --device. Under torchrun each process takes the GPU of its local rank."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise UserError(f"--device {name}: must be auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch {torch.__version__} finds no CUDA GPU here. Use --device cpu"
        )
    if kind == "mps" and not mps:
        raise UserError("--device mps: torch finds no Apple GPU here. Use --device cpu")
    if kind == "cuda":
        if index and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
            raise UserError(f"--device {name}: each process takes its own GPU. Give --device cuda")
        number = int(index) if index else int(os.environ.get("LOCAL_RANK", 0))
        if number >= torch.cuda.device_count():
            raise UserError(
                f"--device cuda:{number}: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        torch.cuda.set_device(number)  # streams and graphs are made on the current device
        return torch.device("cuda", number)
    return torch.device(kind)


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def without_bf16(device):
    """Whether this is a GPU that computes no convolution in bf16, such as T4 and V100."""
    # of such a GPU torch says that it has bf16, "emulated"; cuDNN then finds no convolution
    return device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)


def bf16_if_fast(name="auto"):
    """--quick's --amp, of its --device: bf16 with a GPU that has it, or a CPU that has AMX or
    AVX512-BF16; other CPUs are some ten times slower.
    """
    device = choose_device(name)
    if without_bf16(device):
        print(f"{device_name(device)} has no bf16 convolutions: --amp stays off", file=sys.stderr)
        return "off"
    if device.type == "cuda":
        return "bf16"
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = any(hasattr(torch.cpu, check) and getattr(torch.cpu, check)() for check in checks)
    return "bf16" if device.type == "cpu" and fast else "off"


def check_bf16(name, instead):
    """Refuse --amp bf16 on a --device that can't compute it; `instead`: what to do."""
    device = choose_device(name)
    if without_bf16(device):
        raise UserError(
            f"--amp bf16: {device_name(device)} has no bf16 convolutions, GPUs of compute "
            f"capability 8.0 and later have. {instead}"
        )


def autocast(device, amp):
    """The autocast context for --amp {off, bf16}."""
    if amp == "bf16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return contextlib.nullcontext()


WITHOUT_FLOAT64 = ("mps",)  # Apple's GPUs: there .double() raises


def where_float64_is(x):
    """x where float64 can be computed: on its own device, or on the CPU."""
    return x.cpu() if x.device.type in WITHOUT_FLOAT64 else x


def float64(x):
    """x in float64, on its own device or, where that has none, on the CPU."""
    return where_float64_is(x).double()


def fused_adam(params, device, **kwargs):
    """torch.optim.Adam in one kernel where there is one (CPU and CUDA)."""
    return torch.optim.Adam(
        params, fused=True if device.type in ("cpu", "cuda") else None, **kwargs
    )


@torch.no_grad()
def check_batch_norm(flag, value, world, *networks):
    """Refuse a batch of one sample per process if BatchNorm has one value per channel then.

    networks: (net, shapes of one sample's inputs). Where maps are larger than 1x1 one image is
    enough, so each net is tried, as a copy: neither its statistics nor random numbers change.
    """
    if value != world:
        return
    for net, *shapes in networks:
        device = next(net.parameters()).device
        try:
            copy.deepcopy(net).train()(*(torch.zeros(1, *shape, device=device) for shape in shapes))
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):
                raise
            where = f" over {world} processes" if world > 1 else ""
            raise UserError(
                f"{flag} {value}{where}: BatchNorm needs two samples per process. Give {flag} "
                f"{2 * world} or more"
            ) from None
