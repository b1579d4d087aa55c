"""ALI's toys, mixtures of Gaussians in the plane: the networks, the modes they cover, pictures.

The networks follow the authors' ali_mixture.py (github.com/IshmaelBelghazi/ALI at a7d4235).
"""

import torch
from torch import Tensor, nn

from common.metrics import count_tag
from common.metrics.toy import mode_metrics, toy_metrics
from common.plots import densities
from common.rng import step_rng

from .data import sample_eps
from .model import init_layer, to_support


# --- networks


def toy_layers(n_in: int, width: int, depth: int) -> nn.Sequential:
    """depth times (linear, BN, ReLU)."""
    layers = []
    for n in [n_in] + [width] * (depth - 1):
        layers += [nn.Linear(n, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class ToyGenerator(nn.Module):
    """G: z -> x (B, 2), linear after four layers."""

    def __init__(self, z_dim: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(toy_layers(z_dim, width, 4), nn.Linear(width, 2))
        self.apply(init_layer)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class ToyEncoder(nn.Module):
    """E: a = f(x), or f(x, ε) if stochastic, linear after two layers; without eps, ε = 0."""

    def __init__(self, z_dim: int, width: int, prior="normal", stochastic=False):
        super().__init__()
        self.prior = prior
        self.n_noise = z_dim if stochastic else 0
        self.features = toy_layers(2 + self.n_noise, width, 2)
        self.head = nn.Linear(width, z_dim)
        self.apply(init_layer)

    def logits(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        if self.n_noise:
            eps = x.new_zeros(len(x), self.n_noise) if eps is None else eps
            x = torch.cat([x, eps], 1)
        return self.head(self.features(x)).float()

    def forward(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        return to_support(self.logits(x, eps), self.prior)


class MaxoutFeatures(nn.Module):
    """D's features of (x, z): three maxout layers of width/2 units (200), 5 pieces each."""

    def __init__(self, n_in: int, width: int, pieces: int = 5):
        super().__init__()
        self.dim, self.pieces = width // 2, pieces
        widths = (n_in, self.dim, self.dim)
        self.layers = nn.ModuleList(nn.Linear(n, pieces * self.dim) for n in widths)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = x if z is None else torch.cat([x, z], 1)
        for layer in self.layers:
            h = layer(h).unflatten(1, (self.pieces, self.dim)).amax(1)
        return h


# --- measurements and pictures


def toy_codes(E, x, args):
    """E(x) of points x (n, 2), of a stochastic encoder one draw each: (n, N_z)."""
    return E(x, sample_eps(len(x), args, step_rng(args.seed, 1), x.device))


def toy_limit(data):
    """Half the side of the square that a mixture is drawn in."""
    return 1.4 * data.centres.abs().max().item()


@torch.no_grad()
def toy_progress(G, E, data, z, args, path):
    """Modes that G(z) and G(E(x)) cover, of len(z) points each; their densities to `path`."""
    x, _ = data.sample(len(z), step_rng(args.seed, 0))
    samples = G(z).cpu()
    reconstructions = G(toy_codes(E, x.to(z.device), args)).cpu()
    panels = {data.name: x, "samples": samples, "reconstructions": reconstructions}
    densities(panels, path, limit=toy_limit(data))
    of_z, of_x = mode_metrics(samples, data), mode_metrics(reconstructions, data)
    n = count_tag(len(z))
    return {
        f"modes_{n}": of_z["modes"],
        f"modes_recon_{n}": of_x["modes"],
        f"modes_hit_{n}": of_z["modes_hit"],
        f"modes_hit_recon_{n}": of_x["modes_hit"],
    }


@torch.no_grad()
def measure_toy(G, E, samples, data, trained, seed, device):
    """MMD² and modes of samples (N, 2), and the modes of as many reconstructions.

    seed: fixes the points x that are reconstructed.
    """
    n = len(samples)
    x, _ = data.sample(n, step_rng(seed, 0))
    reconstructions = G(toy_codes(E, x.to(device), trained)).cpu()
    scores = toy_metrics(samples[:2000], data)  # MMD² of all of them would take minutes
    metrics = {key: value for key, value in scores.items() if key.startswith("mmd2")}
    for kind, points in (("", samples), ("_recon", reconstructions)):
        for key, value in mode_metrics(points, data).items():
            metrics[f"{key}{kind}_{count_tag(n)}"] = value
    return metrics


@torch.no_grad()
def draw_toy(G, E, samples, data, trained, seed, device, where):
    """samples.png (x, G(z), G(E(x)), as many points as samples) and codes.png (E(x)) in `where`."""
    x, _ = data.sample(len(samples), step_rng(seed, 0))
    code = toy_codes(E, x.to(device), trained)
    panels = {data.name: x, "G(z)": samples, "G(E(x))": G(code).cpu()}
    densities(panels, where / "samples.png", limit=toy_limit(data))
    densities({"E(x)": code[:, :2].cpu()}, where / "codes.png", limit=3)
