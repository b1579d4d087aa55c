"""ALI's toys, mixtures of Gaussians in the plane: which modes G(z) and G(E(x)) cover, and their pictures."""

import torch

from common.metrics import count_tag
from common.metrics.toy import mode_metrics, toy_metrics
from common.plots import densities
from common.rng import step_rng

from .data import sample_eps


def toy_codes(E, x, args):
    """E(x) of points x (n, 2), of a stochastic encoder one draw each: (n, N_z)."""
    eps = sample_eps(len(x), args, step_rng(args.seed, 1))
    return E(x, None if eps is None else eps.to(x.device))


def toy_limit(data):
    """Half the side of the square that a mixture is drawn in."""
    return 1.4 * data.centres.abs().max().item()


@torch.no_grad()
def toy_progress(G, E, data, z, args, path):
    """Modes that samples and reconstructions cover, of len(z) points each; their densities to `path`."""
    x, _ = data.sample(len(z), step_rng(args.seed, 0))
    samples = G(z).cpu()
    reconstructions = G(toy_codes(E, x.to(z.device), args)).cpu()
    panels = {data.name: x, "samples": samples, "reconstructions": reconstructions}
    densities(panels, path, limit=toy_limit(data))
    of_z, of_x = mode_metrics(samples, data), mode_metrics(reconstructions, data)
    return {
        "modes_2k": of_z["modes"],
        "modes_recon_2k": of_x["modes"],
        "modes_hit_2k": of_z["modes_hit"],
        "modes_hit_recon_2k": of_x["modes_hit"],
    }


@torch.no_grad()
def measure_toy(G, E, samples, data, trained, seed, device):
    """MMD² and modes of samples (N, 2), and the modes of as many reconstructions, by `seed`."""
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
