"""What the networks see of a jet, standardised features, and jets from what the generator makes."""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.masking import lengths_to_mask

from .jets import FEATURES

# Particles, padding counted, that go through G at once: what a CPU's caches hold (8,000 are best on
# an AMD Zen 4, 24,000 on an Intel Xeon); 2 GB of a GPU's
SLOTS = {"cpu": 16_000, "gpu": 3_000_000}


def transform(pt, stats):
    """pt_rel > 0 -> what the networks see of it before its z-score (--pt), of the same shape.

    softplus: x of pt = s·ln(1 + eˣ), s the median; log: ln pt; linear: pt. Of pt = 0, padding, the
    first two make −∞.
    """
    if stats["pt"] == "softplus":
        y = pt / stats["pt_scale"]
        return y + torch.log(-torch.expm1(-y))  # ln(eʸ − 1)
    return pt.log() if stats["pt"] == "log" else pt


def inverse_transform(x, stats):
    """transform's inverse: pt_rel of x."""
    if stats["pt"] == "softplus":
        return stats["pt_scale"] * F.softplus(x)
    return x.exp() if stats["pt"] == "log" else x


def statistics(jets, pt="linear"):
    """What generating needs to know of the training jets, as a dict.

    pt: the kind of `transform`; pt_scale, pt_min, pt_max: median and range of pt_rel; mean, std:
    each feature's over particles, of transformed pt_rel (the authors' z-scores); counts: how many
    jets have n = 0 … N particles. UserError if all particles are the same.
    """
    real = jets.particles[jets.mask].double()
    stats = {
        "pt": pt,
        "pt_scale": float(real[:, 2].median()),
        "pt_min": float(real[:, 2].min()),
        "pt_max": float(real[:, 2].max()),
    }
    real[:, 2] = transform(real[:, 2], stats)
    constant = real.amax(0) == real.amin(0)
    if constant.all():
        raise UserError(
            "all particles of the training jets are the same: there is nothing to learn"
        )
    for k in constant.nonzero()[:, 0]:
        print(
            f"{FEATURES[k]} has one value in all training jets: it can't be learnt", file=sys.stderr
        )
    std = real.std(0).masked_fill_(constant, 1)  # pt_rel is 1 in jets of one particle
    return stats | {
        "mean": real.mean(0).float(),
        "std": std.float(),
        "counts": torch.bincount(jets.n, minlength=jets.mask.shape[1] + 1),
    }


def identity(jets):
    """What a run is known by to be trained on (see `Run`): plain values, alike on any machine."""
    real = jets.particles[jets.mask]
    ranges = [f"{low:.4g} to {high:.4g}" for low, high in zip(real.amin(0), real.amax(0))]
    return {"jets": len(jets), "particles": len(real), "ranges of the features": ranges}


def learnt_from(stats, jets):
    """Whether `statistics` are of these training Jets, as far as n and the range of pT tell."""
    pt = jets.particles[..., 2][jets.mask]
    counts = torch.bincount(jets.n, minlength=jets.mask.shape[1] + 1)
    same_range = (stats["pt_min"], stats["pt_max"]) == (float(pt.min()), float(pt.max()))
    return same_range and torch.equal(stats["counts"], counts)


def standardise(jets, stats):
    """What the networks see of Jets: their features as z-scores (J, N, 3), padding 0."""
    x = jets.particles.clone()
    x[..., 2] = transform(x[..., 2], stats)
    return ((x - stats["mean"]) / stats["std"]).masked_fill_(~jets.mask[..., None], 0)


def to_jets(x, mask, stats):
    """standardise's inverse, pt_rel kept in the training jets' range. x (J, N, 3), mask (J, N)."""
    x = x * stats["std"].to(x.device) + stats["mean"].to(x.device)
    x[..., 2] = inverse_transform(x[..., 2], stats).clamp(stats["pt_min"], stats["pt_max"])
    return x.masked_fill_(~mask[..., None], 0)


def noise_rows(G, N):
    """How many rows the noise of N particles has: EPiC-GAN's begins with that of the jet."""
    extra = getattr(G, "global_rows", 0)
    return N + extra if extra else N  # not N + 0: if N is a torch.export Dim, that is another Dim


@torch.no_grad()
def sample_jets(G, n, num_particles, chunk_size=None, generator=None):
    """Jets of n[i] particles each: (J, num_particles, 3), standardised, and their mask.

    Jets are generated in chunks of like n, each padded to its largest n only, and put back in their
    order. The noise is drawn for all jets first, so that a seeded `generator` (on G's device) gives
    the same jets, to rounding, whatever the chunk size. Masked slots are 0.
    n: (J,) int64 in [1, num_particles]. chunk_size: jets per chunk; None: as many as have SLOTS.
    """
    if len(n) and not 1 <= int(n.min()) <= int(n.max()) <= num_particles:
        raise ValueError(
            f"jets of {int(n.min())} to {int(n.max())} particles; possible are 1 to {num_particles}"
        )
    device = next(G.parameters()).device
    rows = noise_rows(G, num_particles)
    z = torch.randn(len(n), rows, len(FEATURES), device=device, generator=generator)
    jets = z[:, -num_particles:]  # each particle takes the place of its noise
    mask = lengths_to_mask(n.to(device), num_particles)
    padding_counts = getattr(G, "paper_code", False)
    lengths, order = n.sort(descending=True)
    lengths = lengths.tolist()
    order = order.to(device)
    start = 0
    while start < len(n):
        N = num_particles if padding_counts else lengths[start]
        size = chunk_size or max(1, SLOTS["cpu" if device.type == "cpu" else "gpu"] // N)
        chunk = order[start : start + size]
        jets[chunk, :N] = G(z[chunk, : noise_rows(G, N)], mask[chunk, :N])
        start += size
    return jets.masked_fill_(~mask[..., None], 0), mask


def generate(G, J, stats, num_particles, rng, chunk_size=None):
    """J jets (J, N, 3), with n as the training jets have it. rng: a CPU generator."""
    n = torch.multinomial(stats["counts"].double(), J, replacement=True, generator=rng)
    seed = int(torch.randint(2**62, (), generator=rng))
    on_device = torch.Generator(next(G.parameters()).device).manual_seed(seed)
    x, mask = sample_jets(G, n, num_particles, chunk_size=chunk_size, generator=on_device)
    return to_jets(x, mask, stats)


class JetGenerator(nn.Module):
    """noise (B, N, 3) ~ N(0, 1), mask (B, N) -> jets (B, N, 3), as `generate` makes them.

    EPiC-GAN's noise has 4 rows more, (B, 4 + N, 3). As ONNX, of MDMA:

    import json
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("jets.onnx")
    counts = np.array(json.loads(session.get_modelmeta().custom_metadata_map["counts"]))
    n = np.random.choice(len(counts), 1000, p=counts / counts.sum())  # particles of each jet
    mask = np.arange(len(counts) - 1) < n[:, None]
    noise = np.random.randn(*mask.shape, 3).astype(np.float32)
    (jets,) = session.run(None, {"noise": noise, "mask": mask})  # (1000, N, 3), 0 in the padding
    """

    def __init__(self, G, stats):
        super().__init__()
        self.G, self.stats = G, stats

    def forward(self, noise: Tensor, mask: Tensor) -> Tensor:
        return to_jets(self.G(noise, mask), mask, self.stats)
