"""BatchNorm's statistics, taken anew before samples and scores (the code's "deploy" steps)."""

import torch
from torch import nn

from common.rng import step_rng

from .data import sample_eps, sample_z


@torch.no_grad()
def recompute_statistics(G, E, D, batches) -> None:
    """BatchNorm's running statistics := their means over `batches` of (x, z, ε).

    z None: G gets E(x), as in an autoencoder. Leaves the networks in eval mode. Training uses batch
    statistics, so this changes nothing there.
    """
    nets = nn.ModuleList([G, E, D])
    norms = [m for m in nets.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch: a plain average over all batches since the reset
    nets.train()
    for x, z, eps in batches:
        code = E(x, eps)
        D(x, code)
        z = code if z is None else z
        D(G(z), z)
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum
    nets.eval()


def fixed_batches(data, args, n, device):
    """n batches (x, z, ε) for BatchNorm's statistics; z is None where G is only ever given E(x)."""
    rng = step_rng(args.seed, 0)
    for i in range(n):
        x, _ = data.batch(i, args.batch_size, args.seed, device)
        z = sample_z(args.batch_size, args, rng).to(device)
        eps = sample_eps(args.batch_size, args, rng, device)
        if args.method.startswith("ae-"):
            z = None
        yield x, z, eps
