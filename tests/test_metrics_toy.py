"""Toy data and its metrics against closed forms and counts made by hand."""

import math

import pytest
import torch

from common.cli import UserError
from common.rng import step_rng
from common.metrics import count_tag, find_metric
from common.toys import MIXTURES, mixture
from common.metrics.toy import mmd2, mmd2s, mode_metrics, toy_metrics

T = torch.tensor


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- data


def test_recipes():
    ring, grid = mixture("8gaussians"), mixture("25gaussians")
    assert ring.centres.shape == (8, 2) and grid.centres.shape == (25, 2)
    assert torch.allclose(
        ring.centres.norm(dim=1), torch.full((8,), 2 / 1.414, dtype=torch.float64)
    )
    assert ring.sd == pytest.approx(0.0141443, rel=1e-5) and grid.sd == pytest.approx(
        0.0176803, rel=1e-5
    )
    gaps = torch.cdist(ring.centres, ring.centres) + 9 * torch.eye(8)
    assert torch.allclose(
        gaps.min(1).values, torch.full((8,), 2 * 2 / 1.414 * math.sin(math.pi / 8)).double()
    )
    assert sorted(set(grid.centres.mul(2.828).round().flatten().tolist())) == [-4, -2, 0, 2, 4]
    assert len(set(map(tuple, grid.centres.tolist()))) == 25


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_have_unit_scale_and_the_modes_they_say(name):
    data = mixture(name)
    x, y = data.sample(20_000, rng())
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.allclose(x.std(0), torch.ones(2), atol=0.02)
    residual = x - data.centres[y].float()
    assert residual.std().item() == pytest.approx(data.sd, rel=0.02)
    K = len(data.centres)
    assert torch.bincount(y, minlength=K).div(20_000 / K).sub(1).abs().max() < 0.15


def test_batches_depend_on_seed_and_step_alone_and_not_on_a_steps_noise():
    data = mixture("8gaussians")
    a = data.batch(5, 64, 0)
    torch.manual_seed(1)
    b = data.batch(5, 64, 0)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(a[0], data.batch(6, 64, 0)[0]) and not torch.equal(
        a[0], data.batch(5, 64, 1)[0]
    )
    assert not torch.equal(data.batch(5, 64, 0)[0], data.sample(64, step_rng(0, 5))[0])
    assert data.batch(5, 64, -3)[0].shape == (64, 2)


def test_an_unknown_mixture_is_refused():
    with pytest.raises(UserError, match="9gaussians"):
        mixture("9gaussians")


# --- MMD²


@pytest.mark.parametrize("d, s", [(0.5, 1.0), (2.0, 0.7), (3.0, 2.0)])
def test_mmd2_of_two_point_masses(d, s):
    x, y = torch.zeros(6, 2), T([[d, 0.0]]).expand(4, 2)
    for unbiased in (False, True):
        assert mmd2(x, y, s, unbiased) == pytest.approx(
            2 - 2 * math.exp(-(d**2) / (2 * s**2)), abs=1e-12
        )


def test_mmd2_by_hand():
    x, y = T([[0.0], [1.0]]), T([[0.0], [2.0], [2.0]])
    a, b = math.exp(-0.5), math.exp(-2)  # k at distances 1 and 2, s = 1
    cross = (1 + 2 * b + 3 * a) / 6
    assert mmd2(x, y, 1.0, False) == pytest.approx(
        (2 + 2 * a) / 4 + (5 + 4 * b) / 9 - 2 * cross, abs=1e-12
    )
    assert mmd2(x, y, 1.0, True) == pytest.approx(a + (1 + 2 * b) / 3 - 2 * cross, abs=1e-12)


def test_unbiased_mmd2_of_one_distribution_has_mean_zero_the_biased_one_has_not():
    data = mixture("8gaussians")
    pairs = [(data.sample(50, rng(i))[0], data.sample(50, rng(1000 + i))[0]) for i in range(200)]
    unbiased = T([mmd2(x, y, 1.0, True) for x, y in pairs])
    biased = T([mmd2(x, y, 1.0, False) for x, y in pairs])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / math.sqrt(200) and unbiased.min() < 0
    assert biased.mean() > 0.02 and biased.min() > 0


@pytest.mark.parametrize(
    "name, kept",
    [
        ("8gaussians", [0]),
        ("8gaussians", [0, 4]),
        ("8gaussians", [0, 2, 4, 6]),
        ("8gaussians", [0, 1, 2, 3, 4, 5, 6]),
        ("25gaussians", list(range(15))),
    ],
)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_mmd2_of_dropped_modes_against_the_closed_form(name, kept, s):
    """E k(a, b) over a ~ N(u, σ²I), b ~ N(v, σ²I) in the plane: s²/(s² + 2σ²) exp(−|u − v|²/2(s² + 2σ²))."""
    data = mixture(name)
    v = s**2 + 2 * data.sd**2

    def expected(a, b):
        return (s**2 / v * (-torch.cdist(a, b).square() / (2 * v)).exp()).mean().item()

    some, all_ = data.centres[kept], data.centres
    exact = expected(some, some) + expected(all_, all_) - 2 * expected(some, all_)
    x, y = data.sample(12_000, rng(1))
    x = x[torch.isin(y, T(kept))][:1500]
    assert mmd2(x, data.sample(1500, rng(2))[0], s, True) == pytest.approx(
        exact, abs=0.02 if s < 1 else 0.01
    )


def test_a_wide_kernel_does_not_see_that_every_second_mode_is_missing():
    data = mixture("8gaussians")
    x, y = data.sample(4000, rng(1))
    half = x[y % 2 == 0]
    real = data.sample(len(half), rng(2))[0]
    assert mmd2(half, real, 2.0, True) < 0.002 < 0.01 < mmd2(half, real, 1.0, True)
    assert mode_metrics(half, data)["modes"] == 4


def test_mmd2_in_blocks_in_float64_and_for_several_bandwidths_at_once():
    x, y = torch.randn(1100, 2, generator=rng(1)), torch.randn(700, 2, generator=rng(2))
    k = lambda a, b: (
        (-(a[:, None].double() - b[None].double()).square().sum(-1) / (2 * 0.5**2)).exp().mean()
    )
    expected = (k(x, x) + k(y, y) - 2 * k(x, y)).item()
    assert mmd2(x, y, 0.5, False) == pytest.approx(expected, abs=1e-13)
    both = mmd2s(x, y, [0.5, 2.0])
    assert both[2.0]["unbiased"] == mmd2(x, y, 2.0, True) and both[0.5]["biased"] == mmd2(
        x, y, 0.5, False
    )


def test_mmd2_refuses_a_single_point():
    with pytest.raises(ValueError, match="two samples"):
        mmd2(torch.zeros(1, 2), torch.zeros(5, 2), 1.0, True)


# --- modes


def test_alis_grid_is_not_divided():
    grid, ours = mixture("25gaussians", standardised=False), mixture("25gaussians")
    assert grid.sd == 0.05 and {tuple(c) for c in grid.centres.tolist()} == {
        (x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)
    }
    assert torch.allclose(ours.centres * 2.828, grid.centres) and ours.sd * 2.828 == pytest.approx(
        0.05
    )
    assert mixture("8gaussians", standardised=False).centres[0].tolist() == [2.0, 0.0]


def test_mode_metrics_by_hand():
    data = mixture("8gaussians")
    centres, sd = data.centres, data.sd
    at = lambda mode, n, off=0.0: (centres[mode] + T([off, 0.0])).expand(n, 2)
    # of 100: 60 on mode 0, 2 on mode 1 (its fair share is 12.5, a tenth of it 1.25), 1 on mode 2,
    # 30 beside mode 3 (4 sd off), 7 on mode 4, 2.9 sd off
    samples = torch.cat([at(0, 60), at(1, 2), at(2, 1), at(3, 30, 4 * sd), at(4, 7, -2.9 * sd)])
    found = mode_metrics(samples, data)
    assert (
        found["modes"] == 3
        and found["modes_hit"] == 5
        and found["high_quality"] == pytest.approx(0.70)
    )
    shares = [0.6, 0.02, 0.01, 0.3, 0.07]
    assert found["mode_kl"] == pytest.approx(sum(p * math.log(8 * p) for p in shares), abs=1e-12)


def test_mode_metrics_of_the_data_of_collapse_and_of_rubbish():
    for name in MIXTURES:
        data = mixture(name)
        K = len(data.centres)
        found = mode_metrics(data.sample(10_000, rng())[0], data)
        assert found["modes"] == K and found["mode_kl"] < 0.01
        assert found["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.005)
        collapsed = mode_metrics(data.centres[:1].expand(50, 2), data)
        assert collapsed == {
            "modes": 1,
            "modes_hit": 1,
            "high_quality": 1.0,
            "mode_kl": pytest.approx(math.log(K)),
        }
        assert mode_metrics(torch.full((50, 2), 9.0), data)["modes"] == 0


def test_keys_name_bandwidth_estimator_and_count():
    data = mixture("25gaussians")
    found = toy_metrics(data.sample(500, rng(3))[0], data, bandwidths=(0.5, 1.0))
    assert set(found) == {
        "mmd2_biased_s0.5_500",
        "mmd2_unbiased_s0.5_500",
        "mmd2_biased_s1_500",
        "mmd2_unbiased_s1_500",
        "modes_500",
        "modes_hit_500",
        "high_quality_500",
        "mode_kl_500",
    }
    assert abs(found["mmd2_unbiased_s1_500"]) < 0.01
    assert find_metric(found, "modes") == found["modes_500"]
    assert find_metric(found, "mmd2_biased_s0.5") == found["mmd2_biased_s0.5_500"]
    metrics = {
        "fid_per_class_lenet_2.5k_test": 1,
        "fid_inception_tf_10k_test": 2,
        "1nn_E_60k_10k": 3,
    }
    found = [
        find_metric(metrics, what, None) for what in ("fid", "fid_per_class", "1nn_E", "1nn", "is")
    ]
    assert found == [2, 1, 3, None, None]
    assert [count_tag(n) for n in (10_000, 2500, 1234, 500)] == ["10k", "2.5k", "1234", "500"]
