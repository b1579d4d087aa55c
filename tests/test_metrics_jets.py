"""Jet metrics against EnergyFlow, jetnet 0.2.5 with the same draws, scipy and closed forms."""

import math
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import linregress, wasserstein_distance
from torch import nn

from common.cli import UserError
from common.metrics import jets as m


def toy_jets(count, slots, seed=0, width=0.1, dtype=torch.float64):
    """Zero-padded jets with a steep pt spectrum, hardest first, of 1 to `slots` particles."""
    rng = torch.Generator().manual_seed(seed)
    n = torch.randint(1, slots + 1, (count,), generator=rng)
    mask = torch.arange(slots) < n[:, None]
    pt = (torch.rand(count, slots, generator=rng, dtype=dtype) ** 4 + 1e-3).masked_fill(~mask, 0)
    kept = (
        1 - 0.2 * torch.rand(count, 1, generator=rng, dtype=dtype) ** 2
    )  # the rest fell out of the jet
    pt = kept * pt.sort(1, descending=True).values / pt.sum(1, keepdim=True)
    angles = width * torch.randn(count, slots, 2, generator=rng, dtype=dtype)
    return torch.cat([angles, pt[..., None]], 2) * mask[..., None]


@pytest.fixture(scope="module")
def jetnet():
    """jetnet's metrics and utilities, without numba's compilation, which takes longer than these tests."""
    numba = pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(numba.config, "DISABLE_JIT", True)
        metrics = pytest.importorskip("jetnet.evaluation.gen_metrics", exc_type=ImportError)
    return metrics


@pytest.fixture(autouse=True)
def small_samples_are_meant():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Recommended number")
        yield


# --- jet mass


def test_mass_closed_forms():
    def mass(*particles):
        return m.jet_mass(torch.tensor([particles], dtype=torch.float64)).item()

    assert mass((0, 0, 0.5), (0, math.pi, 0.5)) == pytest.approx(
        1, abs=1e-12
    )  # back to back: all of E
    expected = math.sqrt(2 * 0.7 * 0.2 * (math.cosh(0.5) - math.cos(0.3)))
    assert mass((0.4, -0.1, 0.7), (-0.1, 0.2, 0.2), (0, 0, 0)) == pytest.approx(expected, rel=1e-12)


def test_mass_of_one_particle_is_zero():
    one = toy_jets(500, 1, dtype=torch.float32)
    padded = torch.cat([one, torch.zeros(500, 4, 3)], 1)
    assert (m.jet_mass(padded) == 0).all()
    narrow = toy_jets(500, 12, width=1e-9)  # m² is rounding here, of either sign
    assert m.jet_mass(narrow).max() < 1e-7


def test_mass_is_finite_for_all_finite_jets_and_right_far_off():
    """A second particle at Δeta = 15, 150: by hand; at 999, an often used "none", and beyond."""
    first = [0.3, 0.1, 0.9]
    second = [[first[0] - eta, 0.2, 0.1] for eta in (15, 150)]
    far = torch.tensor([[first, other] for other in second], dtype=torch.float64)
    expected = [math.sqrt(2 * 0.9 * 0.1 * (math.cosh(eta) - math.cos(0.1))) for eta in (15, 150)]
    np.testing.assert_allclose(m.jet_mass(far), expected, rtol=1e-12)
    largest = torch.finfo(torch.float32).max
    for eta, pt in ((-999, 0.1), (largest, 0.1), (-largest, largest)):
        jet = torch.tensor([[first, [eta, 0.2, pt], [-eta, -0.2, pt], [0.0, 0.0, 0.0]]])
        assert m.jet_mass(jet).isfinite().all() and m.jet_mass(jet) > 1e40


def test_mass_of_real_jets_agrees_with_a_sum_over_pairs(repo):
    """m² = Σᵢⱼ ptᵢ ptⱼ (cosh Δeta − cos Δphi), where nothing cancels; narrowed a hundred times, too."""
    with np.load(repo / "tests/data/pythia_top30_test_2000.npz") as f:
        jets = torch.from_numpy(f["particles"]).double()
    for narrowed, rtol in ((1, 1e-12), (0.01, 1e-8)):
        eta, phi, pt = (jets * torch.tensor([narrowed, narrowed, 1])).unbind(-1)
        eta, phi = (x[:, :, None] - x[:, None] for x in (eta, phi))
        distance = 2 * (eta / 2).sinh().square() + 2 * (phi / 2).sin().square()
        expected = torch.einsum("ji,jk,jik->j", pt, pt, distance).sqrt()
        got = m.jet_mass(jets * torch.tensor([narrowed, narrowed, 1]))
        np.testing.assert_allclose(got, expected, rtol=rtol)


def test_mass_agrees_with_jetnet(jetnet):
    jets = toy_jets(400, 30)
    np.testing.assert_allclose(
        m.jet_mass(jets), jetnet.utils.jet_features(jets.numpy())["mass"], atol=1e-6
    )


# --- energy flow polynomials


@pytest.mark.parametrize("slots", [8, 40])
def test_efps_agree_with_energyflow(slots):
    energyflow = pytest.importorskip("energyflow")
    jets = toy_jets(60, slots)
    efpset = energyflow.EFPSet(("d<=", 4), measure="hadr", beta=1, normed=None, coords="ptyphim")
    expected = efpset.batch_compute(jets[..., [2, 0, 1]].numpy(), n_jobs=1)
    np.testing.assert_allclose(m.efps(jets), expected, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(m.efps(jets.float()), expected, rtol=1e-5, atol=1e-9)
    assert (
        m.efps(jets.float()).dtype == torch.float32
        and m.efps(jets.float(), torch.float64).dtype == torch.float64
    )


def test_efps_of_one_and_two_particles():
    one, two = torch.zeros(1, 5, 3, dtype=torch.float64), torch.zeros(1, 5, 3, dtype=torch.float64)
    one[0, 2] = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64)
    expected = torch.zeros(1, 36, dtype=torch.float64)
    expected[0, 0] = 0.6
    assert torch.equal(m.efps(one), expected)
    two[0, [0, 3]] = torch.tensor(
        [[0.1, 0.1, 1], [0.4, 0.5, 1]], dtype=torch.float64
    )  # pt 1, 1 at a distance of 0.5
    R = 0.5
    first = torch.tensor([2, 2 * R, 2 * R**2, 2 * R**3, 2 * R**4, 2 * R**2], dtype=torch.float64)
    torch.testing.assert_close(m.efps(two)[0, :6], first, rtol=1e-13, atol=0)
    assert m.efps(two)[0, [9, 10, 16]].eq(0).all()  # no triangle without three particles
    assert m.efps(two)[0, 35].item() == pytest.approx((2 * R) ** 4)


def test_efps_know_no_order_no_padding_and_no_neighbours():
    jets = toy_jets(300, 40)
    got = m.efps(jets)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(m.efps(jets[:, order]), got, rtol=1e-12, atol=1e-18)
    padded = torch.cat([jets, torch.zeros(300, 25, 3, dtype=torch.float64)], 1)
    torch.testing.assert_close(m.efps(padded), got, rtol=1e-12, atol=1e-18)
    padded[:, 40:, :2] = 7.0  # pt = 0 stays without weight, wherever it is
    torch.testing.assert_close(m.efps(padded), got, rtol=1e-12, atol=1e-18)
    alone = torch.cat(
        [m.efps(jet[None]) for jet in jets[:50]]
    )  # chunks by size return in the order of the argument
    torch.testing.assert_close(got[:50], alone, rtol=1e-12, atol=1e-18)
    assert m.efps(torch.zeros(2, 4, 3)).eq(0).all()


# --- Wasserstein-1


@pytest.mark.parametrize("n, k", [(300, 300), (300, 1000), (7, 2)])
def test_wasserstein_agrees_with_scipy(n, k):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), rng.gamma(2, size=k)
    y[: k // 2] = rng.choice(x, k // 2)  # ties
    got = m.wasserstein1(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert got == pytest.approx(wasserstein_distance(x, y), rel=1e-12)


def test_wasserstein_of_equal_and_shifted_samples():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert m.wasserstein1(x, x.flip(0)) == 0
    assert m.wasserstein1(x, x.repeat(3)) == 0
    assert m.wasserstein1(x, x + 0.25).item() == pytest.approx(0.25, rel=1e-12)
    rows = m.wasserstein1(torch.stack([x, x]), torch.stack([x + 1, x - 2]))
    torch.testing.assert_close(rows, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert m.wasserstein1(x, x[:0]) == math.inf


def test_disjoint_batches_share_no_jet():
    draws = m.disjoint(20, 1000, batches=10)
    assert torch.cat([j for _, j in draws]).unique().tolist() == list(range(200))
    assert all(i.tolist() == list(range(20)) for i, _ in draws)
    few = m.disjoint(20, 57, batches=10)  # fewer batches, not smaller ones
    assert [len(i) for i, _ in few] == [20] * 2 and torch.cat(
        [j for _, j in few]
    ).unique().numel() == 40
    assert [(len(i), len(j)) for i, j in m.disjoint(20, 7, batches=10)] == [(7, 7)]


def test_w1m_disjoint():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=40), rng.normal(size=170)
    values = [wasserstein_distance(real, fake[i : i + 40]) for i in range(0, 160, 40)]
    got = m.w1m_disjoint(torch.from_numpy(real), torch.from_numpy(fake), batches=4)
    assert got == pytest.approx((np.mean(values), np.std(values)), rel=1e-12)


@pytest.mark.parametrize("metric", ["w1m", "w1p", "w1efp"])
def test_w1_with_jetnets_draws(metric, jetnet, monkeypatch):
    real, fake = toy_jets(150, 12), toy_jets(220, 10, seed=1, width=0.12)
    monkeypatch.setattr(jetnet, "rng", np.random.default_rng(5))
    options = {"efp_jobs": 1} if metric == "w1efp" else {}
    expected, error = getattr(jetnet, metric)(
        real.numpy(), fake.numpy(), num_eval_samples=180, **options
    )
    draws = m.bootstrap(150, 220, 180, np.random.default_rng(5))
    values = {
        "w1m": lambda: m.w1(m.jet_mass(real)[None], m.jet_mass(fake)[None], draws)[:, 0],
        "w1p": lambda: m.w1p(real, fake, draws),
        "w1efp": lambda: m.w1(m.efps(real)[:, m.PRIME4].T, m.efps(fake)[:, m.PRIME4].T, draws),
    }[metric]()
    np.testing.assert_allclose(values.mean(0), expected, rtol=1e-6)
    np.testing.assert_allclose(values.std(0, correction=0), error, rtol=1e-6)


def test_variance_weighted_mean_is_the_papers():
    """Light quarks, from the authors' notebook: Table 1 prints 0.37 ± 0.05."""
    errors = torch.tensor([0.226, 0.153, 0.0392])
    value, error = m.variance_weighted_mean(torch.tensor([0.788, 0.859, 0.333]), errors)
    assert round(value, 3) == 0.377 and round(error, 3) == 0.051
    assert error > 1.3 * errors.pow(-2).sum().rsqrt()  # 1/√Σ(1/s²), what it isn't
    assert m.variance_weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([0.3, 0.0])) == (
        5.0,
        0.0,
    )


# --- FPD and KPD


def test_fpd_and_kpd_of_twos_and_zeros():
    """jetnet's own test values."""
    twos, zeros = 2 * torch.ones(60, 2), torch.zeros(60, 2)
    for normalise, fpd, kpd in ((True, 2, 15), (False, 8, 624)):
        assert m.fpd(twos, zeros, batches=2, points=3, normalise=normalise)[0] == pytest.approx(
            fpd, rel=1e-6
        )
        assert m.kpd(twos, zeros, normalise=normalise) == pytest.approx((kpd, 0), abs=1e-9)
    curve = m.frechet_curve(zeros, zeros, batches=2, points=3)
    assert m.line_intercept(*curve) == (0, 0)
    assert m.jetnet_intercept(*curve)[0] == pytest.approx(0, abs=1e-4)  # its fit gets no nearer
    assert m.kpd(zeros, zeros) == (0, 0)


@pytest.fixture(scope="module")
def features():
    return m.efps(toy_jets(900, 12)), m.efps(toy_jets(800, 12, seed=1, width=0.12))


def test_fpd_with_jetnets_draws(features, jetnet):
    expected = jetnet.fpd(
        *(f.numpy() for f in features),
        min_samples=300,
        max_samples=700,
        num_batches=4,
        num_points=5,
    )
    got = m.fpd(*features, min_samples=300, max_samples=700, batches=4, points=5)
    assert expected[0] > 1e-3
    assert got == pytest.approx(expected, rel=1e-6)


def test_fpds_fits():
    """Points on a line of intercept 3e-4: least squares finds it; jetnet's own fit stops more than 1e-4 above it."""
    sizes = (1 / np.linspace(1 / 10_000, 1 / 26_000, 10)).astype(int)
    distances = 3e-4 + 6 / sizes
    assert m.line_intercept(sizes, distances) == pytest.approx((3e-4, 0), abs=1e-12)
    value, error = m.jetnet_intercept(sizes, distances)
    assert 4e-4 < value < 5e-4 and 2e-5 < error < 1e-4
    noisy = distances + 1e-5 * np.random.default_rng(0).normal(size=10)
    line = linregress(1 / sizes, noisy)
    assert m.line_intercept(sizes, noisy) == pytest.approx(
        (line.intercept, line.intercept_stderr), rel=1e-6
    )
    assert m.line_intercept(sizes, 6 / sizes - 1e-4)[0] == pytest.approx(-1e-4)


def test_frechet_of_all_by_hand_and_where_the_extrapolation_is_blind(features):
    real = features[0]
    moved = real + 0.5 * real.abs().amax(0)  # every scaled mean by a half, the covariance stays
    assert m.frechet_of_all(real, moved) == pytest.approx(36 * 0.25, rel=1e-6)
    wild = real.clone()
    wild[:2] *= 3  # two wild jets of 900
    assert m.fpd(real, wild, batches=5)[0] < 1e-9 and m.frechet_of_all(real, wild) > 2e-3


def test_kpd_with_jetnets_draws(features, jetnet):
    expected = jetnet.kpd(*(f.numpy() for f in features), num_batches=4, batch_size=600)
    got = m.kpd(*features, batches=4, batch_size=600)
    assert expected[1] > 1e-6
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_fpd_and_kpd_of_small_samples(features):
    real, fake = features[0][:50], features[1]
    assert m.fpd(real, fake, batches=2) == m.fpd(
        real, fake, 20, 50, batches=2
    )  # 2/5 of the smaller sample
    assert m.kpd(real, fake) == m.kpd(real, fake, batch_size=50)
    with pytest.raises(ValueError, match="min_samples < max_samples"):
        m.fpd(real[:4], fake)
    with pytest.raises(ValueError, match="two jets"):
        m.kpd(real[:1], fake)


# --- FPND


def knn_graph(x, k, batch):
    """torch_cluster's: edges (from the k nearest of the same jet, to each particle), by brute force."""
    edges = []
    for jet in batch.unique():
        nodes = (batch == jet).nonzero()[:, 0]
        distance = (x[nodes, None].double() - x[None, nodes].double()).square().sum(2)
        distance.fill_diagonal_(math.inf)
        near = distance.argsort(dim=1, stable=True)[:, :k]
        edges.append(torch.stack([nodes[near].flatten(), nodes.repeat_interleave(k)]))
    return torch.cat(edges, 1)


class EdgeConv(nn.Module):
    """torch_geometric's, aggr="mean": mean over edges j -> i of nn([x_i, x_j − x_i])."""

    def __init__(self, nn, aggr):
        super().__init__()
        assert aggr == "mean"
        self.nn = nn

    def forward(self, x, edges):
        j, i = edges
        messages = self.nn(torch.cat([x[i], x[j] - x[i]], 1))
        total = torch.zeros(len(x), messages.shape[1]).index_add_(0, i, messages)
        return total / torch.bincount(i, minlength=len(x))[:, None]


def global_mean_pool(x, batch):
    return torch.stack([x[batch == jet].mean(0) for jet in batch.unique()])


@pytest.mark.parametrize("jet_type", ["g", "t"])
def test_fpnd_agrees_with_jetnets_network(jet_type, jetnet, monkeypatch):
    """jetnet's own ParticleNet and statistics, on plain stand-ins for the two compiled packages that it wants."""
    monkeypatch.setitem(sys.modules, "torch_cluster", types.SimpleNamespace(knn_graph=knn_graph))
    monkeypatch.setitem(sys.modules, "torch_geometric", types.SimpleNamespace())
    layers = types.SimpleNamespace(EdgeConv=EdgeConv, global_mean_pool=global_mean_pool)
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", layers)
    jets = toy_jets(70, 30, dtype=torch.float32)
    before = jets.clone()
    with pytest.warns(UserWarning, match="singular covariance"):
        got = m.fpnd(jets, jet_type)
    assert torch.equal(jets, before)
    monkeypatch.setattr(jetnet.logger, "disabled", True)
    expected = jetnet.fpnd(jets, jet_type, device="cpu", use_tqdm=False)
    assert expected > 10  # toy jets aren't JetNet's
    assert got == pytest.approx(expected, rel=1e-4)


def test_fpnd_says_what_it_cannot_do(monkeypatch):
    with pytest.raises(UserError, match="30 particles"):
        m.fpnd(toy_jets(10, 150), "t")
    with pytest.raises(UserError, match="types g, q, t"):
        m.fpnd(toy_jets(10, 30), "w")
    monkeypatch.setattr(m.importlib.util, "find_spec", lambda name: None)
    m._fpnd_files.cache_clear()
    with pytest.raises(UserError, match="the jetnet package ships: pip install jetnet"):
        m.fpnd(toy_jets(10, 30), "q")


# --- all of them


@pytest.fixture(scope="module")
def scores():
    return m.jet_metrics(toy_jets(100, 12), toy_jets(1100, 12, seed=1), seed=3)


def test_keys_say_protocol_and_size(scores):
    scores = dict(scores)
    for protocol in ("bootstrap5_100", "disjoint10_100"):
        for metric in (
            "w1m",
            "w1n",
            "w1sumpt",
            "w1p_eta",
            "w1p_phi",
            "w1p_pt",
            "w1p_mean",
            "w1p_paper",
            "w1efp_12",
            "w1efp_14",
            "w1efp_15",
            "w1efp_16",
            "w1efp_17",
            "w1efp_mean",
            "w1efp_paper",
        ):
            assert (
                scores.pop(f"{metric}_{protocol}") > 0
                and scores.pop(f"{metric}_{protocol}_err") > 0
            )
    with_error = ("fpd_40_100_of_100", "fpd_line_40_100_of_100", "kpd_10x100_of_100")
    assert set(scores) == {f"{key}_exact_100_1.1k" for key in ("w1m", "w1n", "w1sumpt")} | {
        f"{key}{end}" for key in with_error for end in ("", "_err")
    }


def test_a_single_batch_has_no_error_and_no_mean_that_errors_weight():
    real, fake = toy_jets(100, 12), toy_jets(150, 12, seed=1)
    scores = m.jet_metrics(real, fake, protocols=["disjoint10"])
    found = {key for key in scores if "_disjoint" in key}
    assert {key for key in found if key.startswith("w1p")} == {
        f"w1p_{name}_disjoint1_100" for name in ("eta", "phi", "pt", "mean")
    }
    assert not any("_err" in key or "_paper" in key for key in found)
    assert scores["w1m_disjoint1_100"] == m.w1m_disjoint(m.jet_mass(real), m.jet_mass(fake))[0]


def test_scores_are_those_of_the_parts(scores):
    real, fake = toy_jets(100, 12), toy_jets(1100, 12, seed=1)
    mass = m.jet_mass(real), m.jet_mass(fake)
    assert scores["w1m_exact_100_1.1k"] == pytest.approx(wasserstein_distance(*mass), rel=1e-9)
    got = scores["w1m_disjoint10_100"], scores["w1m_disjoint10_100_err"]
    assert got == pytest.approx(m.w1m_disjoint(*mass))
    sums = [
        wasserstein_distance(real[..., 2].sum(1), fake[i : i + 100, :, 2].sum(1))
        for i in range(0, 1000, 100)
    ]
    assert scores["w1sumpt_disjoint10_100"] == pytest.approx(np.mean(sums), abs=1e-12)
    n = [
        wasserstein_distance(real[..., 2].gt(0).sum(1), fake[i : i + 100, :, 2].gt(0).sum(1))
        for i in range(0, 1000, 100)
    ]
    assert scores["w1n_disjoint10_100"] == pytest.approx(np.mean(n))
    draws = m.bootstrap(100, 1100, 100, np.random.default_rng(3))
    eta, phi, pt = values = m.w1p(real, fake, draws).mean(0)
    assert scores["w1p_phi_bootstrap5_100"] == pytest.approx(phi.item())
    assert scores["w1p_mean_bootstrap5_100"] == pytest.approx(values.mean().item())
    features = m.efps(real), m.efps(fake[:100])
    curve = m.frechet_curve(*features, seed=45)
    for key, fit in (("fpd", m.jetnet_intercept), ("fpd_line", m.line_intercept)):
        key = f"{key}_40_100_of_100"
        assert (scores[key], scores[f"{key}_err"]) == pytest.approx(fit(*curve), rel=1e-6)
    assert scores["kpd_10x100_of_100"] == pytest.approx(m.kpd(*features, seed=45)[0], rel=1e-9)
    efp_draws = m.bootstrap(100, 100, 100, np.random.default_rng(3))  # the first 100 fakes
    efp = m.w1(features[0][:, [17]].T, features[1][:, [17]].T, efp_draws)
    assert scores["w1efp_17_bootstrap5_100"] == pytest.approx(efp.mean().item())


def test_same_jets_have_distance_zero_but_not_by_the_bootstrap():
    jets = toy_jets(200, 12)
    scores = m.jet_metrics(jets, jets.flip(0), protocols=["bootstrap5"])
    assert all(scores[f"{key}_exact_200_200"] == 0 for key in ("w1m", "w1n", "w1sumpt"))
    assert scores["w1m_bootstrap5_200"] > 1e-4
    assert not any("disjoint" in key for key in scores)
    other_seed = m.jet_metrics(jets, jets.flip(0), protocols=["bootstrap5"], seed=1)
    assert other_seed["w1m_bootstrap5_200"] != scores["w1m_bootstrap5_200"]
    assert scores == m.jet_metrics(jets, jets.flip(0), protocols=["bootstrap5"])


def test_large_samples_get_jetnets_fpd_too(monkeypatch):
    monkeypatch.setattr(m, "frechet_curve", lambda x, y, low, high, seed: (low, high))
    monkeypatch.setattr(m, "jetnet_intercept", lambda low, high: (low, high))
    monkeypatch.setattr(m, "line_intercept", lambda low, high: (-low, high))
    monkeypatch.setattr(m, "kpd", lambda x, y, seed: (0, 0))
    monkeypatch.setattr(m, "fpnd", lambda particles, jet_type: len(particles))
    few = toy_jets(26_000, 3, dtype=torch.float32)
    scores = m.jet_metrics(few, few[:25_600], protocols=[], fpnd_type="t")
    assert (scores["fpd_20k_50k_of_25.6k"], scores["fpd_20k_50k_of_25.6k_err"]) == (20_000, 50_000)
    assert (scores["fpd_line_10k_25.6k_of_25.6k"], scores["fpd_10k_25.6k_of_25.6k_err"]) == (
        -10_000,
        25_600,
    )
    assert scores["kpd_10x5k_of_25.6k"] == 0 and scores["fpnd_t_25.6k"] == 25_600


def test_bad_jets_and_protocols():
    jets = toy_jets(20, 5)
    for bad, match in (
        (jets[..., :2], "must be"),
        (jets[:5], "ten jets"),
        (jets / 0, "the fake jets have features"),
    ):
        with pytest.raises(ValueError, match=match):
            m.jet_metrics(jets, bad)
    with pytest.raises(ValueError, match="unknown protocol bootstrap"):
        m.jet_metrics(jets, jets, protocols=["bootstrap"])


def test_jets_whose_efps_overflow_are_counted_and_the_first_is_named():
    jets = toy_jets(20, 5, dtype=torch.float32)
    wild = jets.clone()
    wild[3, :2] = torch.tensor([[0.1, 0, 1e9], [0, 0, 1e9]])
    wild[7, 0, 0] = 1e30
    with pytest.raises(UserError, match="2 of the fake jets .* overflow, the first is number 3: "):
        m.jet_metrics(jets, wild)
    with pytest.raises(UserError, match="2 of the real jets .* overflow, the first is number 3: "):
        m.jet_metrics(wild, jets)
