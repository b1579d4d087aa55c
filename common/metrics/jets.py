"""Scores of generated jets: Wasserstein-1 distances, energy flow polynomials, FPD, KPD, FPND.

Jets are particles (J, N, 3): eta_rel, phi_rel (radian) and pt_rel (in units of the jet's pt),
padded with zeros. A particle is a slot that isn't all zeros. The definitions are those of jetnet
0.2.5 (arXiv:2106.11535 for the W1 family and FPND, arXiv:2211.10295 for FPD and KPD): with the same
draws the same values. Everything is torch, on the device of its arguments; only the draws are
numpy's, as jetnet's are.

    jet_metrics(real, fake)
    # {"w1m_bootstrap5_26k": 0.00057, "w1m_bootstrap5_26k_err": 0.00009, …}

A W1 falls with the number of jets and never reaches 0, so every key says protocol and sample size.
Two protocols, of N real jets: `bootstrap5`, five times N of the real and N of the fake jets, both
drawn with replacement, which is what MDMA's Table 1 holds (arXiv:2305.15254; its text says
otherwise); `disjoint10`, ten fake batches of N that share no jet against the N real ones (EPiC-GAN,
arXiv:2301.08128). The errors are standard deviations over the B batches, divided by B and not by
B − 1, as jetnet's: of five batches they are a tenth too small.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import float64, where_float64_is
from ..errors import UserError
from . import count_tag
from .distances import fourth_power, frechet_distance, moments, polynomial_mmd2

PRIME4 = (12, 14, 15, 16, 17)  # W1EFP's five of the 36: connected graphs of 4 vertices and 4 edges
FPND_TYPES = ("g", "q", "t")
FARTHEST_ETA = 200.0  # a float64 mass² holds e^(2 · 200) · (the largest float32 pt)²


# --- jets -> numbers


def present(particles: Tensor) -> Tensor:
    """(J, N) bool: the slots that hold a particle, that is any feature but zero."""
    return particles.ne(0).any(-1)


def jet_mass(particles: Tensor) -> Tensor:
    """m = ((Σ E)² − |Σ p|²)^½ of massless particles, (J,) float64, in units of the jet's pT.

    E² − p_z² is (Σ pt e^eta)(Σ pt e^−eta). A boost along the beam and a turn around it don't change
    m, so the hardest particle is put at eta = phi = 0: that leaves less to cancel, and gives
    exactly 0 for one particle. Finite for all finite float32 jets: particles further than
    FARTHEST_ETA from the hardest one in eta are moved to there.
    """
    # a few hundred MB at 150 particles
    return torch.cat([_mass(jets) for jets in particles.split(50_000)])


def _mass(particles):
    eta, phi, pt = float64(particles).unbind(-1)
    hardest = pt.argmax(1, keepdim=True)
    eta, phi = eta - eta.gather(1, hardest), phi - phi.gather(1, hardest)
    eta = eta.clamp(-FARTHEST_ETA, FARTHEST_ETA)
    plus, minus = (pt * eta.exp()).sum(1), (pt * (-eta).exp()).sum(1)
    px, py = (pt * phi.cos()).sum(1), (pt * phi.sin()).sum(1)
    return (plus * minus - px.square() - py.square()).clamp(min=0).sqrt()


def observables(particles: Tensor) -> Tensor:
    """(3, J) float64: mass, number of particles, sum of pt."""
    return torch.stack(
        [jet_mass(particles), float64(present(particles).sum(1)), float64(particles[..., 2]).sum(1)]
    )


def efps(particles: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The 36 energy flow polynomials of at most 4 edges, (J, 36): arXiv:1712.07124, eq. 1.

    EFP_G = Σ_{i₁…i_n} z_{i₁} ⋯ z_{i_n} Π_{(k,l) ∈ G} θ_{i_k i_l}, z = pt, θ² = Δeta² + Δphi²:
    EnergyFlow's measure "hadr", beta = 1, not normed, in EnergyFlow's order (0 … 20 connected, then
    products of those). Computed in `dtype` (default: that of particles); one product of N x N
    matrices a jet. Jets are sorted by size, so that padding costs little; the result is in the
    order of the argument.
    """
    particles = particles.to(dtype or particles.dtype)
    slots = torch.arange(1, particles.shape[1] + 1, device=particles.device)
    lengths, order = (slots * particles[..., 2].ne(0)).amax(1).clamp(min=1).sort(descending=True)
    # Entries of N x N matrices worked on at once: on a CPU what its caches hold
    budget = 100_000 if particles.device.type == "cpu" else 20_000_000
    found = particles.new_empty(len(particles), 36)
    lengths = lengths.tolist()
    start = 0
    while start < len(order):
        longest = lengths[start]
        chunk = order[start : start + max(1, budget // longest**2)]
        found[chunk] = _efps(particles[chunk, :longest])
        start += len(chunk)
    return found


def _efps(particles: Tensor) -> Tensor:
    eta, phi, z = particles.unbind(-1)  # (C, N)
    theta2 = (eta[:, :, None] - eta[:, None, :]).square_()
    theta2 += (phi[:, :, None] - phi[:, None, :]).square_()  # (C, N, N)
    theta = theta2.sqrt()
    paths = torch.bmm(theta * z[:, None, :], theta)  # Σ_k θ_ik z_k θ_kj, the N³ product

    def over(matrix, weights):  # Σ_j matrix_ij weights_j, (C, N)
        return torch.bmm(matrix, weights[:, :, None])[:, :, 0]

    # What can hang on vertex i: 1, 2, 3, 4 edges to one vertex j, a path i-j-k, a double edge i=j
    # and then j-k …
    a, b, c, d = over(theta, z), over(theta2, z), over(theta * theta2, z), over(theta2.square(), z)
    aa, ba = over(paths, z), over(theta2, z * a)
    # … a triangle, one with a doubled edge, a square
    closed = paths * theta
    triangle, doubled = over(closed, z), over(closed.mul_(theta), z)
    square = over(paths.square_(), z)
    # (C, 21, N)
    rooted = torch.stack(
        [
            torch.ones_like(a),
            a,
            b,
            c,
            d,
            a**2,
            a * b,
            a * c,
            b**2,
            triangle,
            doubled,
            a**3,
            a**2 * b,
            a * aa,
            b * aa,
            a * ba,
            a * triangle,
            square,
            a**4,
            a**2 * aa,
            aa**2,
        ],
        1,
    )
    e = over(rooted, z)  # the 21 connected graphs
    e1, e2, e5 = e[:, 1], e[:, 2], e[:, 5]
    products = [
        e1**2,
        e1 * e2,
        e1 * e[:, 3],
        e2**2,
        e1 * e5,
        e2 * e5,
        e1 * e[:, 6],
        e1 * e[:, 9],
        e1**3,
        e1 * e[:, 11],
        e1 * e[:, 13],
        e5**2,
        e1**2 * e2,
        e1**2 * e5,
        e1**4,
    ]
    return torch.cat([e, torch.stack(products, 1)], 1)


# --- Wasserstein-1


def wasserstein1(x: Tensor, y: Tensor) -> Tensor:
    """W₁ = ∫₀¹ |F_x⁻¹(u) − F_y⁻¹(u)| du, exact, of samples along the last axis; in the unit of x.

    x (…, n), y (…, m) -> (…) float64. Shares u are integers (in units of 1/nm), so that two equal
    samples give exactly 0. If a side is empty: inf, as in jetnet.
    """
    n, m = x.shape[-1], y.shape[-1]
    x, y = where_float64_is(x), where_float64_is(y)
    if n * m == 0:
        return torch.full(x.shape[:-1], torch.inf, dtype=torch.float64, device=x.device)
    x, y = _sorted(x), _sorted(y)
    # Shares in units of 1/nm. x_i reaches from (i − 1)m to i·m, y_j from (j − 1)n to j·n, and the
    # two quantile functions are constant between neighbouring ends. Of each end: what the other
    # one is there, and how far back the next end is.
    i = m * torch.arange(1, n + 1, device=x.device)
    j = n * torch.arange(1, m + 1, device=x.device)
    y_there = (i - 1) // n
    x_there = (j - 1) // m
    to_i = i - torch.maximum(i - m, y_there * n)
    to_j = j - torch.maximum(j - n, j // m * m)
    ends_of_x = (x.double() - y.index_select(-1, y_there)).abs() * to_i
    ends_of_y = (x.index_select(-1, x_there).double() - y).abs() * to_j
    return (ends_of_x.sum(-1) + ends_of_y.sum(-1)) / (n * m)


def _sorted(x):
    """x sorted along the last axis; numpy is several times as fast as torch on a CPU."""
    return torch.from_numpy(np.sort(x.numpy())) if x.device.type == "cpu" else x.sort().values


def bootstrap(
    n_real: int, n_fake: int, size: int, rng: np.random.Generator, batches: int = 5
) -> list:
    """Indices (real, fake) of `batches` draws of `size` jets each, with replacement, as jetnet's.

    Drawing both sides makes W1 too large: it is not 0 even if real and fake jets are the same ones.
    """
    return [
        (torch.from_numpy(rng.choice(n_real, size)), torch.from_numpy(rng.choice(n_fake, size)))
        for _ in range(batches)
    ]


def disjoint(n_real: int, n_fake: int, batches: int = 10) -> list:
    """Indices (real, fake): `batches` runs of n_real fake jets that share none, each against the
    real ones.

    With too few fake jets there are fewer batches, of n_real all the same: W1 of other sizes would
    not compare. With fewer fake jets than real ones, one batch of all, against as many real ones.
    """
    batches = min(batches, max(1, n_fake // n_real))
    size = min(n_real, n_fake)
    return [(torch.arange(size), torch.arange(i * size, (i + 1) * size)) for i in range(batches)]


def w1(real: Tensor, fake: Tensor, draws: list) -> Tensor:
    """W1 of quantities real (Q, J), fake (Q, K) of jets, in each draw: (draws, Q) float64."""
    return torch.stack([wasserstein1(real[:, i], fake[:, j]) for i, j in _on(real.device, draws)])


def w1p(real: Tensor, fake: Tensor, draws: list) -> Tensor:
    """W1 of eta_rel, phi_rel, pt_rel over the real particles, in each draw: (draws, 3) float64."""

    def features(particles):
        return particles[present(particles)].T.contiguous()  # (3, number of particles)

    return torch.stack(
        [wasserstein1(features(real[i]), features(fake[j])) for i, j in _on(real.device, draws)]
    )


def _on(device, draws):
    return [(i.to(device), j.to(device)) for i, j in draws]


def w1m_disjoint(real_mass: Tensor, fake_mass: Tensor, batches: int = 10) -> tuple[float, float]:
    """W1 of jet masses (J,), (K,): mean and sd over `disjoint` batches. Cheap: it picks best.pt."""
    values = w1(real_mass[None], fake_mass[None], disjoint(len(real_mass), len(fake_mass), batches))
    return values.mean().item(), values.std(correction=0).item()


def variance_weighted_mean(values: Tensor, errors: Tensor) -> tuple[float, float]:
    """Σ(x/s²) / Σ(1/s²) ± Σ(1/s) / Σ(1/s²): how MDMA's Table 1 makes features' W1 one number.

    values x, errors s (F,). The error is not the 1/√Σ(1/s²) of independent x: it is that weighted
    mean's error if all x err together (Σ w s / Σ w with w = 1/s²), as features of the same jets
    nearly do. The mean is mostly that of the feature of smallest error: W1P is nearly W1(pt). An
    error of 0 is infinite weight: only such x count then.
    """
    values, errors = float64(values), float64(errors)
    if (errors == 0).any():
        return values[errors == 0].mean().item(), 0.0
    weights = errors**-2
    mean = (values * weights).sum() / weights.sum()
    error = (1 / errors).sum() / weights.sum()
    return mean.item(), error.item()


# --- FPD and KPD


def fpd(
    real: Tensor,
    fake: Tensor,
    min_samples: int | None = None,
    max_samples: int | None = None,
    batches: int = 20,
    points: int = 10,
    normalise: bool = True,
    seed: int = 42,
) -> tuple[float, float]:
    """Fréchet physics distance of features (J, 36), (K, 36), and its error: `jetnet_intercept`."""
    return jetnet_intercept(
        *frechet_curve(real, fake, min_samples, max_samples, batches, points, normalise, seed)
    )


def frechet_curve(
    real: Tensor,
    fake: Tensor,
    min_samples: int | None = None,
    max_samples: int | None = None,
    batches: int = 20,
    points: int = 10,
    normalise: bool = True,
    seed: int = 42,
) -> tuple:
    """Fréchet distance of features (J, 36), (K, 36) over sample sizes: sizes, distances (points,).

    The sizes are equidistant in 1/size from min_samples to max_samples, each distance is the mean
    of `batches` draws with replacement. max_samples None: the smaller sample N; min_samples None:
    10,000 or 2/5 of max_samples, whichever is less. These are the paper's for its N = 26,000, and
    have jetnet's ratio; jetnet's defaults are 20,000 and 50,000. normalise: divide features by the
    largest |real| one of their kind. seed: jetnet 0.2.5's draws. ValueError unless
    2 <= min_samples < max_samples.
    """
    if max_samples is None:
        max_samples = min(len(real), len(fake))
    if min_samples is None:
        min_samples = min(10_000, max_samples * 2 // 5)
    if not 2 <= min_samples < max_samples:
        raise ValueError(
            f"FPD needs 2 <= min_samples < max_samples, not {min_samples} and {max_samples} "
            f"({len(real)} real, {len(fake)} fake jets)"
        )
    x, y = _scaled(real, fake) if normalise else (float64(real), float64(fake))
    rng = np.random.default_rng(seed)
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, points)).astype(int)
    draws = [
        (_how_often(x, rng, size), _how_often(y, rng, size))
        for size in sizes
        for _ in range(batches)
    ]
    of_x, of_y = (torch.stack(often).to(x) for often in zip(*draws))
    distances = [
        frechet_distance(*a, *b) for a, b in zip(_drawn_moments(x, of_x), _drawn_moments(y, of_y))
    ]
    return sizes, np.reshape(distances, (points, batches)).mean(1)


def jetnet_intercept(sizes: np.ndarray, distances: np.ndarray) -> tuple[float, float]:
    """FPD: where a line of intercept and slope >= 0 meets 1/size = 0, and the fit's error of it, by
    jetnet's own fit.

    That is iterative and stops early, which makes small values too large: of points exactly on a
    line of slope 2 through 0, at sizes of 20,000 to 50,000, it makes (0.8 ± 0.3)e-4. Published FPDs
    contain this; not so `line_intercept`.
    """
    from scipy.optimize import curve_fit

    fit, covariance = curve_fit(
        lambda t, intercept, slope: intercept + slope * t,
        1 / sizes,
        distances,
        bounds=([0, 0], [np.inf, np.inf]),
    )
    return float(fit[0]), float(covariance[0, 0] ** 0.5)


def line_intercept(sizes: np.ndarray, distances: np.ndarray) -> tuple[float, float]:
    """The same by ordinary least squares, and its standard error; can be negative, as KPD can."""
    fit, covariance = np.polyfit(1 / sizes, distances, 1, cov=True)
    return float(fit[1]), float(covariance[1, 1] ** 0.5)


def frechet_of_all(real: Tensor, fake: Tensor) -> float:
    """FPD's Fréchet distance of features (J, 36), (K, 36) at full size, which biases it upwards.

    `fpd` is the intercept of a line, which can be 0 where a few wild jets make its points scatter.
    Picks checkpoints.
    """
    x, y = _scaled(real, fake)
    return frechet_distance(*moments(x), *moments(y))


def _scaled(real, fake):
    """Both over the largest |real| feature, float64; a feature that is always 0 stays."""
    real, fake = float64(real), float64(fake)
    largest = real.abs().amax(0)
    largest[largest == 0] = 1
    return real / largest, fake / largest


def _how_often(x, rng, size):
    """How often each of the rows x is drawn in `size` draws with replacement, (J,) int64."""
    return torch.from_numpy(np.bincount(rng.choice(len(x), size), minlength=len(x)))


def _drawn_moments(x, often):
    """Mean (D,) and covariance (D, D) of each draw from x (J, D). often (draws, J): _how_often."""
    centre = x.mean(0)
    x = x - centre
    size = often.sum(1, keepdim=True)
    means = often @ x / size
    row, column = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
    # Σ x xᵀ of all draws at once, each product of two features once; in blocks that caches hold
    sums = 0
    for part, block in zip(often.split(1024, dim=1), x.T.contiguous().split(1024, dim=1)):
        sums = sums + part @ (block[row] * block[column]).T
    covariances = x.new_empty(len(often), x.shape[1], x.shape[1])
    covariances[:, row, column] = covariances[:, column, row] = sums
    covariances -= size[..., None] * means[:, :, None] * means[:, None]
    return zip(centre + means, covariances / (size[..., None] - 1))


def kpd(
    real: Tensor,
    fake: Tensor,
    batches: int = 10,
    batch_size: int = 5000,
    normalise: bool = True,
    seed: int = 42,
) -> tuple[float, float]:
    """Kernel physics distance of features (J, 36), (K, 36): MMD² under k(x, y) = (x·y/36 + 1)⁴.

    Median over `batches` draws with replacement of `batch_size` a side (at most the smaller
    sample), and half the width from 16.275 to 83.725 %. Can be slightly negative. A jet that is
    drawn twice is paired with its copy, so that it is not quite unbiased, as in jetnet. normalise
    and draws: as in `frechet_curve`. ValueError for fewer than two jets.
    """
    x, y = _scaled(real, fake) if normalise else (float64(real), float64(fake))
    size = min(batch_size, len(x), len(y))
    if size < 2:
        raise ValueError(
            f"KPD needs two jets or more of each kind, got {len(real)} and {len(fake)}"
        )
    values = []
    for batch in range(batches):
        rng = np.random.default_rng(seed + 1000 * batch)
        a = x[torch.from_numpy(rng.choice(len(x), size)).to(x.device)]
        b = y[torch.from_numpy(rng.choice(len(y), size)).to(x.device)]
        values.append(polynomial_mmd2(a, b, fourth_power).item())
    low, median, high = np.percentile(values, [16.275, 50, 83.725])
    return float(median), float(high - low) / 2


# --- FPND


def fpnd(particles: Tensor, jet_type: str) -> float:
    """Fréchet ParticleNet distance to real JetNet jets of type g, q or t: arXiv:2106.11535, §5.

    particles (J, 30, 3). At most 50,000 jets are used, fewer give larger values. Weights and real
    statistics are the files that the installed jetnet package ships. Raises UserError if it isn't
    there or has none for such jets.
    """
    if jet_type not in FPND_TYPES or particles.shape[1] != 30:
        raise UserError(
            f"FPND has statistics for jets of 30 particles and the types {', '.join(FPND_TYPES)}, "
            f"not for {particles.shape[1]} particles of type {jet_type!r}: leave it out"
        )
    blocks, head, mu, sigma = _fpnd_files(jet_type)
    blocks = [
        [(w.to(particles.device), b.to(particles.device)) for w, b in block] for block in blocks
    ]
    head = [t.to(particles.device) for t in head]
    # jetnet's fixed scaling: the largest |feature| of the real jets, and pt to -0.5 … 0.5
    scale = particles.new_tensor([1.6211985349655151, 0.520724892616272, 0.8934717178344727])
    jets = (particles[:50_000] / scale - particles.new_tensor([0, 0, 0.5])).float()
    size = 32 if particles.device.type == "cpu" else 2048
    with torch.no_grad():
        features = torch.cat([_particlenet(batch, blocks, head) for batch in jets.split(size)])
    return frechet_distance(*moments(features.cpu()), mu, sigma)


@functools.cache
def _fpnd_files(jet_type):
    """ParticleNet: three blocks of three linear layers (W, b), a head (W, b); real moments."""
    # finds it without importing it, which takes seconds
    package = importlib.util.find_spec("jetnet")
    if package is None:
        raise UserError(
            "FPND needs ParticleNet's files, which the jetnet package ships: pip install jetnet, "
            "or leave FPND out"
        )
    folder = Path(package.origin).parent / "evaluation/fpnd_resources/jetnet/30_particles"
    try:
        state = torch.load(folder / "pnet_state_dict.pt", map_location="cpu", weights_only=True)
        mu, sigma = (
            torch.from_numpy(np.loadtxt(folder / f"{jet_type}_{name}.txt"))
            for name in ("mu", "sigma")
        )
    except OSError as e:
        raise UserError(
            f"FPND needs ParticleNet's files, which the jetnet package ships, in {folder}: "
            "pip install jetnet, or leave FPND out"
        ) from e

    def layer(prefix, linear):
        """Weight and bias of a linear layer and the frozen BatchNorm after it, as one layer."""
        weight, bias = (state[f"{prefix}.{linear}.{name}"] for name in ("weight", "bias"))
        gain, shift, mean, var = (
            state[f"{prefix}.{linear + 1}.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / (var + 1e-5).sqrt()
        return weight * gain[:, None], (bias - mean) * gain + shift

    blocks = [[layer(f"edge_nets.{i}.model", linear) for linear in (0, 3, 6)] for i in range(3)]
    return blocks, (state["fc1.0.weight"], state["fc1.0.bias"]), mu, sigma


def _particlenet(x: Tensor, blocks, head) -> Tensor:
    """ParticleNet (arXiv:1902.08570) as trained for FPND: scaled jets (B, N, 3) -> (B, 256).

    Three EdgeConv blocks: the mean of MLP([x_i, x_j − x_i]) over the 16 nearest j, appended to x_i.
    Nearness is in eta, phi first, then in all features. After them: mean over all slots, padded
    ones too, and a linear layer.
    """
    for i, ((weight, bias), *layers) in enumerate(blocks):
        near = x[..., :2] if i == 0 else x
        distance = torch.cdist(near, near, compute_mode="donot_use_mm_for_euclid_dist")
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        neighbours = distance.topk(16, largest=False).indices  # (B, N, 16)
        # W[x_i, x_j − x_i] = (W_i − W_j) x_i + W_j x_j: per particle, not per pair
        w_i, w_j = weight.chunk(2, dim=1)
        ours, theirs = F.linear(x, w_i - w_j, bias), F.linear(x, w_j)
        jets = torch.arange(len(x), device=x.device)[:, None, None]
        h = (ours[:, :, None] + theirs[jets, neighbours]).relu_()  # (B, N, 16, F)
        for w, b in layers:
            h = F.linear(h, w, b).relu_()
        x = torch.cat([h.mean(2), x], 2)
    return F.linear(x.mean(1), *head)


# --- all of them


def jet_metrics(
    real: Tensor,
    fake: Tensor,
    *,
    seed: int = 0,
    protocols=("bootstrap5", "disjoint10"),
    fpnd_type: str | None = None,
) -> dict[str, float]:
    """Every score of fake (K, n, 3) against real jets (J, n', 3), most with an error, `<key>_err`.

    The size in <protocol>_<size>, as in `bootstrap5_26k`, is that of a batch. With too few fakes
    disjoint10 becomes disjoint4, or as many as there are: see `disjoint`. With one there are no
    errors, and so no …_paper, which is weighted with them. Keys:

    - w1m, w1n, w1sumpt: W1 of mass, number of particles, sum of pt (all in jet units); each also
      `…_exact_<J>_<K>`, of all jets as they are: 0 for equal samples, and without an error.
    - w1p_eta, w1p_phi, w1p_pt; w1p_mean, their plain mean; w1p_paper, `variance_weighted_mean`.
    - w1efp_12 … w1efp_17 (`PRIME4`), w1efp_mean, w1efp_paper.
    - fpd_<min>_<max>_of_<N> (jetnet's fit) and fpd_line_… (least squares), of the first
      N = min(J, K) jets: sizes up to N, and jetnet's default 20k_50k too if N is at least 20,000.
    - kpd_<batches>x<size>_of_<N>.
    - fpnd_<type>_<jets used>, without an error, if fpnd_type is given (30 particles only).

    bootstrap5 draws from all fakes for w1m … w1p, but from the first N for w1efp, as the paper's
    evaluation does. seed: of the bootstrap; 0 gives FPD and KPD jetnet's own default draws. Raises
    ValueError for what isn't jets, UserError for jets whose EFPs overflow.
    """
    for name, particles in (("real", real), ("fake", fake)):
        if particles.ndim != 3 or particles.shape[2] != 3 or len(particles) < 10:
            raise ValueError(
                f"{name} must be (jets, particles, 3), ten jets or more, not "
                f"{tuple(particles.shape)}"
            )
        if not particles.isfinite().all():
            raise ValueError(f"the {name} jets have features that are not finite")
    if unknown := set(protocols) - {"bootstrap5", "disjoint10"}:
        raise ValueError(f"unknown protocol {', '.join(sorted(unknown))}: bootstrap5 or disjoint10")
    found = {}

    def note(key, value, error=None):
        found[key] = float(value)
        if error is not None:
            found[f"{key}_err"] = float(error)

    def note_each(names, values, suffix):  # values (draws, names)
        sd = values.std(0, correction=0)
        for name, x, s in zip(names, values.mean(0), sd):
            note(f"{name}_{suffix}", x, s if len(values) > 1 else None)
        return sd

    def note_features(metric, names, values, suffix):
        sd = note_each([f"{metric}_{name}" for name in names], values, suffix)
        note_each([f"{metric}_mean"], values.mean(1, keepdim=True), suffix)
        if len(values) > 1:  # else there are no errors to weight with
            note(f"{metric}_paper_{suffix}", *variance_weighted_mean(values.mean(0), sd))

    n, k = len(real), len(fake)
    common = min(n, k)
    splits = disjoint(n, k)
    real_jet, fake_jet = observables(real), observables(fake)
    scored = common * len(splits) if "disjoint10" in protocols else common  # of fakes, for EFPs
    real_efp = float64(efps(real))
    fake_efp = float64(efps(fake[:scored]))

    for name, found_efp in (("real", real_efp), ("fake", fake_efp)):
        wild = ~found_efp.isfinite().all(1)
        if wild.any():
            raise UserError(
                f"{int(wild.sum()):,} of the {name} jets are so wide or hard that their energy "
                f"flow polynomials overflow, the first is number {int(wild.int().argmax())}: leave "
                "them out"
            )

    exact = wasserstein1(real_jet, fake_jet)
    for name, value in zip(("w1m", "w1n", "w1sumpt"), exact):
        note(f"{name}_exact_{count_tag(n)}_{count_tag(k)}", value)
    for protocol in protocols:
        if protocol == "bootstrap5":
            suffix = f"bootstrap5_{count_tag(n)}"
            draws = bootstrap(n, k, n, np.random.default_rng(seed))
            efp_draws = bootstrap(n, common, n, np.random.default_rng(seed))
        else:
            suffix = f"disjoint{len(splits)}_{count_tag(common)}"
            draws = efp_draws = splits
        note_each(("w1m", "w1n", "w1sumpt"), w1(real_jet, fake_jet, draws), suffix)
        note_features("w1p", ("eta", "phi", "pt"), w1p(real, fake, draws), suffix)
        values = w1(
            real_efp[:, PRIME4].T.contiguous(), fake_efp[:, PRIME4].T.contiguous(), efp_draws
        )
        note_features("w1efp", PRIME4, values, suffix)

    x, y = real_efp[:common], fake_efp[:common]
    of = f"of_{count_tag(common)}"
    limits = {(min(10_000, common * 2 // 5), common)}
    if common >= 20_000:
        limits.add((20_000, 50_000))
    for low, high in sorted(limits):
        curve = frechet_curve(x, y, low, high, seed=42 + seed)
        sizes = f"{count_tag(low)}_{count_tag(high)}_{of}"
        note(f"fpd_{sizes}", *jetnet_intercept(*curve))
        note(f"fpd_line_{sizes}", *line_intercept(*curve))
    note(f"kpd_10x{count_tag(min(5000, common))}_{of}", *kpd(x, y, seed=42 + seed))
    if fpnd_type is not None:
        note(f"fpnd_{fpnd_type}_{count_tag(min(50_000, k))}", fpnd(fake, fpnd_type))
    return found
