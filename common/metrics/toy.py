"""How well samples match toy data in the plane (common/toys.py): MMD², and modes covered.

    toy_metrics(samples, data)        # {"mmd2_unbiased_s1_2k": …, "modes_2k": …, …}

MMD with a wide kernel does not see dropped modes (on the ring, with bandwidth 2, every second mode
may be missing), so `toy_metrics` gives the coverage beside it, and every key says bandwidth and
sample count. All metrics are computed in float64.
"""

import math

import torch
from torch import Tensor

from ..device import float64
from ..toys import Mixture, SwissRoll
from . import count_tag

BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)


def mmd2(x: Tensor, y: Tensor, bandwidth: float, unbiased: bool) -> float:
    """MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y), k(a, b) = exp(−|a − b|² / 2s²); Gretton et al.
    2012, eq. 3 and 5.

    x (N, D), y (M, D); bandwidth: s. Biased: the means run over all pairs, in [0, 2]. Unbiased: a
    point is not paired with itself; may be negative. This is the square: the distance itself is its
    root.
    """
    return mmd2s(x, y, [bandwidth])[bandwidth]["unbiased" if unbiased else "biased"]


def mmd2s(x: Tensor, y: Tensor, bandwidths) -> dict:
    """{bandwidth: {"biased": MMD², "unbiased": MMD²}} of `mmd2`, each pair measured only once."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"MMD² needs two samples or more of each kind, got {len(x)} and {len(y)}")
    x, y = float64(x), float64(y)
    n, m = len(x), len(y)
    found = {}
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
    """Σ k(a_i, b_j) for each bandwidth, in blocks of rows: never are all pairs in memory."""
    sums = [0.0] * len(bandwidths)
    for rows in a.split(block):
        squares = torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
        for i, s in enumerate(bandwidths):
            sums[i] += (squares / (-2 * s**2)).exp_().sum().item()
    return sums


def mode_metrics(samples: Tensor, data: Mixture, min_share: float = 0.1) -> dict:
    """How samples (N, 2) sit on the modes.

    high_quality: share of samples within 3 sd of a mode, in [0, 1] (of the data itself: 0.989).
    modes: modes that hold at least `min_share` of their fair share N/K in high-quality samples, 0 …
    K.
    modes_hit: modes that are the nearest to any sample at all, however far, 0 … K (Dumoulin et al.
    2017, N = 10,000).
    mode_kl: KL(shares ‖ uniform) of the modes nearest to the samples, in nats, 0 … log K.
    """
    samples = float64(samples)
    distance, nearest = torch.cdist(samples, data.centres.to(samples.device)).min(1)
    K = len(data.centres)
    good = distance <= 3 * data.sd
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
    """MMD² at each bandwidth, both estimators, against as many fresh points; of a Mixture
    `mode_metrics`, too.

    Keys: mmd2_{biased,unbiased}_s<bandwidth>_<N>, modes_<N>, modes_hit_<N>, high_quality_<N>,
    mode_kl_<N>.
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
