"""Where and how to compute: device, seeds, autocast, weight averages, several processes under torchrun."""

import contextlib
import copy
import os
import random
import sys

import numpy as np
import torch
import torch.distributed as dist

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


def bf16_if_fast():
    """--quick's --amp: bf16 with a GPU or a CPU that has AMX or AVX512-BF16; other CPUs are some ten times slower."""
    has = (
        getattr(torch.cpu, name, bool)()
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return "bf16" if torch.cuda.is_available() or any(has) else "off"


def autocast(device, amp):
    """The autocast context for --amp {off, bf16}."""
    return (
        torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()
    )


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


class GraphedStep:
    """`step(*arguments)`, on CUDA recorded as a graph: small networks' kernels take longer to launch than to run.

    There is one graph for each combination of tensor shapes and other arguments. Its first call just runs (on a side
    stream, as a warm-up), its second records, and from then on the graph is replayed. On other devices, and under
    torchrun, every call just runs. What `step` must keep to: it changes only tensors that stay where they are
    (parameters, optimisers with capturable=True and a tensor as learning rate), draws no random numbers, and
    nowhere waits for the GPU. Returns what `step` returns, a tuple of tensors.
    """

    def __init__(self, step, device):
        self.step, self.recorded = step, {}
        self.graphed = device.type == "cuda" and not dist.is_initialized()
        self.pool = (
            torch.cuda.graph_pool_handle() if self.graphed else None
        )  # one memory for all graphs

    def __call__(self, *arguments):
        if not self.graphed:
            return self.step(*arguments)
        key = tuple(tuple(a.shape) if torch.is_tensor(a) else a for a in arguments)
        if key not in self.recorded:
            self.recorded[key] = None
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                results = self.step(*arguments)
            torch.cuda.current_stream().wait_stream(side)
            return results
        if self.recorded[key] is None:
            static = [a.clone() if torch.is_tensor(a) else a for a in arguments]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                results = self.step(*static)
            self.recorded[key] = graph, static, results
        graph, static, results = self.recorded[key]
        for mine, given in zip(static, arguments):
            if torch.is_tensor(given):
                mine.copy_(given)
        graph.replay()
        return tuple(r.clone() for r in results)


def peak_memory(device):
    """MiB at most so far: of the GPU's memory by tensors; on a CPU, of the process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


# --- randomness ---------------------------------------------------------------------------------------------


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_rng(seed, step):
    """A CPU generator that depends on (seed, step) alone, so that a step's noise is the same after a resume,
    on any device, and in any number of processes."""
    entropy = np.random.SeedSequence(seed % 2**64, spawn_key=(step,)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(entropy[0]) << 32 | int(entropy[1]))


def rng_state():
    """Every global generator's state, as tensors and plain Python (loadable with weights_only=True)."""
    kind, keys, pos, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (
            kind,
            torch.from_numpy(keys.astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(gauss),
        ),
    }


def set_rng_state(state):
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, pos, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), pos, has_gauss, gauss))


# --- weight averages ----------------------------------------------------------------------------------------


class EMA:
    """Exponential moving average of a network: parameters are averaged, buffers copied.

    Averaging parameters but keeping stale BatchNorm buffers gives bad samples, hence the copy.
    """

    def __init__(self, net, decay=0.999):
        self.net, self.decay = copy.deepcopy(net).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, net):
        for average, new in zip(self.net.parameters(), net.parameters()):
            average.lerp_(new, 1 - self.decay)
        for average, new in zip(self.net.buffers(), net.buffers()):
            average.copy_(new)

    def state_dict(self):
        return self.net.state_dict()

    def load_state_dict(self, state):
        self.net.load_state_dict(state)


# --- several processes (torchrun) ---------------------------------------------------------------------------


def init_processes(device):
    """Join torchrun's process group, if there is one. Returns (rank, world size)."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def shard(batch):
    """This process's share of a global batch (B, …): all of it without torchrun."""
    if not dist.is_initialized():
        return batch
    world = dist.get_world_size()
    if len(batch) % world:
        raise UserError(f"--batch-size {len(batch)} can't be split evenly over {world} processes")
    return batch.chunk(world)[dist.get_rank()]


@torch.no_grad()
def check_batch_norm(flag, value, world, *networks):
    """Refuse a batch that leaves a process one sample, where BatchNorm has then one value a channel in train mode.

    networks: (net, shapes of one sample's inputs). Where maps are larger than 1x1 one image is enough, so each net is
    tried, as a copy: neither its statistics nor random numbers change.
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
                f"{flag} {value}{where}: BatchNorm needs two samples per process. Give {flag} {2 * world} "
                "or more"
            ) from None


@torch.no_grad()
def average_gradients(net):
    """Average .grad over processes with one flat all-reduce; does nothing without torchrun. Call before step()."""
    if dist.is_initialized():
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, averaged in zip(
            grads, flat.div_(dist.get_world_size()).split([g.numel() for g in grads])
        ):
            grad.copy_(averaged.view_as(grad))


def average(value):
    """The mean of a scalar tensor over processes, detached."""
    value = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


# --- torchvision --------------------------------------------------------------------------------------------

_kept = []  # a Library lives as long as its Python object


def import_torchvision():
    """torchvision, also beside a CPU torch.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled operators can't be loaded, and its import
    stops at "operator torchvision::nms does not exist". We call none of them, so it is enough to declare them.
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
