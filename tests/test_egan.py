"""E-GAN: mutations, fitness and Algorithm 1 by hand and against a plain GAN; the population's three versions."""

import contextlib
import copy
import json
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from common.cli import UserError
from common.rng import step_rng
from common.runs import read_log
from common.metrics.images import Tracker
from common.toys import mixture
from common.metrics.toy import mmd2
from egan import eval as egan_eval
from egan import curves as egan_curves
from egan import reproduce, tables, train
from egan import samples as egan_samples
from egan.model import (
    MUTATIONS,
    ConvDiscriminator,
    ConvGenerator,
    ToyDiscriminator,
    ToyGenerator,
    clip_weights,
    discriminator_loss,
    diversity_fitness,
    diversity_fitness_of,
    fitness,
    gradient_penalty,
    heuristic,
    least_squares,
    minimax,
    quality_fitness,
    select,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)
from egan.population import MOMENTS, POPULATIONS, Batch, Loop, SharedLoop, evaluate_each, set_adam
from tests.helpers import check_tables_outlive_runs, write_log

T = torch.tensor
LN2 = math.log(2)
ALL = list(MUTATIONS.values())
VERSIONS = [Loop, SharedLoop, Batch]


def adam(params, lr=1e-3):
    return torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999))


def count(net):
    return sum(p.numel() for p in net.parameters())


def logit(p):
    return T(p, dtype=torch.float64).logit()


# --- equations


def test_mutations_and_L_D_by_hand():
    l = logit([0.5, 0.2])
    assert minimax(l).item() == pytest.approx((math.log(0.5) + math.log(0.8)) / 2)
    assert heuristic(l).item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert least_squares(l).item() == pytest.approx((0.25 + 0.64) / 2)
    fake_part = -(math.log(0.5) + math.log(0.8)) / 2
    assert discriminator_loss(logit([0.9]), l).item() == pytest.approx(-math.log(0.9) + fake_part)
    assert discriminator_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(2 * LN2)


@pytest.mark.parametrize("D", [0.01, 0.3, 0.5, 0.98])
def test_gradients_of_the_mutations(D):
    """On the logit, with s = sigmoid(l): minimax −s, heuristic −(1 − s), least squares 2(s − 1)s(1 − s)."""
    for M, expected in (
        (minimax, -D),
        (heuristic, -(1 - D)),
        (least_squares, 2 * (D - 1) * D * (1 - D)),
    ):
        l = logit([D]).requires_grad_()
        assert torch.autograd.grad(M(l), l)[0].item() == pytest.approx(expected)


def test_mutations_work_on_the_last_axis_and_survive_huge_logits():
    l = torch.randn(4, 3, 5)
    for M in (*ALL, quality_fitness):
        assert torch.allclose(
            M(l), torch.stack([torch.stack([M(row) for row in block]) for block in l])
        )
        assert M(T([1e4, -1e4])).isfinite()


def test_optimal_discriminator_of_equal_and_of_unequal_distributions():
    """D* = p/(p + q) gives L_D = 2 log 2 − 2 JSD(p, q), and minimax's game value is −log 4 where p = q."""
    p, q = [3, 1], [1, 3]  # counts on two points
    D = [n / (n + k) for n, k in zip(p, q)]
    real, fake = logit([D[0]] * 3 + [D[1]]), logit([D[0]] + [D[1]] * 3)
    jsd = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(
        0.25 / 0.5
    )  # of (¾, ¼) and (¼, ¾): both halves equal
    assert discriminator_loss(real, fake).item() == pytest.approx(2 * LN2 - 2 * jsd)
    half = logit([0.5] * 4)
    assert -discriminator_loss(half, half).item() == pytest.approx(-math.log(4))
    assert quality_fitness(half).item() == 0.5


def test_quality_is_a_probability():
    assert quality_fitness(logit([0.2, 0.6])).item() == pytest.approx(0.4)
    assert quality_fitness(T([40.0])) <= 1 and quality_fitness(T([-40.0])) >= 0


def test_diversity_is_minus_log_of_the_norm_and_not_of_its_square():
    assert diversity_fitness(T(math.e**6)).item() == pytest.approx(-3)  # ‖∇‖² = e⁶
    assert 43 < diversity_fitness(T(0.0)).item() < 44  # D has won: bounded


def test_fitness_and_selection():
    F = fitness(T([0.1, 0.5, 0.3]), T([2.0, -1.0, 0.0]), 0.5)
    assert F.tolist() == pytest.approx([1.1, 0.0, 0.3])
    assert select(F, 2).tolist() == [0, 2]
    assert select(T([0.5, 0.7, 0.7, 0.1]), 3).tolist() == [1, 2, 0]  # ties: the first stays first


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "F, mu, places",
    [
        ([0.5, NAN, 0.7], 1, [2]),
        ([NAN, 0.1, INF, -INF, 0.2], 2, [4, 1]),
        ([0.5, NAN, 0.7, NAN], 3, [2, 0, 2]),
        ([NAN, -1e30, NAN], 2, [1, 1]),
    ],
)
def test_a_child_without_a_finite_fitness_is_never_selected(F, mu, places):
    """Fewer healthy children than μ take the places in turn, fittest first."""
    assert select(T(F), mu).tolist() == places


def test_selection_among_none_is_refused():
    with pytest.raises(ValueError, match="no child"):
        select(T([NAN, INF]), 1)


def test_without_gamma_an_infinite_diversity_does_not_matter():
    assert fitness(T([0.4, 0.2, 0.1]), T([0.0, -INF, NAN]), 0.0).tolist() == pytest.approx(
        [0.4, 0.2, 0.1]
    )
    assert not fitness(T([0.4]), T([NAN]), 0.5).isfinite()


def test_diversity_of_a_gradient_whose_square_overflows():
    """Two children; one's Σ (∂L_D/∂w)² is beyond float32. Norms 5 and 5e30."""
    gradient = [T([[3.0, 0.0], [3e30, 0.0]]), T([[4.0], [4e30]])]
    assert gradient[0].square().isinf().any()
    assert diversity_fitness_of(gradient).tolist() == pytest.approx(
        [-math.log(5), -math.log(5) - 30 * math.log(10)]
    )
    assert diversity_fitness_of([torch.zeros(1, 3)]).item() == diversity_fitness(T(0.0)).item()
    assert not diversity_fitness_of([T([[1.0, INF], [1.0, NAN]])]).isfinite().any()


def test_the_wasserstein_baseline_by_hand():
    assert wasserstein_generator_loss(T([1.0, -4.0])).item() == 1.5
    assert wasserstein_discriminator_loss(T([1.0, 2.0]), T([5.0])).item() == 3.5
    D = ToyDiscriminator(8)
    clip_weights(D, 0.01)
    assert max(p.abs().max() for p in D.parameters()).item() == pytest.approx(0.01)


class Linear(nn.Sequential):
    """D(x) = sigmoid(w·x)."""

    def __init__(self, w):
        super().__init__(nn.Linear(len(w), 1, bias=False), nn.Flatten(0))
        self[0].weight.data = T([w], dtype=torch.float64)


def test_gradient_penalty_of_linear_and_constant_discriminators():
    x, g = torch.randn(2, 6, 2, dtype=torch.float64)
    for u in (torch.zeros(6), torch.rand(6)):
        assert gradient_penalty(Linear([3.0, 4.0]), x, g, u).item() == pytest.approx(16)  # (5 − 1)²
        assert gradient_penalty(Linear([0.0, 0.0]), x, g, u).item() == pytest.approx(1)


def test_gradient_penalty_is_taken_between_each_pair_at_its_own_u_and_differentiable():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(T(0.5))

        def forward(self, x):
            return self.a * x.square().sum(1)  # gradient 2 a x

    D, u = Square(), T([0.25, 1.0])
    x, g = T([[4.0, 0.0], [0.0, 3.0]]), T([[0.0, 0.0], [9.0, 9.0]])
    penalty = gradient_penalty(D, x, g, u)  # x̂: (1, 0), (0, 3); norms 1, 3
    assert penalty.item() == pytest.approx((0 + 4) / 2)
    penalty.backward()
    assert D.a.grad.item() == pytest.approx((2 * 0 * 2 + 2 * 2 * 6) / 2)


# --- networks


def test_toy_networks():
    G, D = ToyGenerator(), ToyDiscriminator()
    hidden = 2 * (512 * 512 + 512)
    assert count(G) == 2 * 512 + 512 + hidden + 512 * 2 + 2
    assert count(D) == 2 * 512 + 512 + hidden - 512 + 512 + 1 + 2 * 512  # no bias before BatchNorm
    assert count(ToyDiscriminator(norm="none")) == count(D) - 512
    assert G(torch.rand(5, 2)).shape == (5, 2) and D(torch.rand(5, 2)).shape == (5,)
    assert G[2].weight.std().item() == pytest.approx(0.02, rel=0.02) and G[2].bias.abs().sum() == 0
    assert ToyGenerator(init="he")[2].weight.std().item() == pytest.approx(
        math.sqrt(2 / 512), rel=0.02
    )


@pytest.mark.parametrize("size, top", [(32, 512), (64, 1024)])
def test_image_networks(size, top):
    with torch.device("meta"):  # shapes alone: these networks are large
        G, D = ConvGenerator(100, size, 3, 128), ConvDiscriminator(size, 3, 128)
    assert G[0].out_features == top * 16 and D[-2].in_features == top * 16
    x = G(torch.rand(2, 100, device="meta"))
    assert x.shape == (2, 3, size, size) and D(x).shape == (2,) and isinstance(G[-1], nn.Tanh)
    norms = [m for m in D if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == int(math.log2(size / 4)) - 1 and not isinstance(D[1], nn.BatchNorm2d)
    if size == 32:
        conv = lambda a, b: a * b * 16
        assert (
            count(G) == 101 * 8192 + conv(512, 256) + 256 + conv(256, 128) + 128 + conv(128, 3) + 3
        )


def test_batchnorm_of_D_keeps_nothing():
    for D in (ToyDiscriminator(8), ConvDiscriminator(16, 1, 4)):
        assert not list(D.buffers())
        x = torch.randn(6, 2) if isinstance(D, ToyDiscriminator) else torch.randn(6, 1, 16, 16)
        assert torch.equal(D.train()(x), D.eval()(x))


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="28 is not"):
        ConvGenerator(size=28)


# --- populations


def toy_population(Version, mu=2, width=8, seed=0):
    torch.manual_seed(seed)
    networks = [ToyGenerator(2, width, "he").double() for _ in range(mu)]
    D = ToyDiscriminator(width, "batch", "he").double()
    return Version(networks, adam), D, networks


def rows(population):
    """One dict a row: parameters, moments, step."""
    state = copy.deepcopy(population.state_dict())
    return [
        {"step": state["step"]}
        | {f"{kind}.{n}": t[r] for kind in ("params", *MOMENTS) for n, t in state[kind].items()}
        for r in range(len(population))
    ]


def same(a, b):
    return all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)


def close(a, b):
    return all(
        torch.allclose(
            torch.as_tensor(a[k]).double(), torch.as_tensor(b[k]).double(), rtol=1e-8, atol=1e-11
        )
        for k in a
    )


def noise(*shape):
    return (
        torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2
        - 1
    )


def step_once(population, D, n_m=3, places=(4, 0)):
    children = population.offspring(n_m)
    children.mutate(D, noise(len(children), 16), ALL[:n_m])
    return children.survivors(T(places))


@pytest.mark.parametrize("Version", VERSIONS)
def test_children_start_from_their_parent_with_its_adam_state_and_leave_it_alone(Version):
    population, D, _ = toy_population(Version)
    population = step_once(population, D)  # so that there are moments
    before = rows(population)
    assert before[0]["step"] == 1 and not same(before[0], before[1])
    children = population.offspring(3)
    assert all(same(row, before[r // 3]) for r, row in enumerate(rows(children)))
    children.mutate(D, noise(6, 16), ALL)
    mutated = rows(children)
    assert all(same(a, b) for a, b in zip(rows(population), before)), "a parent has moved"
    assert (
        all(not same(mutated[i], mutated[j]) for i in range(6) for j in range(i))
        and mutated[0]["step"] == 2
    )


@pytest.mark.parametrize("Version", VERSIONS)
def test_each_child_is_one_adam_step_on_its_own_mutation_from_its_parent(Version):
    population, D, networks = toy_population(Version)
    networks = copy.deepcopy(networks)
    z = noise(6, 16)
    children = population.offspring(3)
    losses = children.mutate(D, z, ALL)
    for r, row in enumerate(rows(children)):
        G = copy.deepcopy(networks[r // 3])
        opt = adam(G.parameters())
        D_of_G = torch.sigmoid(D(G(z[r])))
        loss = [-D_of_G.log().mean(), (1 - D_of_G).log().mean(), (D_of_G - 1).square().mean()][
            r % 3
        ]
        assert losses[r].item() == pytest.approx(loss.item(), rel=1e-6)
        loss.backward()
        opt.step()
        for name, p in G.named_parameters():
            assert torch.allclose(row[f"params.{name}"], p, rtol=1e-7, atol=1e-9), (r, name)


@pytest.mark.parametrize("Version", VERSIONS)
def test_survivors_keep_their_weights_moments_and_step_in_the_order_given(Version):
    population, D, _ = toy_population(Version)
    children = population.offspring(3)
    children.mutate(D, noise(6, 16), ALL)
    before = rows(children)
    found = rows(children.survivors(T([4, 1])))
    assert len(found) == 2 and same(found[0], before[4]) and same(found[1], before[1])


@pytest.mark.parametrize("Version", VERSIONS)
def test_fitness_by_hand(Version):
    """D = sigmoid(w·x): ∇_w L_D = −E (1 − D(x)) x + E D(G(z)) G(z)."""
    population, _, networks = toy_population(Version)
    D, x, z = Linear([0.7, -1.3]), noise(5) + 1, noise(7)
    F_q, F_d = population.evaluate(D, x, z)
    for r, G in enumerate(networks):
        g = G(z).detach()
        w = T([0.7, -1.3], dtype=torch.float64)
        s_x, s_g = torch.sigmoid(x @ w), torch.sigmoid(g @ w)
        gradient = -((1 - s_x)[:, None] * x).mean(0) + (s_g[:, None] * g).mean(0)
        assert F_q[r].item() == pytest.approx(s_g.mean().item(), rel=1e-5)
        assert F_d[r].item() == pytest.approx(-math.log(gradient.norm()), rel=1e-5)


@pytest.mark.parametrize("Version", VERSIONS)
def test_variation_and_evaluation_leave_D_untouched(Version):
    population, D, _ = toy_population(Version)
    for p in D.parameters():
        p.grad = torch.full_like(p, 0.25)
    before = copy.deepcopy(D.state_dict())
    children = population.offspring(3)
    children.mutate(D, noise(6, 16), ALL)
    F_q, F_d = children.evaluate(D, noise(9), noise(9))
    assert not F_q.requires_grad and not F_d.requires_grad
    assert all(torch.equal(t, before[n]) for n, t in D.state_dict().items())
    assert all(
        p.requires_grad and torch.equal(p.grad, torch.full_like(p, 0.25)) for p in D.parameters()
    )


def make_sick(population, r, value=NAN):
    """One weight of individual r is no number any more."""
    if isinstance(population, Batch):
        weights = next(iter(population.params.values())).data[r]
    else:
        weights = next(population.individuals[r][0].parameters()).data
    weights.view(-1)[0] = value


def image_population(Version, width, mu=1):
    torch.manual_seed(0)
    networks = [ConvGenerator(4, 16, 1, width, "he") for _ in range(mu)]
    return Version(networks, adam), ConvDiscriminator(16, 1, width, init="he"), networks


@pytest.mark.parametrize("Version", VERSIONS)
@pytest.mark.parametrize("kind", ["toy", "image 4", "image 16"])
def test_a_sick_child_leaves_its_siblings_and_D_alone(Version, kind):
    found = []
    for sick in (False, True):
        if kind == "toy":
            population, D, _ = toy_population(Version, mu=1)
            z, x = noise(3, 8), noise(8)
        else:
            population, D, _ = image_population(Version, int(kind.split()[1]))
            rng = torch.Generator().manual_seed(0)
            z, x = torch.rand(3, 8, 4, generator=rng), torch.rand(8, 1, 16, 16, generator=rng)
        D_before = copy.deepcopy(D.state_dict())
        children = population.offspring(3)
        if sick:
            make_sick(children, 1)
        losses = children.mutate(D, z, ALL)
        found.append((losses, *children.evaluate(D, x, z[0]), rows(children)))
        assert children.healthy().tolist() == [True, not sick, True]
        assert all(torch.equal(t, D_before[name]) for name, t in D.state_dict().items())
    (losses, F_q, F_d, weights), (losses_there, F_q_there, F_d_there, weights_there) = found
    for r in (0, 2):
        assert losses[r] == losses_there[r] and F_q[r] == F_q_there[r] and F_d[r] == F_d_there[r]
        assert same(weights[r], weights_there[r])
    assert (
        F_q_there[1].isnan()
        and select(fitness(F_q_there, F_d_there, 0.5), 3).tolist().count(1) == 0
    )


@pytest.mark.parametrize("Version", VERSIONS)
@pytest.mark.parametrize("kind", ["params", *MOMENTS])
def test_health_is_of_all_weights_and_all_moments(Version, kind):
    population, D, _ = toy_population(Version)
    population = step_once(population, D)
    assert population.healthy().tolist() == [True, True]
    state = copy.deepcopy(population.state_dict())
    state[kind]["6.bias"][1, -1] = INF  # the last number of all
    population.load_state_dict(state)
    assert population.healthy().tolist() == [True, False]


def test_moments_are_copies_in_the_memory_format_of_their_weight():
    """Else fused Adam gives one weight's moments to another."""
    p = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    moments = {m: {"w": torch.rand(4, 3, 2, 2)} for m in MOMENTS}
    opt = adam([p])
    set_adam(opt, {"w": p}, moments, 3.0)
    assert opt.state[p]["step"] == 3
    for m in MOMENTS:
        kept = opt.state[p][m]
        assert torch.equal(kept, moments[m]["w"]) and kept.stride() == p.stride()
        assert not kept.requires_grad and kept.data_ptr() != moments[m]["w"].data_ptr()


@pytest.mark.parametrize("Version", VERSIONS)
def test_twins_have_weights_of_their_own(Version):
    population, D, _ = toy_population(Version)
    population = step_once(population, D, places=(3, 3))
    twins = rows(population)
    assert same(twins[0], twins[1])
    children = population.offspring(3)
    children.mutate(D, noise(6, 16), ALL)
    grown = rows(children)
    assert not same(grown[0], grown[3]) and same(rows(population)[0], twins[0])


def evolve(population, D, make_z, x, mu, generations=4, n_m=3):
    """Algorithm 1 in short: returns selected places and fitness of each generation."""
    opt_D, history = adam(D.parameters()), []
    for t in range(generations):
        rng = torch.Generator().manual_seed(t)
        fake = population.sample(make_z(rng, mu, 8 // mu)).flatten(0, 1)
        opt_D.zero_grad()
        discriminator_loss(D(x), D(fake)).backward()
        opt_D.step()
        children = population.offspring(n_m)
        children.mutate(D, make_z(rng, mu * n_m, 8), ALL[:n_m])
        F = fitness(*children.evaluate(D, x, make_z(rng, 12)), 0.5)
        places = select(F, mu)
        history.append((places.tolist(), F))
        population = children.survivors(places)
    return population, history


@pytest.mark.parametrize("mu", [1, 2, 4])
@pytest.mark.parametrize("kind", ["toy", "image"])
def test_all_versions_give_the_same_trajectory(mu, kind):
    found = {}
    for Version in VERSIONS:
        torch.manual_seed(5)
        if kind == "toy":
            networks, D = (
                [ToyGenerator(2, 8, "he") for _ in range(mu)],
                ToyDiscriminator(8, "batch", "he"),
            )
            n_z, x = 2, torch.randn(8, 2)
        else:
            networks, D = (
                [ConvGenerator(4, 16, 1, 4, "he") for _ in range(mu)],
                ConvDiscriminator(16, 1, 4, init="he"),
            )
            n_z, x = 4, torch.randn(8, 1, 16, 16)

        def make_z(rng, *shape):
            return torch.rand(*shape, n_z, generator=rng, dtype=torch.float64) * 2 - 1  # noqa: B023

        population = Version([G.double() for G in networks], adam)
        population, history = evolve(population, D.double(), make_z, x.double(), mu)
        found[Version] = rows(population), history
    reference, history = found[Loop]
    assert len({h % 3 for places, _ in history for h in places}) > 1  # more than one mutation wins
    for Version in VERSIONS[1:]:
        for (places, F), (places_there, F_there) in zip(history, found[Version][1]):
            assert places == places_there and torch.allclose(F, F_there, atol=1e-6)
        assert all(close(a, b) for a, b in zip(reference, found[Version][0]))


@pytest.mark.parametrize("Version", VERSIONS)
@pytest.mark.parametrize("Other", VERSIONS)
def test_states_pass_from_version_to_version(Version, Other):
    population, D, _ = toy_population(Version)
    population = step_once(population, D)
    state = copy.deepcopy(population.state_dict())
    other, D2, _ = toy_population(Other, seed=9)
    D2.load_state_dict(D.state_dict())
    other.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(rows(other), rows(population)))
    step_once(other, D2)
    now = population.state_dict()["params"]
    assert all(torch.equal(t, now[n]) for n, t in state["params"].items()), "they share memory"
    fresh, _, _ = toy_population(Other, seed=9)
    fresh.load_state_dict(toy_population(Version)[0].state_dict())  # before the first step
    assert rows(fresh)[0]["step"] == 0


# --- train.py


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Training draws nothing here: that takes longer than these runs' steps. The smoke test looks for its pictures."""
    monkeypatch.setattr(train, "draw_samples", lambda *a, **k: None)
    monkeypatch.setattr(train, "curves", lambda *a, **k: None)


SMALL = [
    "--smoke",
    "--width-g",
    "8",
    "--width-d",
    "8",
    "--init",
    "he",
    "--sample-every",
    "100",
    "--save-every",
    "100",
]


BF16 = ["--dataset", "synthetic", "--size", "16", "--z-dim", "8", "--amp", "bf16"]


def checkpoint(path):
    return torch.load(path / "last.pt", weights_only=True)


def test_defaults_are_the_papers():
    args = train.parse_args([])
    assert (
        dict(
            mu=1,
            mutations=["heuristic", "minimax", "least-squares"],
            gamma=0.5,
            n_d=1,
            batch_size=64,
            eval_batch=256,
            lr_g=1e-4,
            lr_d=1e-4,
            beta1=0.5,
            beta1_d=0.0,
            beta2=0.999,
            width_g=512,
            width_d=512,
            z_dim=2,
            gp=0.0,
            init="normal",
            d_norm="batch",
            steps=100_000,
            dataset="8gaussians",
            selection="fitness",
        ).items()
        <= vars(args).items()
    )
    images = train.parse_args(["--dataset", "cifar10"])
    assert (
        dict(
            batch_size=32,
            n_d=3,
            lr_g=2e-4,
            lr_d=2e-4,
            beta1_d=0.5,
            gamma=0.01,
            z_dim=100,
            width_g=128,
            size=32,
        ).items()
        <= vars(images).items()
    )


@pytest.mark.parametrize(
    "argv, what",
    [
        (["--mu", "3"], "can't be shared evenly by --mu 3"),
        (["--gp", "2"], "--d-norm none"),
        (["--quick", "--dataset", "cifar10"], "--quick is a toy"),
        (["--mutations", "wasserstein"], "needs a bounded D: --clip 0.01"),
        (["--mutations", "wasserstein", "minimax", "--clip", "1"], "leave the other mutations out"),
    ],
)
def test_mistakes_are_named(argv, what):
    with pytest.raises(UserError, match=what):
        train.parse_args(argv)


def test_more_processes_than_children_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert train.parse_args(["--mu", "2", "--mutations", "minimax", "heuristic"]).mu == 2
    with pytest.raises(UserError, match="^4 processes and 3 children: start 3 at most"):
        train.parse_args([])


RATES = ["--lr-g", "3e-4", "--lr-d", "7e-4", "--beta1", "0.3", "--beta1-d", "0.2", "--beta2", "0.9"]


@pytest.mark.parametrize(
    "version, n_d, mutation, flags",
    [
        *[("loop", 2, mutation, []) for mutation in MUTATIONS],
        *[("batch", 1, mutation, []) for mutation in MUTATIONS],
        ("loop", 2, "heuristic", ["--gp", "3"]),
        ("batch", 1, "wasserstein", ["--gp", "3"]),
        ("loop", 2, "wasserstein", ["--clip", "0.3"]),
    ],
)
def test_one_mutation_and_one_parent_is_the_plain_gan(tmp_path, mutation, version, n_d, flags):
    """Bitwise on the loop. The plain GAN is written out here with nothing of egan but the networks."""
    gp, clip = (float(flags[1]) if flags and flags[0] == flag else 0 for flag in ("--gp", "--clip"))
    norm = "none" if gp else "batch"
    argv = [
        *SMALL,
        *RATES,
        "--mutations",
        mutation,
        "--n-d",
        str(n_d),
        "--population",
        version,
        "--d-norm",
        norm,
        *flags,
        "--out",
        str(tmp_path / "r"),
        "--steps",
        "8",
    ]
    train.main(argv)
    state = checkpoint(tmp_path / "r")["state"]

    torch.manual_seed(0)
    G, D = ToyGenerator(2, 8, "he"), ToyDiscriminator(8, norm, "he")
    opt_G = torch.optim.Adam(G.parameters(), lr=3e-4, betas=(0.3, 0.9), fused=True)
    opt_D = torch.optim.Adam(D.parameters(), lr=7e-4, betas=(0.2, 0.9), fused=True)
    softplus = nn.functional.softplus  # log D = −softplus(−l), in the same rounding
    for t in range(1, 9):
        rng = step_rng(0, t)
        x = mixture("8gaussians").batch(t - 1, n_d * 8 + 16, 0)[0]
        for k in range(n_d):
            x_k = x[8 * k : 8 * k + 8]
            g = G(torch.rand(1, 8, 2, generator=rng)[0] * 2 - 1).detach()
            real, fake = D(x_k), D(g)
            loss = (
                fake.mean() - real.mean()
                if mutation == "wasserstein"
                else (softplus(-real).mean() + softplus(fake).mean())
            )
            if gp:
                u = torch.rand(8, generator=rng)[:, None]
                between = (g + u * (x_k - g)).requires_grad_()
                (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
                loss = loss + gp * ((slope.square().sum(1).sqrt() - 1) ** 2).mean()
            opt_D.zero_grad()
            loss.backward()
            opt_D.step()
            for p in D.parameters():
                p.data = p.data.clamp(-clip or -INF, clip or INF)
        l = D(G(torch.rand(1, 8, 2, generator=rng)[0] * 2 - 1))
        loss = {
            "heuristic": softplus(-l),
            "minimax": -softplus(l),
            "least-squares": (l.sigmoid() - 1) ** 2,
            "wasserstein": -l,
        }[mutation].mean()
        opt_G.zero_grad()
        loss.backward()
        opt_G.step()
    exact = version == "loop" and not gp
    compare = torch.equal if exact else lambda a, b: torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    for name, p in G.named_parameters():
        assert compare(state["population"]["params"][name][0], p), name
        assert compare(state["population"]["exp_avg"][name][0], opt_G.state[p]["exp_avg"]), name
    assert all(compare(state["D"][name], p) for name, p in D.named_parameters())


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """One generation of a run with μ = 2 and three mutations, and what passed between its parts."""
    seen = {}

    class Watched(Loop):
        def sample(self, z):
            seen.setdefault("fakes", []).append((z, super().sample(z)))
            return seen["fakes"][-1][1]

        def evaluate(self, D, x, z):
            seen["judged"] = rows(self), x.clone(), z.clone()
            seen["F"] = super().evaluate(D, x, z)
            return seen["F"]

    def loss(real, fake):
        seen.setdefault("D batches", []).append((len(real), fake.detach().clone()))
        return discriminator_loss(real, fake)

    monkeypatch.setitem(POPULATIONS, "loop", Watched)
    monkeypatch.setattr(train, "discriminator_loss", loss)
    run = lambda *more: train.main(
        [
            *SMALL,
            "--mu",
            "2",
            "--n-d",
            "3",
            "--population",
            "loop",
            "--steps",
            "1",
            "--out",
            str(tmp_path / "r"),
            *more,
        ]
    )
    return seen, run, tmp_path / "r"


def test_D_trains_on_equal_shares_of_all_parents(watched):
    seen, run, _ = watched
    run()
    assert len(seen["D batches"]) == 3  # n_D rounds
    for (n_real, fake), (z, samples) in zip(seen["D batches"], seen["fakes"]):
        assert n_real == len(fake) == 8 and z.shape == (2, 4, 2) and samples.shape == (2, 4, 2)
    zs = [z for z, _ in seen["fakes"][:3]]
    assert not torch.equal(zs[0], zs[1]) and not torch.equal(zs[0][0], zs[0][1])


@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_the_fittest_children_and_only_children_survive_best_first(watched, gamma):
    seen, run, out = watched
    run("--gamma", str(gamma))
    children, x, z = seen["judged"]
    F_q, F_d = seen["F"]
    order = sorted(range(6), key=lambda r: -(F_q[r] + gamma * F_d[r]).item())
    state = checkpoint(out)["state"]
    for place, r in enumerate(order[:2]):
        for name, t in state["population"]["params"].items():
            assert torch.equal(t[place], children[r][f"params.{name}"])
    assert state["population"]["step"] == 1
    assert len(x) == 16 and z.shape == (16, 2)


def test_children_are_judged_on_reals_that_D_has_not_seen(watched):
    seen, run, _ = watched
    run()
    x = mixture("8gaussians").batch(0, 3 * 8 + 16, 0)[0]
    assert torch.equal(seen["judged"][1], x[24:])


def test_random_selection_takes_every_child_alike_and_asks_no_fitness(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "fitness", lambda *a: pytest.fail("fitness was used"))
    train.main(
        [
            *SMALL,
            "--selection",
            "random",
            "--steps",
            "60",
            "--log-every",
            "60",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    line = json.loads((tmp_path / "r/log.jsonl").read_text().splitlines()[-1])
    shares = [line[f"selected_{name}"] for name in MUTATIONS]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0.15


@pytest.mark.parametrize("version", list(POPULATIONS))
@pytest.mark.parametrize("flags", [[], ["--selection", "random"]])
@pytest.mark.parametrize("sick", [[0, 2, 3, 4, 5], [0, 3, 4]])
def test_a_sick_child_dies_and_its_siblings_go_on(tmp_path, monkeypatch, version, flags, sick):
    """μ = 2 of six children, five or three of them sick: the healthy ones fill both places."""
    Version, chosen = POPULATIONS[version], []
    mutate, survivors = Version.mutate, Version.survivors

    def poisoned(self, *inputs):
        losses = mutate(self, *inputs)
        for r in sick:
            make_sick(self, r, [NAN, INF, -INF][r % 3])
        return losses

    def watched(self, places):
        chosen.append(places.tolist())
        return survivors(self, places)

    monkeypatch.setattr(Version, "mutate", poisoned)
    monkeypatch.setattr(Version, "survivors", watched)
    train.main(
        [
            *SMALL,
            *flags,
            "--mu",
            "2",
            "--population",
            version,
            "--steps",
            "3",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    healthy = set(range(6)) - set(sick)
    assert len(chosen) == 3 and all(set(places) <= healthy for places in chosen)
    assert all(len(set(places)) == min(2, len(healthy)) for places in chosen)
    state = checkpoint(tmp_path / "r")["state"]
    assert all(t.isfinite().all() for t in state["D"].values())


@pytest.mark.parametrize(
    "flags, n", [([], 6), (["--selection", "random"], 6), (["--mutations", "minimax"], 2)]
)
@pytest.mark.parametrize("what", ["weights", "losses", "fitness"])
def test_when_all_children_are_sick_the_run_stops_with_one_line(
    tmp_path, monkeypatch, flags, n, what
):
    mutate, evaluate, generation = Loop.mutate, Loop.evaluate, []

    def sick_mutate(self, *inputs):
        losses = mutate(self, *inputs)
        generation.append(len(self))
        if len(generation) == 3 and what == "weights":
            for r in range(n):
                make_sick(self, r)
        return losses * (INF if len(generation) == 3 and what == "losses" else 1)

    def sick_evaluate(self, *inputs):
        F_q, F_d = evaluate(self, *inputs)
        return F_q * (NAN if len(generation) == 3 and what == "fitness" else 1), F_d

    monkeypatch.setattr(Loop, "mutate", sick_mutate)
    monkeypatch.setattr(Loop, "evaluate", sick_evaluate)
    argv = [
        *SMALL,
        *flags,
        "--mu",
        "2",
        "--population",
        "loop",
        "--steps",
        "4",
        "--save-every",
        "2",
        "--log-every",
        "100",
        "--out",
        str(tmp_path / "r"),
    ]
    if flags and what == "fitness":  # nobody asks for it
        train.main(argv)
        return
    with pytest.raises(UserError, match="step 3: no child .*last good checkpoint is .* at step 2"):
        train.main(argv)
    assert generation == [n, n, n]


def test_one_sick_child_of_a_single_mutation_gives_its_place_to_the_other(tmp_path, monkeypatch):
    mutate = Loop.mutate

    def poisoned(self, *inputs):
        losses = mutate(self, *inputs)
        return losses * T([NAN, 1.0])

    monkeypatch.setattr(Loop, "mutate", poisoned)
    train.main(
        [
            *SMALL,
            "--mutations",
            "minimax",
            "--mu",
            "2",
            "--population",
            "loop",
            "--steps",
            "1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    params = checkpoint(tmp_path / "r")["state"]["population"]["params"]
    assert all(torch.equal(t[0], t[1]) for t in params.values())


def test_an_overflowed_norm_of_the_fittest_is_no_failure_without_gamma(tmp_path, monkeypatch):
    """Σ (∂L_D/∂w)² overflows for all children, F_d does not, and γ = 0 selects by F_q alone."""
    monkeypatch.setattr(
        "egan.population.discriminator_loss",
        lambda real, fake: 1e25 * discriminator_loss(real, fake),
    )
    found = train.main(
        [
            *SMALL,
            "--gamma",
            "0",
            "--population",
            "loop",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert -70 < found["F_d"] < -45


def test_every_child_has_its_own_z_and_no_z_is_used_twice(tmp_path, monkeypatch):
    seen, mutate, sample = [], Loop.mutate, Loop.sample
    monkeypatch.setattr(
        Loop, "mutate", lambda self, D, z, m: seen.extend(z) or mutate(self, D, z, m)
    )
    monkeypatch.setattr(Loop, "sample", lambda self, z: seen.extend(z) or sample(self, z))
    train.main(
        [
            *SMALL,
            "--mu",
            "2",
            "--population",
            "loop",
            "--steps",
            "2",
            "--n-d",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    batches = [z for z in seen if len(z) < 2000]
    assert len(batches) == 2 * (2 * 2 + 6)
    assert len({tuple(z[0].tolist()) for z in batches}) == len(batches)


@pytest.mark.parametrize("selection, judged", [("fitness", range(1, 8)), ("random", (3, 6, 7))])
def test_the_log_has_the_fittest_childs_scores_and_the_survivors_of_its_own_interval(
    tmp_path, monkeypatch, selection, judged
):
    """By lot, children are only judged for the log."""
    chosen, scores, survivors, evaluate = [], [], Loop.survivors, Loop.evaluate

    def watched(self, *inputs):
        scores.append(evaluate(self, *inputs))
        return scores[-1]

    monkeypatch.setattr(
        Loop, "survivors", lambda self, places: chosen.append(places) or survivors(self, places)
    )
    monkeypatch.setattr(Loop, "evaluate", watched)
    train.main(
        [
            *SMALL,
            "--mu",
            "2",
            "--selection",
            selection,
            "--population",
            "loop",
            "--steps",
            "7",
            "--log-every",
            "3",
            "--sample-every",
            "3",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    lines = [json.loads(line) for line in (tmp_path / "r/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7] and len(scores) == len(judged)
    scores_at = dict(zip(judged, scores))
    for line, interval in zip(lines, ((0, 3), (3, 6), (6, 7))):
        kinds = (torch.cat(chosen[slice(*interval)]) % 3).tolist()
        for h, name in enumerate(MUTATIONS):
            assert line[f"selected_{name}"] == pytest.approx(kinds.count(h) / len(kinds))
        F_q, F_d = scores_at[line["step"]]
        best = chosen[line["step"] - 1][0]
        assert line["F_q"] == pytest.approx(F_q[best].item()) and line["F_d"] == pytest.approx(
            F_d[best].item()
        )


def test_samples_are_of_the_fittest_at_one_z_for_the_whole_run(tmp_path, monkeypatch):
    seen, sample = [], Loop.sample
    monkeypatch.setattr(Loop, "sample", lambda self, z: seen.append(z) or sample(self, z))
    found = train.main(
        [
            *SMALL,
            "--mu",
            "2",
            "--population",
            "loop",
            "--steps",
            "4",
            "--sample-every",
            "2",
            "--lr-g",
            "0.1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    first, second = (z for z in seen if z.shape[1] == 2000)
    expected = torch.rand(2000, 2, generator=step_rng(0, 0)) * 2 - 1
    assert torch.equal(first, second) and all(torch.equal(z, expected) for z in first)
    G = egan_eval.load(tmp_path / "r/last.pt", torch.device("cpu"))[0]
    real = mixture("8gaussians").sample(2000, step_rng(0, 0))[0]
    assert found["mmd2"] == pytest.approx(mmd2(G(expected), real, 1.0, unbiased=True), abs=1e-5)


def test_a_signal_late_in_a_generation_logs_no_other_generations_scores(tmp_path, monkeypatch):
    """Children of one mutation are judged for the log alone, which they were not this time."""
    survivors, generations = Loop.survivors, []

    def stopped(self, places):
        generations.append(places)
        if len(generations) == 3:
            signal.raise_signal(signal.SIGTERM)
        return survivors(self, places)

    monkeypatch.setattr(Loop, "survivors", stopped)
    flags = "--mutations minimax --population loop --log-every 2 --sample-every 2 --steps 9".split()
    with pytest.raises(SystemExit):
        train.main([*SMALL, *flags, "--out", str(tmp_path / "r")])
    second, third = read_log(tmp_path / "r/log.jsonl")
    assert (second["step"], third["step"]) == (2, 3)
    assert {"F_q", "F_d"} <= set(second) and not {"F_q", "F_d"} & set(third)


def test_image_scores_in_the_log_are_of_the_fittest(tmp_path):
    argv = [
        "--smoke",
        "--dataset",
        "synthetic",
        "--width-g",
        "4",
        "--width-d",
        "4",
        "--z-dim",
        "8",
        "--mu",
        "2",
    ]
    found = train.main(
        [
            *argv,
            "--steps",
            "2",
            "--lr-g",
            "0.1",
            "--fid-samples",
            "260",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    G, trained, _ = egan_eval.load(tmp_path / "r/last.pt", torch.device("cpu"))
    z = torch.rand(260, 8, generator=step_rng(0, 0)) * 2 - 1
    track = Tracker(train.load_data(trained, "test"), "synthetic", "cpu", "data")
    for key, value in track([G(z)], 260).items():
        assert found[key] == pytest.approx(value, rel=1e-3), key


@pytest.mark.parametrize(
    "flags, kind",
    [
        ([], "batch"),
        (["--dataset", "synthetic"], "shared-loop"),
        (["--population", "loop"], "loop"),
    ],
)
def test_how_children_are_computed_is_said(tmp_path, capsys, flags, kind):
    train.main([*SMALL, *flags, "--steps", "1", "--out", str(tmp_path / "r")])
    assert f"cpu ({kind})" in capsys.readouterr().err


@pytest.mark.parametrize(
    "version, flags",
    [*[(version, []) for version in POPULATIONS], *[(v, BF16) for v in ("loop", "batch")]],
)
def test_resume_is_exact_with_population_and_adam_states(tmp_path, version, flags):
    argv = [*SMALL, "--mu", "2", "--population", version, *flags]
    train.main([*argv, "--steps", "12", "--out", str(tmp_path / "whole")])
    train.main([*argv, "--steps", "7", "--out", str(tmp_path / "cut")])
    train.main(["--resume", str(tmp_path / "cut"), "--steps", "12"])

    def flat(value, name=""):
        return (
            {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}").items()}
            if isinstance(value, dict)
            else {name: value}
        )

    whole, cut = (flat(checkpoint(tmp_path / name)["state"]) for name in ("whole", "cut"))
    if flags == BF16:
        assert whole[".D.2.weight"].is_contiguous(memory_format=torch.channels_last)
    assert whole.keys() == cut.keys() and any("exp_avg_sq" in k for k in whole)
    assert all(
        torch.equal(whole[k], cut[k]) if torch.is_tensor(whole[k]) else whole[k] == cut[k]
        for k in whole
    )
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert logs[0] == [
        line for line in logs[1] if line["step"] != 7
    ]  # the cut run logs its last step, too


def overflowing(l):
    """A finite loss with a gradient whose square, of Adam's second moment, is infinite: no weight moves."""
    return 1e30 * l.mean(-1)


# Children: 3 (1 and 2), 3, 12, 6 of images in bf16, 6 of which 2 are sick
SPREAD = {
    "one parent": ["--population", "loop"],
    "batch of one parent": ["--population", "batch"],
    "batch": ["--population", "batch", "--mu", "4", "--gp", "1", "--d-norm", "none"],
    "images": ["--mu", "2", "--n-d", "2", *BF16],
    "sick": ["--population", "loop", "--mu", "2", "--selection", "random"],
}


def train_spread(out, *stops):
    """Train all of SPREAD to the first of these generations, and go on to the next."""
    for name, flags in SPREAD.items():
        train.GENERATOR_LOSSES["minimax"] = overflowing if name == "sick" else minimax
        place, first, *later = f"{out}/{name}", *stops
        train.main([*SMALL, *flags, "--log-every", "1", "--steps", str(first), "--out", place])
        for stop in later:
            dist.barrier()  # until rank 0 has saved
            train.main(["--resume", place, "--steps", str(stop)])


def test_two_processes_evolve_as_one(here, python, monkeypatch):
    """Bit for bit where children are computed one by one, and to 1e-6 in a batch. Only rank 0 writes."""
    Path("two.py").write_text(
        "import os, pathlib, tests.test_egan as t\n"
        "touch = lambda *a, **k: pathlib.Path('drawn by ' + os.environ['RANK']).touch()\n"
        "t.train.draw_samples = t.train.curves = touch\n"
        "t.train_spread('two', 2, 3)\n"
    )
    done = python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "two.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("children over 2 processes") == 2 * len(SPREAD)
    assert [path.name for path in Path().glob("drawn by *")] == ["drawn by 0"]

    monkeypatch.setitem(train.GENERATOR_LOSSES, "minimax", minimax)  # and what it was, afterwards
    train_spread("one", 3)
    for name in SPREAD:
        ones, twos = Path("one", name), Path("two", name)
        one, two = checkpoint(ones)["state"], checkpoint(twos)["state"]
        atol = 1e-6 if "batch" in name else 0
        for key in ("population", "D", "selected"):
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=atol)
        logs = [read_log(run / "log.jsonl") for run in (ones, twos)]
        assert [line["step"] for line in logs[1]] == [1, 2, 3]
        for line, line_of_two in zip(*logs):
            del line["seconds"]
            assert {k: line_of_two[k] for k in line} == pytest.approx(line, abs=atol, rel=0)
        assert name != "sick" or all(line["selected_minimax"] == 0 for line in logs[1])


def test_rank_0_alone_writes_and_measures(tmp_path, monkeypatch):
    """Under torchrun the others must not train a LeNet each."""
    monkeypatch.setattr(train, "init_processes", lambda device: (1, 1))
    monkeypatch.setattr(egan_samples, "Tracker", lambda *args: pytest.fail("a Tracker"))
    flags = ["--smoke", "--dataset", "synthetic", "--fid-samples", "8", "--steps", "2"]
    train.main([*flags, "--out", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


def test_gradients_of_D_are_averaged_before_each_step(tmp_path, monkeypatch):
    """Those of the penalty, too: D stays as it is where their average is 0."""
    averaged = []

    def zero(D):
        averaged.append(D)
        for p in D.parameters():
            p.grad.zero_()

    monkeypatch.setattr(train, "average_gradients", zero)
    flags = ["--gp", "1", "--d-norm", "none", "--n-d", "2"]
    train.main([*SMALL, *flags, "--steps", "3", "--out", str(tmp_path / "r")])
    torch.manual_seed(0)
    _, D = train.build(train.parse_args([*SMALL, *flags]))
    state = checkpoint(tmp_path / "r")["state"]["D"]
    assert len(averaged) == 6 and all(torch.equal(t, D.state_dict()[n]) for n, t in state.items())


@pytest.mark.parametrize(
    "flags",
    [
        ["--mu", "2"],
        ["--population", "batch"],
        ["--gp", "10", "--d-norm", "none", "--mutations", "minimax"],
    ],
)
def test_images(tmp_path, flags):
    argv = [
        "--smoke",
        "--dataset",
        "synthetic",
        "--width-g",
        "4",
        "--width-d",
        "4",
        "--z-dim",
        "8",
        "--steps",
        "2",
    ]
    metrics = train.main([*argv, *flags, "--out", str(tmp_path / "r")])
    assert math.isfinite(metrics["L_D"])
    found = egan_eval.main(["--ckpt", str(tmp_path / "r/last.pt"), "--n", "80"])
    assert any(key.startswith("fid_lenet") for key in found)
    assert any(key.startswith("class_entropy") for key in found)
    assert (tmp_path / "r/interpolation.png").exists() and (tmp_path / "r/selected.png").exists()


# --- eval.py


def test_the_fittest_individual_is_loaded_by_default(tmp_path):
    train.main([*SMALL, "--mu", "2", "--out", str(tmp_path / "r")])
    path, params = (
        tmp_path / "r/last.pt",
        checkpoint(tmp_path / "r")["state"]["population"]["params"],
    )
    for place in (0, 1):
        G = egan_eval.load(path, torch.device("cpu"), place)[0]
        assert all(torch.equal(p, params[name][place]) for name, p in G.named_parameters())
    with pytest.raises(UserError, match="places 0 to 1"):
        egan_eval.load(path, torch.device("cpu"), 2)
    for place in ("0", "1"):  # two individuals, two files
        egan_eval.main(["--ckpt", str(path), "--n", "50", "--individual", place])
    assert {file.name for file in path.parent.glob("eval_*")} == {
        f"eval_{checkpoint(path.parent)['step']}{part}.json" for part in ("", "_individual1")
    }
    pictures = [path.parent / f"samples{part}.png" for part in ("", "_individual1")]
    first, second = (picture.read_bytes() for picture in pictures)
    assert first != second
    egan_eval.main(["--ckpt", str(path), "--n", "50"])
    assert pictures[0].read_bytes() == first


def test_each_row_of_the_interpolation_is_one_pair(grids_of):
    """G shows z's first number."""

    def G(z):
        return z[:, :1].view(-1, 1, 1, 1)

    drawn = grids_of(egan_eval.plots)
    args = SimpleNamespace(seed=3)
    egan_eval.draw_interpolation(G, SimpleNamespace(z_dim=2), args, torch.device("cpu"), "x.png")
    z = 2 * torch.rand(8, 2, generator=torch.Generator().manual_seed(3))[:, 0] - 1
    rows = drawn[0].view(4, 11)
    assert torch.allclose(rows[:, 0], z[:4]) and torch.allclose(rows[:, 10], z[4:], atol=1e-6)
    assert torch.allclose(rows[:, 5], (z[:4] + z[4:]) / 2, atol=1e-6)


def test_table2_trains_measures_and_goes_on_where_it_stood(tmp_path, capsys):
    argv = [
        "--table2",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--n",
        "50",
        "--out",
        str(tmp_path),
        "--train-flags",
        " ".join([*SMALL, "--steps", "2"]),
    ]
    table = reproduce.main(argv)
    assert len(table["rows"]) == 12 and (tmp_path / "table2_25gaussians.png").exists()
    text = (tmp_path / "table2.md").read_text()
    assert "GAN-Minimax | 2.94 / 1.89" in text and "random selection | –" in text
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 12 and not any("error" in json.loads(line) for line in lines)
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    reproduce.main(argv)
    assert "10 of 12 runs are there" in capsys.readouterr().err
    again = (tmp_path / "results.jsonl").read_text().splitlines()
    metrics = lambda lines: [json.loads(line)["metrics"] for line in lines]
    assert metrics(again) == metrics(lines)
    with pytest.raises(UserError, match="other flags"):
        reproduce.main([*argv[:-2], "--train-flags=--smoke"])
    check_tables_outlive_runs(tmp_path, ["table2.md", "table2.json"], lambda: reproduce.main(argv))


def test_the_best_run_of_table2_has_most_modes_and_the_least_distance():
    """Distances are in hundredths, as the paper's."""
    names = [f"mmd2_{kind}_s{s:g}" for kind in ("biased", "unbiased") for s in tables.BANDWIDTHS]
    results = [
        {
            "table": "8gaussians",
            "method": "GAN-Minimax",
            "seed": seed,
            "seconds": 1.0 + seed,
            "metrics": {
                **{f"{name}_2k": distance for name in names},
                **{"modes_2k": modes, "high_quality_2k": modes / 8, "mode_kl_2k": distance},
            },
        }
        for seed, (modes, distance) in enumerate([(3, 0.2), (7, 0.1)])
    ]
    _, (row,) = tables.table2_numbers(results, ["GAN-Minimax"])
    assert row["modes"]["best"] == 7 and row["high_quality"]["best"] == 7 / 8
    assert row["mode_kl"]["best"] == 0.1 and row["seconds"]["best"] == 1
    assert row[tables.UNIT]["values"] == [20, 10]


def test_the_cells_of_table2_by_hand():
    row = {"data": "8gaussians", "method": "GAN-Minimax", "runs": 2, "paper": (2.94, 1.89)}
    values = {"k": [1, 2], tables.UNIT: [3, 5], "modes": [6, 7], "high_quality": [0.25, 0.75]}
    values |= {"mode_kl": [0.1, 0.3], "seconds": [10, 30]}
    row |= {name: tables.summary(each) for name, each in values.items()}
    text = tables.table2_markdown([("k", 0.5)], [row])
    cells = "2.94 / 1.89 | 1.50 ± 0.71 / 1.00 | 4.00 ± 1.41 / 3.00 | 6.5 ± 0.7 | 0.50 | 0.200 | 20"
    assert f"| GAN-Minimax | {cells} |" in text


def test_table2_draws_the_run_of_median_distance(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(tables.plots, "densities", lambda panels, *a, **k: shown.extend(panels))
    monkeypatch.setattr(tables, "load_samples", lambda folder, run, n: None)
    results = []
    for seed, distance in enumerate((0.3, 0.1, 0.2)):
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}/last.pt").touch()
        run = {"table": "8gaussians", "method": "GAN-Minimax", "name": f"run{seed}", "seed": seed}
        results.append(run | {"metrics": {"mmd2_unbiased_s1_2k": distance}})
    tables.draw_table2(tmp_path, results, ["GAN-Minimax"])
    assert shown == ["data: 8gaussians", "GAN-Minimax, seed 2", "data: 25gaussians"]


def test_scores_are_drawn_over_generations_and_over_seconds(tmp_path, figures_of):
    drawn = figures_of(egan_curves.plots)
    run = [{"step": 5, "seconds": 2.0, "is_lenet_8": 3.0, "fid_lenet_8_test": 4.0}]
    egan_curves.draw_curves({"GAN": [run]}, 8, tmp_path / "c.png")
    found = [axis.lines[0].get_xydata().tolist() for axis in drawn[0].axes]
    assert found == [[[5, 3]], [[2, 3]], [[5, 4]], [[2, 4]]]


def test_the_table_of_curves_by_hand():
    """GAN's run was through after 2 s, before E-GAN's first scores."""

    def run(seconds):
        scores = ((2, 1.0, 9.0), (4, 2.0, 7.0))
        return [
            {"step": step, "seconds": s, "is_lenet_5": score, "fid_lenet_5_test": fid}
            for s, (step, score, fid) in zip(seconds, scores)
        ]

    rows = egan_curves.curve_numbers({"E-GAN": [run((4, 8))], "GAN": [run((1, 2))]})
    line = egan_curves.curves_markdown(rows).splitlines()[2]
    assert line.startswith("| E-GAN | 0.5 | 2.00, 7.00 | 1.00, 9.00 (2) |")


def test_shares_of_survivors_are_stacked_under_their_names(tmp_path, figures_of):
    drawn = figures_of(egan_samples.plots)
    shares = {"heuristic": 0.5, "minimax": 0.2, "least-squares": 0.3}
    log = [{"step": s} | {f"selected_{k}": v for k, v in shares.items()} for s in (1, 2, 3)]
    egan_samples.draw_selected(log, list(shares), tmp_path / "s.png")
    areas = drawn[0].axes[0].collections
    stack = {area.get_label(): area.get_paths()[0].vertices[:, 1] for area in areas}
    heights = {name: y.max() - y.min() for name, y in stack.items()}
    heights["heuristic"] = stack["heuristic"].max()
    assert heights == pytest.approx(shares)


def test_fid_curves_compare_at_equal_generations_and_at_equal_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = (
        "--lr-g 0.1 --size 8 --width-g 4 --width-d 4 --batch-size 8 --eval-batch 8 --steps 4 --sample-every 2 "
        "--log-every 2"
    )
    argv = [
        "--fid-curves",
        "--dataset",
        "synthetic",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--n",
        "50",
        "--out",
        "curves",
        "--train-flags",
        f"{flags} --fid-samples 90",
    ]
    table = reproduce.main(argv)
    assert [row["method"] for row in table] == [
        "GAN-Heuristic",
        "GAN-Least-squares",
        "GAN-Minimax",
        "E-GAN",
    ]
    assert Path("curves/fid_curves.png").exists()
    (last,) = table[-1]["survivors"]
    assert set(last) == {"heuristic", "least-squares", "minimax"}
    assert sum(last.values()) == pytest.approx(1)
    log = [{"selected_minimax": share, "selected_heuristic": 1 - share} for share in (0.0, 0.5)]
    assert egan_curves.survivors(log) == {"minimax": 0.25, "heuristic": 0.75}
    scores = []
    for path in Path("curves").glob("*/log.jsonl"):
        log = [json.loads(line) for line in path.read_text().splitlines()]
        fid, score = (
            {key for row in log for key in row if key.startswith(what)}.pop()
            for what in ("fid", "is")
        )
        scores.append(
            [(row["seconds"], row["step"], row[fid], row[score]) for row in log if fid in row]
        )
        assert [step for _, step, *_ in scores[-1]] == [2, 4]
    equal = min(score[-1][0] for score in scores)
    for what, at in (("fid", 2), ("is", 3)):
        found = {(row[f"{what}_last"]["mean"], row[f"{what}_equal_time"]["mean"]) for row in table}
        assert found == {
            (
                score[-1][at],
                ([line[at] for line in score if line[0] <= equal] or [score[0][at]])[-1],
            )
            for score in scores
        }
    assert (
        f"{table[0]['is_last']['mean']:.2f}, {table[0]['fid_last']['mean']:.2f}"
        in Path("curves/fid_curves.md").read_text()
    )
    shutil.rmtree(next(Path("curves").glob("*heuristic-0")))
    assert [row["method"] for row in reproduce.main(argv)] == [row["method"] for row in table[1:]]
    for path in Path("curves").glob("*/"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="curves: of no run there is a log.jsonl.*results.jsonl"):
        reproduce.main(argv)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--reduced", "has no --reduced: give its size with --train-flags"),
        ("--extractor lenet", "leave out --extractor, --inception-weights and --split"),
        ("--inception-weights X", "leave out --extractor, --inception-weights and --split"),
        ("--split train", "leave out --extractor, --inception-weights and --split"),
        ("", "there is no extractor for them"),
    ],
)
def test_what_the_fid_curves_cannot_obey_is_refused_before_a_training(
    tmp_path, monkeypatch, flags, message
):
    monkeypatch.setattr(reproduce, "real_images", lambda *args: (None, None))
    monkeypatch.setattr(reproduce, "sweep", lambda *args: pytest.fail("a training"))
    with pytest.raises(UserError, match=f"^--fid-curves .*{message}"):
        reproduce.main(["--fid-curves", "--out", str(tmp_path / "curves"), *flags.split()])


def test_table3_has_the_papers_rows_beside_ours_and_real_images(tmp_path, monkeypatch):
    sweep, asked = reproduce.sweep, []

    def two_of_them(cells, *more):  # all would be eight trainings
        asked.extend(cells)
        return sweep([c for c in cells if c["method"] in ("E-GAN-GP (μ = 2)", "WGAN-GP")], *more)

    monkeypatch.setattr(reproduce, "sweep", two_of_them)
    flags = (
        "--size 8 --width-g 4 --width-d 4 --z-dim 8 --batch-size 8 --eval-batch 8 --n-d 1 --steps 2 "
        "--sample-every 100 --save-every 100"
    )
    argv = [
        "--table3",
        "--dataset",
        "synthetic",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--n",
        "80",
        "--out",
        str(tmp_path),
        "--train-flags",
        flags,
    ]
    table = reproduce.main(argv)
    assert [row["method"] for row in table] == ["real data", "E-GAN-GP (μ = 2)", "WGAN-GP"]
    real, egan, wgan = table
    assert (
        real["fid"]["mean"] < egan["fid"]["mean"] and real["is"]["mean"] > egan["is"]["mean"] >= 1
    )
    trained = train.parse_args(["--dataset", "synthetic", *flags.split()])
    images = train.load_data(trained)  # the row: 80 of the training split against the test split
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    track = Tracker(train.load_data(trained, "test"), "synthetic")
    for key, value in track([images.images_at(order[:80], "cpu")], 80).items():
        assert real["metrics"][key] == pytest.approx(value), key
    assert (
        egan["runs"] == 2
        and egan["is"]["best"] >= egan["is"]["mean"]
        and egan["fid"]["best"] <= egan["fid"]["mean"]
    )
    text = (tmp_path / "table3.md").read_text()
    assert (
        "| real data | 11.24 ± .12 |" in text
        and "| WGAN-GP | 6.68 ± .06 |" in text
        and "| 40.2 |" in text
    )
    assert f"| 31.6 | {egan['fid']['mean']:.2f} ± {egan['fid']['sd']:.2f} |" in text
    assert (tmp_path / "table3.png").exists() and json.loads(
        (tmp_path / "table3.json").read_text()
    )["rows"]
    assert {c["method"] for c in asked} == set(reproduce.TABLE_III) and len(asked) == 16
    check_tables_outlive_runs(tmp_path, ["table3.md", "table3.json"], lambda: reproduce.main(argv))


def test_table3s_real_images_are_named_after_the_split_that_there_is(monkeypatch):
    reference = reproduce.reference

    def without_test_images(*given):  # as a folder without test/ has them
        real_set, extractor = reference(*given)
        real_set.split = "train"
        return real_set, extractor

    monkeypatch.setattr(reproduce, "reference", without_test_images)
    args = reproduce.Args(table3=True, n=80, seed=0, device="cpu")
    found = reproduce.measure_real(["--dataset", "synthetic", "--size", "8"], args)
    assert {key for key in found if key.startswith("fid_")} == {"fid_lenet_random_80_train"}


def test_seconds_of_table3_are_of_the_whole_training(tmp_path):
    write_log(tmp_path / "a", [{"step": 1, "seconds": 1}, {"step": 9, "seconds": 5}])
    metrics = {"is_lenet_8": 1.0, "fid_lenet_8_test": 2.0}
    run = {"table": "table3", "method": "GAN-GP", "name": "a", "metrics": metrics}
    _, row = tables.table3_numbers(tmp_path, [run], {"GAN-GP": []}, metrics)
    assert row["seconds"]["values"] == [5]


def test_runs_are_measured_as_the_sweeps_flags_say():
    given = dict(data_dir="d", extractor="lenet", inception_weights="w", split="train")
    given |= dict(seed=11, amp="bf16")
    found = vars(reproduce.eval_args(SimpleNamespace(**given), 7, "r"))
    assert (given | {"n": 7, "ckpt": "r"}).items() <= found.items()


def trained_by(flags):
    args = train.parse_args(["--dataset", "cifar10", *flags])
    return args.mu, len(args.mutations), args.gp > 0, args.d_norm, args.n_d, args.clip


def test_rows_of_the_image_tables_are_the_papers_methods_and_numbers():
    """μ, mutations, penalty, D's normalisation, n_D, clipping; then IS and FID as the slides print them."""
    expected = {
        "E-GAN-GP (μ = 1)": (1, 3, True, "none", 3, 0),
        "E-GAN-GP (μ = 2)": (2, 3, True, "none", 3, 0),
        "E-GAN-GP (μ = 4)": (4, 3, True, "none", 3, 0),
        "E-GAN-GP (μ = 8)": (8, 3, True, "none", 3, 0),
        "E-GAN (μ = 1, without GP)": (1, 3, False, "batch", 3, 0),
        "GAN-GP": (1, 1, True, "none", 3, 0),
        "DCGAN (without GP)": (1, 1, False, "batch", 3, 0),
        "WGAN-GP": (1, 1, True, "none", 5, 0),
    }
    assert {name: trained_by(flags) for name, flags in reproduce.TABLE_III.items()} == expected
    paper = {
        "E-GAN-GP (μ = 1)": (7.13, 33.2),
        "E-GAN-GP (μ = 2)": (7.23, 31.6),
        "E-GAN-GP (μ = 4)": (7.32, 29.8),
        "E-GAN-GP (μ = 8)": (7.34, 27.3),
        "E-GAN (μ = 1, without GP)": (6.98, 36.2),
        "GAN-GP": (6.93, 37.7),
        "DCGAN (without GP)": (6.64, None),
        "WGAN-GP": (6.68, 40.2),
    }
    for name in reproduce.TABLE_III:
        score, fid = tables.TABLE_III[name]
        assert (float(score.split(" ± ")[0]), None if fid == "–" else float(fid)) == paper[name]
    clipped, penalised = (trained_by(reproduce.ROBUSTNESS[name]) for name in ("WGAN", "WGAN-GP"))
    assert clipped == (1, 1, False, "batch", 5, 0.01) and penalised == expected["WGAN-GP"]


@pytest.mark.parametrize("flags, size, part", [([], 32, 1), (["--reduced"], 16, 8)])
def test_the_table_of_weak_networks_puts_each_fid_in_its_cell(
    tmp_path, monkeypatch, capsys, flags, size, part
):
    cells, shared = [], []

    def numbered(asked, train, measure, args, folder, given):
        shared.extend(given)
        for i, cell in enumerate(asked):
            cells.append(cell | {"metrics": {"fid_lenet_10k_test": float(i)}})
        return cells

    monkeypatch.setattr(reproduce, "sweep", numbered)
    table = reproduce.main(["--robustness", "--seeds", "1", "--out", str(tmp_path), *flags])
    assert len(table) == 24
    full = {"baseline": (128, 128), "weak G": (32, 128), "weak D": (128, 32), "weak both": (32, 32)}
    names = list(tables.ROBUSTNESS)
    assert names == ["DCGAN", "LSGAN", "WGAN", "WGAN-GP", "E-GAN (μ = 1)", "E-GAN (μ = 4)"]
    for row in table:
        i = list(full).index(row["column"]) * 6 + names.index(row["method"])
        assert row["mean"] == i
        asked = train.parse_args([*shared, *cells[i]["flags"]])
        assert (asked.width_g * part, asked.width_d * part) == full[row["column"]]
        assert (asked.dataset, asked.size) == ("fashion-mnist", size)
    assert json.loads((tmp_path / "robustness.json").read_text())["flags"] == shared
    printed = capsys.readouterr().out
    assert "| WGAN | 2.0 (51.1) | 8.0 (113.6) | 14.0 (129.2) | 20.0 (115.7) |" in printed
    assert "| WGAN-GP | 3.0 (38.5) | 9.0 (66.7) | 15.0 (385.8) | 21.0 (73.2) |" in printed
    assert "| E-GAN (μ = 4) | 5.0 (29.7) | 11.0 (59.1) | 17.0 (55.2) | 23.0 (60.9) |" in printed


def test_the_kernel_nearest_to_the_papers_baselines_is_found():
    paper = tables.TABLE_II
    exact = {(d, m): [paper[d][m][0] / 100] for d in paper for m in paper[d]}
    off = {key: [2 * v[0]] for key, v in exact.items()}
    ranking = tables.nearest_kernel({"off": off, "right": exact})
    assert ranking[0] == ("right", pytest.approx(0)) and ranking[1] == ("off", pytest.approx(LN2))


def test_the_gpu_path_of_the_fitness_equals_one_child_after_the_other():
    torch.manual_seed(0)
    D = ToyDiscriminator(width=8, init="he")
    x, samples = torch.randn(20, 2), torch.randn(3, 12, 2)
    expected = evaluate_each(D, x, samples, contextlib.nullcontext)
    batch = Batch.__new__(Batch)
    batch.context = contextlib.nullcontext
    for found, value in zip(batch.evaluate_together(D, x, samples), expected):
        assert torch.allclose(found, value, atol=1e-5)
    samples[1, 0, 0] = NAN
    for found, value in zip(batch.evaluate_together(D, x, samples), expected):
        assert found[1].isnan() and torch.allclose(found[[0, 2]], value[[0, 2]], atol=1e-5)
