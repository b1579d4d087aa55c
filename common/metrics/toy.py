"""Two-dimensional toy data, and how well samples match them: MMD²; of Gaussian mixtures also the modes covered.

    data = mixture("8gaussians")
    x, y = data.batch(step, batch_size=64, seed=0)         # (64, 2), (64,): a pure function of (seed, step)
    toy_metrics(samples, data)                             # {"mmd2_unbiased_s1_2k": …, "modes_2k": …, …}

MMD with a wide kernel does not see dropped modes (on the ring, with bandwidth 2, every second mode may be
missing), so `toy_metrics` gives the coverage beside it, and every key says bandwidth and sample count.
All metrics are computed in float64.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..device import float64
from ..errors import UserError
from . import count_tag

MIXTURES = ("8gaussians", "25gaussians")
TOYS = MIXTURES + ("swissroll",)
BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)


# --- data


class Mixture:
    """Equal-weight Gaussians in the plane. centres (K, 2); sd: of each, in both directions."""

    def __init__(self, name: str, centres: Tensor, sd: float):
        self.name, self.centres, self.sd = name, centres, sd

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points float32 (n, 2) and the modes int64 (n,) that they were drawn from."""
        labels = torch.randint(len(self.centres), (n,), generator=rng)
        noise = torch.randn(n, 2, generator=rng)
        return self.centres[labels].float() + self.sd * noise, labels

    def batch(self, step: int, batch_size: int, seed: int, device="cpu") -> tuple[Tensor, Tensor]:
        """Batch number `step`: as `sample`, on `device`; the same for the same arguments."""
        # spawn_key: other noise than that of common.device.step_rng, which a training step draws z from
        entropy = np.random.SeedSequence([seed % 2**64, step], spawn_key=(2,)).generate_state(
            1, np.uint64
        )
        rng = torch.Generator().manual_seed(int(entropy[0]))
        points, labels = self.sample(batch_size, rng)
        return points.to(device), labels.to(device)


def mixture(name: str, standardised: bool = True) -> Mixture:
    """The two toy sets of the WGAN-GP paper's code (Gulrajani et al. 2017), which others took over.

    "8gaussians": a ring of radius 2, sd 0.02, all divided by 1.414. "25gaussians": a 5 x 5 grid of spacing 2,
    sd 0.05, all divided by 2.828. Both then have a standard deviation of about 1 in x and in y; without the division
    (standardised=False) the grid is that of ALI.
    """
    if name == "8gaussians":
        unit = 1.414 if standardised else 1
        angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return Mixture(name, torch.stack([angles.cos(), angles.sin()], 1) * (2 / unit), 0.02 / unit)
    if name == "25gaussians":
        unit = 2.828 if standardised else 1
        side = torch.arange(-2, 3, dtype=torch.float64) * 2
        return Mixture(name, torch.cartesian_prod(side, side) / unit, 0.05 / unit)
    raise UserError(f"unknown mixture {name!r}: choose one of {', '.join(MIXTURES)}")


class SwissRoll:
    """WGAN-GP's third toy set: t (cos t, sin t), t uniform in [1.5π, 4.5π], plus noise of sd 0.25, all over 7.5."""

    name = "swissroll"
    batch = Mixture.batch

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points float32 (n, 2) and their angles t, float32 (n,)."""
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=rng))
        noise = 0.25 * torch.randn(n, 2, generator=rng)
        return (t[:, None] * torch.stack([t.cos(), t.sin()], 1) + noise) / 7.5, t


def toy_data(name: str) -> Mixture | SwissRoll:
    """The data of one of TOYS."""
    return SwissRoll() if name == "swissroll" else mixture(name)


# --- metrics


def mmd2(x: Tensor, y: Tensor, bandwidth: float, unbiased: bool) -> float:
    """MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y), k(a, b) = exp(−|a − b|² / 2s²); Gretton et al. 2012, eq. 3 and 5.

    x (N, D), y (M, D); bandwidth: s. Biased: the means run over all pairs, in [0, 2]. Unbiased: a point is not
    paired with itself; may be negative. This is the square: the distance itself is its root.
    """
    return mmd2s(x, y, [bandwidth])[bandwidth]["unbiased" if unbiased else "biased"]


def mmd2s(x: Tensor, y: Tensor, bandwidths) -> dict:
    """{bandwidth: {"biased": MMD², "unbiased": MMD²}}, as `mmd2`; pairs of points are measured once for all."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD² needs two samples or more of each kind, got {len(x)} and {len(y)}")
    x, y = float64(x), float64(y)
    n, m, found = len(x), len(y), {}
    sums = [_kernel_sums(a, b, bandwidths) for a, b in ((x, x), (y, y), (x, y))]
    for s, k_xx, k_yy, k_xy in zip(bandwidths, *sums):
        found[s] = {
            "biased": max(k_xx / n**2 + k_yy / m**2 - 2 * k_xy / (n * m), 0.0),
            # k(a, a) = 1: the diagonals sum to n and m
            "unbiased": (k_xx - n) / (n * (n - 1))
            + (k_yy - m) / (m * (m - 1))
            - 2 * k_xy / (n * m),
        }
    return found


def _kernel_sums(a: Tensor, b: Tensor, bandwidths, block: int = 512) -> list[float]:
    """Σ k(a_i, b_j) for each bandwidth, in blocks of rows, so that never all pairs are in memory."""
    sums = [0.0] * len(bandwidths)
    for rows in a.split(block):
        squares = torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
        for i, s in enumerate(bandwidths):
            sums[i] += (squares / (-2 * s**2)).exp_().sum().item()
    return sums


def mode_metrics(samples: Tensor, data: Mixture, min_share: float = 0.1) -> dict:
    """How samples (N, 2) sit on the modes.

    high_quality: share of samples within 3 sd of a mode, in [0, 1] (of the data itself: 0.989).
    modes: modes that hold at least `min_share` of their fair share N/K in high-quality samples, 0 … K.
    modes_hit: modes that are the nearest to any sample at all, however far, 0 … K (Dumoulin et al. 2017, N = 10,000).
    mode_kl: KL(shares ‖ uniform) of the modes nearest to the samples, in nats, 0 … log K.
    """
    samples = float64(samples)
    distance, nearest = torch.cdist(samples, data.centres.to(samples.device)).min(1)
    K, good = len(data.centres), distance <= 3 * data.sd
    shares = torch.bincount(nearest, minlength=K).double() / len(samples)
    counts = torch.bincount(nearest[good], minlength=K)
    return {
        "modes": int((counts * K >= min_share * len(samples)).logical_and(counts > 0).sum()),
        "modes_hit": int((shares > 0).sum()),
        "high_quality": good.double().mean().item(),
        "mode_kl": max(math.log(K) - torch.special.entr(shares).sum().item(), 0.0),
    }


def toy_metrics(
    samples: Tensor, data: Mixture | SwissRoll, bandwidths=BANDWIDTHS, seed: int = 0
) -> dict:
    """MMD² at each bandwidth, both estimators, against as many fresh points; of a Mixture `mode_metrics`, too.

    Keys: mmd2_{biased,unbiased}_s<bandwidth>_<N>, modes_<N>, modes_hit_<N>, high_quality_<N>, mode_kl_<N>.
    """
    samples, n = samples.detach().cpu(), count_tag(len(samples))
    real, _ = data.sample(len(samples), torch.Generator().manual_seed(seed))
    found = {
        f"mmd2_{kind}_s{s:g}_{n}": value
        for s, both in mmd2s(samples, real, bandwidths).items()
        for kind, value in both.items()
    }
    modes = mode_metrics(samples, data) if isinstance(data, Mixture) else {}
    return found | {f"{key}_{n}": value for key, value in modes.items()}
