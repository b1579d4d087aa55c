"""Distances between two sets of features, and scores of a classifier. Tensors in, floats out."""

import math
import warnings

import torch
from torch import Tensor


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D) in float64.

    Warns if N <= D. ValueError if N < 2.
    """
    n, dim = features.shape
    if n < 2:
        raise ValueError(f"a covariance needs two samples or more, not {n}")
    if n <= dim:
        warnings.warn(
            f"{n} samples of {dim} features give a singular covariance: "
            f"the Fréchet distance is strongly biased upwards; use more than {dim} samples",
            stacklevel=2,
        )
    blocks = features.split(1024)  # no float64 copy of all features is made
    mu = sum(block.double().sum(0) for block in blocks) / n
    lower = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
    for block in blocks:
        centred = block.double() - mu
        for start in range(0, dim, 256):  # the upper half is the lower one's mirror image
            part = centred[:, start : start + 256]
            lower[start:, start : start + 256].addmm_(centred[:, start:].T, part)
    sigma = lower.tril() + lower.tril(-1).T
    return mu, sigma / (n - 1)


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """|μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), Heusel et al. 2017 (arXiv:1706.08500), eq. 6.

    mu (D,), sigma (D, D) symmetric, >= 0. Computed in float64; in [0, ∞). With Σ₁ = R Rᵀ, Σ₁Σ₂ has
    the eigenvalues of the symmetric Rᵀ Σ₂ R, so the trace is a sum of roots of real eigenvalues,
    and no matrix square root with an imaginary part to throw away is needed. ValueError for numbers
    that are not finite.
    """
    mu1, sigma1, mu2, sigma2 = (
        torch.as_tensor(x, dtype=torch.float64) for x in (mu1, sigma1, mu2, sigma2)
    )
    if not all(x.isfinite().all() for x in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("the features are not finite, so they have no Fréchet distance")
    root, failed = torch.linalg.cholesky_ex(sigma1)  # R, ten times faster than by eigenvectors
    if failed:  # Σ₁ is singular but for rounding
        values, vectors = torch.linalg.eigh(sigma1)
        root = vectors * values.clamp(min=0).sqrt()
    product = root.T @ sigma2 @ root
    trace_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * trace_root
    return max(distance.item(), 0.0)


def kernel_inception_distance(
    f1: Tensor, f2: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Unbiased MMD² under k(x, y) = (x·y/D + 1)³, Bińkowski et al. 2018 (arXiv:1801.01401), §4.

    f1 (N, D), f2 (M, D), of one dtype. Mean and standard deviation over `subsets` pairs of random
    subsets. Kernels have the features' precision and sums float64: of float32 features both numbers
    are wrong by less than 1e-4 of the deviation. The mean can be slightly negative. A subset has
    `subset_size` samples, but at most half of the smaller set: subsets of (nearly) the whole set
    are all alike, and their spread says nothing. With halves it is the standard deviation of the
    whole set's KID (of sets that hardly differ, up to √3 times that). Of fewer than four samples
    there are no such subsets: all are used, and the deviation is nan. ValueError for fewer than 2.
    """
    smaller = min(len(f1), len(f2))
    if smaller < 2:
        raise ValueError(f"KID needs two samples or more of each kind, got {len(f1)} and {len(f2)}")
    size = min(subset_size, smaller // 2) if smaller >= 4 else smaller
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x = f1[torch.randperm(len(f1), generator=generator)[:size]]
        y = f2[torch.randperm(len(f2), generator=generator)[:size]]
        values.append(polynomial_mmd2(x, y, cubed))
    values = torch.stack(values)
    deviation = values.std(correction=0).item() if size < smaller else math.nan
    return values.mean().item(), deviation


def polynomial_mmd2(x: Tensor, y: Tensor, power) -> Tensor:
    """Unbiased MMD² under k(a, b) = power(a·b/D + 1), Gretton et al. 2012, eq. 3, a scalar.

    x, y (n, D), of one dtype. No sample is paired with itself; all n² pairs of x with y count.
    power: writes a power of its argument over it, such as `cubed`. Sums are in float64, kernels in
    the precision of x.
    """
    n = len(x)
    within = _sum_of_pairs(x, power) + _sum_of_pairs(y, power)
    across = sum(_kernel(rows, y, power).sum(dtype=torch.float64) for rows in x.split(_rows(y)))
    return within / (n * (n - 1)) - 2 * across / n**2


def cubed(k: Tensor) -> Tensor:
    """k³, written over k, since a kernel's block is as large as the caches."""
    return k.pow_(3)


def fourth_power(k: Tensor) -> Tensor:
    """k⁴, written over k."""
    return k.square_().square_()  # ten times as fast as pow_(4)


def _kernel(x, y, power):
    one = torch.ones((), dtype=x.dtype, device=x.device)
    return power(torch.addmm(one, x, y.T, alpha=1 / x.shape[1]))


def _sum_of_pairs(x, power):
    """Σ k(x_i, x_j) over i ≠ j: each row's from the diagonal on, twice."""
    total, size = 0, _rows(x)
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        k = _kernel(rows, x[start:], power)
        square = k[:, : len(rows)].double()  # at the diagonal both halves are there
        total += 2 * k.sum(dtype=torch.float64) - square.sum() - square.trace()
    return total


def _rows(others):
    """Rows of a kernel's block beside all `others`, on a CPU what its caches hold."""
    return max(1, (300_000 if others.device.type == "cpu" else 10_000_000) // len(others))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of fakes inside the manifold of reals (precision), of reals inside fakes' (recall).

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), eq. 1-2: the manifold of a set is the union of the
    balls around its points, each as large as the distance to its k-th nearest neighbour. real (N,
    D), fake (M, D); ValueError unless N, M > k.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"precision and recall need more than k = {k} samples, got {len(real)} and {len(fake)}"
        )
    # a common shift keeps distances, and saves digits below
    centre = real.mean(0, dtype=torch.float64)
    real, fake = real.double() - centre, fake.double() - centre
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _squared_distances(points: Tensor, others: Tensor, block: int = 1024):
    """Blocks of |a|² + |b|² − 2ab, never all pairs at once: (start, (block, M), rounding error)."""
    norms = others.square().sum(1)
    for start in range(0, len(points), block):
        a = points[start : start + block]
        sums = a.square().sum(1, keepdim=True) + norms
        yield start, torch.addmm(sums, a, others.T, alpha=-2), 1e-13 * sums


def _share_inside(points: Tensor, manifold: Tensor, k: int) -> float:
    radii = []
    for start, squares, _ in _squared_distances(manifold, manifold):
        rows = torch.arange(len(squares), device=squares.device)
        squares[rows, start + rows] = math.inf  # a point is not its own neighbour
        radii.append(squares.topk(k, largest=False).values[:, -1].clamp(min=0))
    radii = torch.cat(radii)
    # The slack: rounding must not push a twin out of a ball of radius 0 (repeated images).
    blocks = _squared_distances(points, manifold)
    inside = sum((squares <= radii + slack).any(1).sum() for _, squares, slack in blocks)
    return inside.item() / len(points)


def inception_score(logits: Tensor, splits: int = 1) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)), Salimans et al. 2016 (arXiv:1606.03498), §4. In [1, classes].

    logits (N, classes). Mean and standard deviation over `splits` consecutive parts. Splits of
    sorted samples give a different number; one split (sd 0) does not depend on the order.
    ValueError unless 1 <= splits <= N.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(
            f"splits must be in 1..{len(logits)} (the number of samples), not {splits}"
        )
    scores = []
    for part in logits.double().softmax(1).tensor_split(splits):
        # E KL(p(y|x) ‖ p(y)) = H(E p(y|x)) − E H(p(y|x)): entropies need no care at p = 0
        mean_entropy = torch.special.entr(part).sum(1).mean()
        scores.append((torch.special.entr(part.mean(0)).sum() - mean_entropy).exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


def class_histogram(logits: Tensor) -> dict:
    """How samples with logits (N, classes) fill the classes that the classifier sees (argmax).

    counts: list of `classes` ints; entropy: of the shares, in nats, at most log(classes);
    coverage: share of classes that hold at least 1 % of the samples, in [0, 1].
    """
    counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
    shares = counts.double() / len(logits)
    return {
        "counts": counts.tolist(),
        "entropy": torch.special.entr(shares).sum().item(),
        "coverage": (counts * 100 >= len(logits)).double().mean().item(),
    }
