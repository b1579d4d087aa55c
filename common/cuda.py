"""CUDA helpers: a step recorded as a graph, and the most memory used so far."""

import sys

import torch
import torch.distributed as dist


class GraphedStep:
    """`step(*arguments)`, on CUDA recorded as a graph: small networks' kernels take longer to
    launch than to run.

    There is one graph for each combination of tensor shapes and other arguments. Its first call
    just runs (on a side stream, as a warm-up), its second records, and from then on the graph is
    replayed. On other devices, and under torchrun, every call just runs. What `step` must keep to:
    it changes only tensors that stay where they are (parameters, optimisers with capturable=True
    and a tensor as learning rate), draws no random numbers, and nowhere waits for the GPU. Returns
    what `step` returns, a tuple of tensors.
    """

    def __init__(self, step, device):
        self.step, self.recorded = step, {}
        self.graphed = device.type == "cuda" and not dist.is_initialized()
        # one memory for all graphs
        self.pool = torch.cuda.graph_pool_handle() if self.graphed else None

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
    """The most MiB so far: of the GPU's tensors, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
