"""GAN to SAGAN + WGAN-GP: objectives against closed forms, attention and spectral norm against their definitions,
who gets gradient in each step, the schedule of critic steps, exact resume, the tables."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.cli import UserError
from common.data import ImageSet, load_images
from common.rng import step_rng
from common.toys import toy_data
from common.metrics.toy import mode_metrics, toy_metrics
from common.runs import read_log
from sagan_wgangp import eval as sagan_eval
from sagan_wgangp import convergence, methods, pictures, reproduce, surfaces, train
from sagan_wgangp.model import (
    Critic,
    Generator,
    SelfAttention,
    ToyCritic,
    clip_weights,
    nonsaturating_discriminator_loss,
    nonsaturating_generator_loss,
    gradient_penalty,
    hinge_discriminator_loss,
    pyramid,
    init_layer,
    wasserstein_discriminator_loss,
    wasserstein_distance,
    wasserstein_generator_loss,
)
from tests.helpers import check_tables_outlive_runs, write_log

T = torch.tensor
TINY = ["--smoke", "--width", "4", "--z-dim", "6", "--batch-size", "4", "--n-critic", "1"]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """tests/test_smoke.py sees to curves.png, which takes longer than the runs here."""
    monkeypatch.setattr(train, "curves", lambda *_, **__: None)


# --- objectives


def test_gan_losses_by_hand():
    assert nonsaturating_discriminator_loss(T([0.0]), T([0.0])).item() == pytest.approx(
        2 * math.log(2)
    )  # D = 1/2
    p, q = 0.9, 0.2  # D(x), D(G(z))
    real, fake = T([math.log(p / (1 - p))]), T([math.log(q / (1 - q))])
    assert nonsaturating_discriminator_loss(real, fake).item() == pytest.approx(
        -math.log(p) - math.log(1 - q)
    )
    assert nonsaturating_generator_loss(fake).item() == pytest.approx(-math.log(q))


def test_wasserstein_and_hinge_losses_by_hand():
    real, fake = T([1.0, 3.0]), T([-0.5, 0.0])
    assert wasserstein_distance(real, fake).item() == 2.25
    assert wasserstein_discriminator_loss(real + 7, fake + 7).item() == -2.25  # D + c: the same
    assert wasserstein_generator_loss(fake).item() == 0.25
    assert (
        hinge_discriminator_loss(T([0.5, 3.0]), T([-2.0, 1.0])).item() == 0.25 + 1.0
    )  # (.5 + 0)/2, (0 + 2)/2


@pytest.mark.parametrize("shape", [(2,), (3, 5, 5)])
def test_penalty_of_a_linear_critic_is_closed(shape):
    """D(x) = w·x has the gradient w everywhere: (‖w‖ − 1)², whatever data and ε are."""
    w, rng = torch.randn(shape, generator=step_rng(0, 1)), step_rng(0, 2)
    x, fake, epsilon = (
        torch.randn(6, *shape, generator=rng),
        torch.randn(6, *shape, generator=rng),
        torch.rand(6, generator=rng),
    )
    found = gradient_penalty(lambda v: (v * w).flatten(1).sum(1), x, fake, epsilon)
    assert found.item() == pytest.approx((w.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_of_a_constant_critic_is_one_with_finite_gradient():
    D = nn.Linear(2, 1)
    nn.init.zeros_(D.weight)
    penalty = gradient_penalty(D, torch.randn(4, 2), torch.randn(4, 2), torch.rand(4))
    penalty.backward()
    assert penalty.item() == 1 and D.weight.grad.isfinite().all()


def test_penalty_has_one_epsilon_a_sample():
    seen = []
    x, fake, epsilon = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), T([0.0, 0.25, 1.0])
    gradient_penalty(
        lambda v: seen.append(v.detach()) or v.square().flatten(1).sum(1), x, fake, epsilon
    )
    for i, e in enumerate(epsilon.tolist()):
        assert torch.allclose(seen[0][i], e * x[i] + (1 - e) * fake[i], atol=1e-6)


def test_penalty_differentiates_attention_twice_exactly():
    """Against finite differences of the penalty, within 2 %, through SelfAttention with γ ≠ 0."""
    torch.manual_seed(0)
    D = Critic(8, 1, 8, attention=(4,), init="he")
    block = next(layer for layer in D if isinstance(layer, SelfAttention))
    nn.init.constant_(block.gamma, 0.7)
    x, fake, epsilon = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.rand(3)
    weight = block.g.weight
    (gradient,) = torch.autograd.grad(gradient_penalty(D, x, fake, epsilon), weight)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight += sign * 1e-2 * direction
            with torch.enable_grad():
                values.append(gradient_penalty(D, x, fake, epsilon).item())
            weight -= sign * 1e-2 * direction
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(gradient.norm().item(), rel=0.02)


def test_penalty_stays_in_fp32_under_autocast():
    D, seen = ToyCritic(8), []
    D[0].register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(
            D, torch.randn(4, 2).bfloat16(), torch.randn(4, 2).bfloat16(), torch.rand(4)
        )
    assert penalty.dtype == torch.float32 and seen == [torch.float32]


def test_critic_of_two_point_masses_finds_their_distance():
    """Masses at 0 and a on a line: sup over 1-Lipschitz D of D(a) − D(0) is a (Eq. 3)."""
    torch.manual_seed(0)
    a, D = 1.7, nn.Sequential(nn.Linear(1, 16), nn.Softplus(), nn.Linear(16, 1), nn.Flatten(0))
    nn.init.zeros_(
        D[2].weight
    )  # the penalty would keep a critic that starts with slope −1 there: |−1| = 1, too
    opt = torch.optim.Adam(D.parameters(), 2e-2, betas=(0.5, 0.9))
    real, fake = torch.full((16, 1), a), torch.zeros(16, 1)
    for _ in range(150):
        opt.zero_grad()
        (
            wasserstein_discriminator_loss(D(real), D(fake))
            + 10 * gradient_penalty(D, real, fake, torch.rand(16))
        ).backward()
        opt.step()
    # with λ = 10 the best slope is 1 + 1/(2λ)·a, by (d/ds) [−s a + λ (s − 1)²] = 0
    assert wasserstein_distance(D(real), D(fake)).item() == pytest.approx(
        a * (1 + a / 20), rel=0.03
    )


def test_clipping_bounds_every_parameter():
    D = Critic(8, 1, 8, batch_norm=True)
    assert max(p.abs().max() for p in D.parameters()) > 0.01
    clip_weights(D, 0.01)
    assert max(p.abs().max() for p in D.parameters()) == T(0.01)


# --- networks


@pytest.mark.parametrize(
    "size, sides",
    [
        (28, [28, 14, 7, 4]),
        (32, [32, 16, 8, 4]),
        (64, [64, 32, 16, 8, 4]),
        (200, [200, 100, 50, 25, 13, 7, 4]),
        (33, [33, 17, 9, 5]),
        (6, [6, 3]),
    ],
)
def test_generator_and_critic_mirror_each_other(size, sides):
    assert pyramid(size) == sides
    G, D = Generator(5, size, 3, 1), Critic(size, 3, 1)
    maps = {name: [] for name in "GD"}
    for name, net in (("G", G), ("D", D)):
        for layer in net:
            if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d)):
                layer.register_forward_hook(lambda *a, name=name: maps[name].append(a[2].shape[-1]))
    assert D(G(torch.randn(2, 5))).shape == (2,)
    assert maps["D"] == sides[1:] and maps["G"] == sides[::-1][1:]


def test_every_size_from_28_to_256_comes_back_to_itself():
    for size in range(28, 257):
        side = pyramid(size)[-1]
        for target in reversed(pyramid(size)[:-1]):
            kernel = 4 - target % 2
            side = (side - 1) * 2 - 2 + kernel  # a transposed convolution of stride 2, padding 1
            assert (
                side == target
                and (target + 2 - kernel) // 2 + 1 == pyramid(size)[pyramid(size).index(target) + 1]
            )
    with pytest.raises(ValueError, match="too small"):
        pyramid(5)


def test_first_images_are_not_saturated():
    """He's fan of a transposed convolution is the one that comes in: with torch's reading G began at ±1."""
    torch.manual_seed(0)
    for method, name in train.METHODS.items():
        assert Generator(8, 32, 1, 32, init=name["init"])(torch.randn(16, 8)).abs().mean() < 0.6, (
            method
        )


def test_switches_put_layers_where_they_say():
    def kinds(net):
        return [type(layer).__name__.removeprefix("Parametrized") for layer in net]

    G, D = Generator(8, 32, 1, 8, True, True, (16,)), Critic(32, 1, 8, True, True, (16, 8))
    assert (
        kinds(G).count("BatchNorm2d") == 3 and kinds(D).count("BatchNorm2d") == 2
    )  # not on D's first
    assert kinds(G).count("SelfAttention") == 1 and kinds(D).count("SelfAttention") == 2
    spectral = [
        hasattr(layer, "parametrizations")
        for net in (G, D)
        for layer in net
        if hasattr(layer, "weight") and not isinstance(layer, nn.BatchNorm2d)
    ]
    assert spectral == [True] * 3 + [False] + [True] * 3 + [False]  # all but the last
    assert all(
        hasattr(conv, "parametrizations") for conv in G[kinds(G).index("SelfAttention")].children()
    )
    plain = Critic(32, 1, 8)
    assert not any(
        isinstance(m, (nn.BatchNorm2d, SelfAttention)) or hasattr(m, "parametrizations")
        for m in plain.modules()
    )
    assert (
        max(Critic(200, 3, 8).state_dict()[f"{i}.weight"].shape[0] for i in range(0, 12, 2)) == 64
    )  # 8 x width


def test_initial_weights_and_biases():
    conv = init_layer(nn.Conv2d(64, 64, 4), "normal", False)
    assert conv.weight.std().item() == pytest.approx(0.02, rel=0.03) and not conv.bias.any()


@pytest.mark.parametrize(
    "layer, dim", [(nn.Conv2d(3, 7, 4), 0), (nn.ConvTranspose2d(6, 3, 4), 1), (nn.Linear(9, 4), 0)]
)
def test_spectral_norm_against_svd(layer, dim):
    torch.manual_seed(0)
    layer = init_layer(layer, "he", True)
    for _ in range(200):  # each forward pass in train mode: one iteration
        weight = layer.weight
    sigma = torch.linalg.svdvals(layer.parametrizations.weight.original.movedim(dim, 0).flatten(1))[
        0
    ]
    assert torch.linalg.svdvals(weight.detach().movedim(dim, 0).flatten(1))[
        0
    ].item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(weight * sigma, layer.parametrizations.weight.original, rtol=1e-3)


def test_power_iteration_runs_in_train_mode_only():
    D = Critic(8, 1, 4, spectral=True)
    u = D[0].parametrizations.weight[0]._u
    before = u.clone()
    D.eval()(torch.randn(2, 1, 8, 8))
    assert torch.equal(u, before)
    D.train()(torch.randn(2, 1, 8, 8))
    assert not torch.equal(u, before)


# --- attention


@pytest.fixture
def block():
    torch.manual_seed(0)
    return SelfAttention(16, spectral=False)


def test_attention_with_gamma_0_is_the_identity_bitwise(block):
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.gamma.grad != 0 and not any(conv.weight.grad.any() for conv in block.children())


def test_attention_is_its_formula(block):
    """Place by place in fp64: softmax over the keys i of f(x_i)ᵀ g(x_j), without a scale; both kernels."""
    nn.init.constant_(block.gamma, 0.3)
    x = torch.randn(2, 16, 3, 4)
    f, g, h, v = (
        conv.weight.detach()[:, :, 0, 0].double() for conv in (block.f, block.g, block.h, block.v)
    )
    expected = torch.empty(2, 16, 12, dtype=torch.float64)
    for b in range(2):
        places = x[b].flatten(1).T.double()
        for j in range(12):
            weights = torch.stack([torch.exp((f @ places[i]) @ (g @ places[j])) for i in range(12)])
            weights /= weights.sum()
            assert torch.allclose(block.beta(x)[b, j].double(), weights, atol=1e-5)
            o = v @ sum(weights[i] * (h @ places[i]) for i in range(12))
            expected[b, :, j] = 0.3 * o + places[j]
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            assert torch.allclose(block(x).flatten(2).double(), expected, atol=1e-5)


def test_attention_rows_sum_to_one_over_keys(block):
    beta = block.beta(torch.randn(2, 16, 4, 4))
    assert beta.shape == (2, 16, 16) and torch.allclose(beta.sum(2), torch.ones(2, 16), atol=1e-6)
    assert not torch.allclose(beta.sum(1), torch.ones(2, 16), atol=1e-2)


def test_attention_commutes_with_permutations_of_places(block):
    nn.init.constant_(block.gamma, 1.0)
    x, order = torch.randn(1, 16, 4, 4), torch.randperm(16)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (4, 4))
    assert torch.allclose(block(shuffled).flatten(2), block(x).flatten(2)[:, :, order], atol=1e-5)


def test_attention_without_a_penalty_takes_the_fused_kernel(block):
    with sdpa_kernel(
        SDPBackend.FLASH_ATTENTION
    ):  # raises where the kernel does not take the tensors
        block(torch.randn(2, 16, 8, 8, requires_grad=True)).sum().backward()


# --- train.py: its loop, observed just before each optimiser step


@pytest.fixture
def observe(monkeypatch, tmp_path, watch_steps):
    """observe(*flags) trains -> (what was seen just before each optimiser's step, args, networks)."""
    return lambda *flags, steps=2: observed(monkeypatch, tmp_path, watch_steps, *flags, steps=steps)


def observed(monkeypatch, tmp_path, watch_steps, *flags, steps):
    nets, seen = {}, []
    build = train.build

    def remember(args):
        nets["G"], nets["D"] = build(args)
        return nets["G"], nets["D"]

    def look(optimiser):
        assert nets["G"].training and nets["D"].training
        stepping = optimiser.param_groups[0]["params"][0]
        seen.append(
            {
                "net": "G" if stepping is next(nets["G"].parameters()) else "D",
                "grads": {
                    k: [None if p.grad is None else p.grad.clone() for p in n.parameters()]
                    for k, n in nets.items()
                },
                "state": {
                    k: {a: t.clone() for a, t in n.state_dict().items()} for k, n in nets.items()
                },
            }
        )

    monkeypatch.setattr(train, "build", remember)
    watch_steps(train, "make_optimizer", look)
    argv = [*TINY, *flags, "--steps", str(steps), "--out", str(tmp_path / "run")]
    train.main(argv)
    return seen, train.parse_args(argv), nets


def test_critic_step_has_the_gradient_of_eq_4_in_one_backward(observe):
    flags = ["--method", "wgan_gp", "--gp", "3"]
    seen, args, _ = observe(*flags, "--n-critic", "1", steps=2)
    first = seen[2]
    assert [s["net"] for s in seen] == ["D", "G", "D", "G"]
    args.channels = 1
    G, D = train.build(args)
    G.load_state_dict(seen[1]["state"]["G"])
    D.load_state_dict(first["state"]["D"])
    opt_state = seen[2]["state"]["G"]  # G as it was after its first step
    G.load_state_dict(opt_state)
    rng = step_rng(0, 2)
    z, epsilon = torch.randn(4, 6, generator=rng), torch.rand(4, generator=rng)
    x = load_images("synthetic", None, "train", 16, 1).batch(1, 4, 0)[0]
    fake = G(z).detach()
    penalty = gradient_penalty(D, x, fake, epsilon)
    expected = torch.autograd.grad(
        D(fake).mean() - D(x).mean() + 3 * penalty, list(D.parameters()), allow_unused=True
    )
    for found, wanted in zip(first["grads"]["D"], expected):
        assert torch.allclose(
            found, wanted if wanted is not None else torch.zeros_like(found), atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("method", ["gan", "sagan", "sagan_wgan_gp"])
def test_each_step_leaves_the_other_network_alone(observe, method):
    seen, _, _ = observe("--method", method, steps=2)
    D1, G1, D2 = seen[:3]
    assert all(g is None for g in D1["grads"]["G"]), "D's step reached G"
    weights = [
        name
        for name in D1["state"]["G"]
        if "running" not in name and "num_batches" not in name and not name.endswith(("_u", "_v"))
    ]
    assert all(torch.equal(D1["state"]["G"][n], G1["state"]["G"][n]) for n in weights), (
        "D's step moved G"
    )
    assert all(torch.equal(a, b) for a, b in zip(D1["grads"]["D"], G1["grads"]["D"])), (
        "G's step wrote into D's grad"
    )
    assert any(not torch.equal(G1["state"]["G"][n], D2["state"]["G"][n]) for n in weights), (
        "G did not move"
    )


def test_clip_bound_holds_after_each_critic_step(observe):
    seen, _, nets = observe("--method", "wgan", "--n-critic", "3", steps=2)
    bounds = [
        max(
            t.abs().max().item()
            for n, t in s["state"]["D"].items()
            if n.endswith(("weight", "bias"))
        )
        for s in seen
    ]
    assert bounds[0] > 0.01 and max(bounds[1:]) <= 0.01 + 1e-9  # the first: before any clipping
    assert [s["net"] for s in seen] == ["D", "D", "D", "G"] * 2


@pytest.mark.parametrize("decay", [[], ["--lr-decay"]])
def test_lr_decay_is_linear_to_zero(observe, decay):
    """Adam without memory moves each weight by the rate: 1, 3/4, 1/2 and 1/4 of it in a run of 4 steps."""
    flags = [
        "--method",
        "gan",
        "--beta1",
        "0",
        "--beta2",
        "0",
        "--lr-g",
        "1e-3",
        "--lr-d",
        "2e-3",
        *decay,
    ]
    seen, _, nets = observe(*flags, steps=4)
    states = [s["state"] for s in seen] + [{k: net.state_dict() for k, net in nets.items()}]
    for net, lr, first in (("D", 2e-3, 0), ("G", 1e-3, 1)):
        names = [name for name, _ in nets[net].named_parameters()]
        moved = [
            max((states[i][net][n] - states[i + 1][net][n]).abs().max().item() for n in names)
            for i in range(first, 8, 2)
        ]
        assert moved == pytest.approx([lr * (1 - k / 4 * bool(decay)) for k in range(4)], rel=1e-3)


def test_falling_rates_end_where_the_run_was_to_end(tmp_path):
    """Another --steps would make them jump: refused before the run is touched."""
    run = tmp_path / "r"
    for decay in ([], ["--lr-decay"]):
        train.main([*TINY, *decay, "--steps", "2", "--out", str(run / f"{len(decay)}")])
    assert train.parse_args(["--resume", str(run / "0"), "--steps", "5"]).steps == 5
    decaying = ["--resume", str(run / "1")]
    assert train.parse_args(decaying).steps == train.parse_args([*decaying, "--steps", "2"]).steps
    before = {path: path.read_bytes() for path in (run / "1").glob("*.*")}
    for steps in ("1", "5"):
        with pytest.raises(UserError, match=f"--steps {steps}: .* fall to 0 at step 2 .*--out"):
            train.main([*decaying, "--steps", steps])
    assert before == {path: path.read_bytes() for path in (run / "1").glob("*.*")}


def test_drawing_in_between_leaves_train_mode_and_draws_in_eval_mode(observe, monkeypatch):
    """`observe` asserts the former."""
    drawn = []
    monkeypatch.setattr(train, "draw", lambda G, D, *rest: drawn.append((G.training, D.training)))
    observe("--method", "gan", "--sample-every", "1", steps=3)
    assert drawn == [(False, False)] * 3


def test_gradients_are_of_one_step(observe, monkeypatch):
    """At rate 0, with one batch and one noise for all steps, they stay the same, unless they add up."""
    monkeypatch.setattr(train, "step_rng", lambda seed, step: step_rng(seed, 1))
    batch_of = ImageSet.batch
    monkeypatch.setattr(ImageSet, "batch", lambda data, step, *rest: batch_of(data, 0, *rest))
    seen, _, _ = observe("--method", "gan", "--lr-g", "0", "--lr-d", "0", steps=3)
    for net in "GD":
        grads = [torch.cat([g.flatten() for g in s["grads"][net]]) for s in seen if s["net"] == net]
        assert len(grads) == 3 and grads[0].abs().max() > 1e-6
        assert all(torch.allclose(grad, grads[0], atol=1e-6) for grad in grads)


@pytest.mark.parametrize(
    "method, G, D",
    [
        ("gan", {"lr": 2e-4, "betas": (0.5, 0.999)}, {"lr": 2e-4, "betas": (0.5, 0.999)}),
        ("wgan", {"lr": 5e-5, "alpha": 0.99}, {"lr": 5e-5, "alpha": 0.99}),
        ("wgan_gp", {"lr": 1e-4, "betas": (0.0, 0.9)}, {"lr": 1e-4, "betas": (0.0, 0.9)}),
        ("sagan", {"lr": 1e-4, "betas": (0.0, 0.9)}, {"lr": 4e-4, "betas": (0.0, 0.9)}),
        ("sagan_wgan_gp", {"lr": 1e-4, "betas": (0.0, 0.9)}, {"lr": 4e-4, "betas": (0.0, 0.9)}),
    ],
)
def test_each_methods_optimisers(tmp_path, method, G, D):
    train.main([*TINY, "--method", method, "--steps", "1", "--out", str(tmp_path / "r")])
    state = torch.load(tmp_path / "r/last.pt", weights_only=True)["state"]
    for opt, expected in (("opt_G", G), ("opt_D", D)):
        group = state[opt]["param_groups"][0]
        assert {k: tuple(group[k]) if k == "betas" else group[k] for k in expected} == expected
    wgan = train.make_optimizer(
        nn.Linear(1, 1), 1e-3, train.parse_args(["--method", "wgan", "--beta2", "0.7"]), None
    )
    assert wgan.param_groups[0]["alpha"] == 0.7


def test_the_log_has_W_and_the_penalty_without_its_weight(observe, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "gradient_penalty", lambda D, x, fake, epsilon: 0 * D(x).sum() + 2)
    observe("--method", "wgan_gp", "--gp", "7", "--n-critic", "1", "--log-every", "1", steps=2)
    for line in read_log(tmp_path / "run/log.jsonl"):
        assert line["W"] == pytest.approx(-line["L_D"], abs=1e-6) and line["GP"] == 2


def test_fixed_z_and_fid_samples_are_the_same_at_each_time(tmp_path, monkeypatch):
    """FID is against the test split."""
    tracked, drawn, splits = [], [], []

    class Track:
        def __init__(self, images, *args):
            splits.append(images.split)

        def __call__(self, batches, n):
            tracked.append(torch.cat(list(batches)))
            return {}

    monkeypatch.setattr(train, "Tracker", Track)
    monkeypatch.setattr(train, "draw", lambda G, D, data, z, *rest: drawn.append(z))
    train.main(
        [
            *TINY,
            "--method",
            "wgan_gp",
            "--lr-g",
            "0",
            "--batch-norm",
            "none",
            "--fid-samples",
            "30",
            "--steps",
            "2",
            "--sample-every",
            "1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert len(tracked) == 2 and len(tracked[0]) == 30 and torch.equal(tracked[0], tracked[1])
    assert splits == ["test"]
    z = torch.randn(25, 6, generator=step_rng(0, 0))
    assert all(torch.equal(z, found) for found in drawn)


def test_flags_of_the_networks_reach_their_network():
    def has(net, kind):
        return any(isinstance(m, kind) for m in net.modules())

    for letter, place in (("g", 0), ("d", 1)):
        args = train.parse_args(
            ["--smoke", "--method", "gan", "--batch-norm", letter, "--spectral", letter]
        )
        args.channels = 1
        nets = train.build(args)
        assert [has(net, nn.BatchNorm2d) for net in nets] == [place == 0, place == 1]
        assert [any("parametrizations" in name for name in net.state_dict()) for net in nets] == [
            place == 0,
            place == 1,
        ]


def test_number_of_critic_steps():
    args = train.parse_args(["--method", "wgan"])
    assert [train.critic_steps(s, args) for s in (1, 25, 26, 500, 501, 502, 1001)] == [
        100,
        100,
        5,
        5,
        100,
        5,
        100,
    ]
    args = train.parse_args(["--method", "sagan"])
    assert {train.critic_steps(s, args) for s in (1, 500, 501)} == {1}


def assert_same(a, b, name):
    """Two nested states are equal, bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, (list, tuple)):
        assert_same(dict(enumerate(a)), dict(enumerate(b)), name)
    else:
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b, name


@pytest.mark.parametrize("method", ["wgan", "sagan_wgan_gp"])
def test_resume_is_exact(tmp_path, method):
    """Also the power iterations' u and v, the batches used, and whatever is drawn in between."""
    flags = [
        *TINY,
        "--method",
        method,
        "--n-critic",
        "2",
        "--n-critic-warm",
        "3" if method == "wgan" else "0",
    ]
    train.main([*flags, "--steps", "5", "--out", str(tmp_path / "whole")])
    train.main([*flags, "--steps", "2", "--out", str(tmp_path / "parts"), "--sample-every", "1"])
    train.main(["--resume", str(tmp_path / "parts"), "--steps", "5"])
    whole, parts = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["state"]
        for name in ("whole", "parts")
    )
    assert whole["batch"] == parts["batch"] == (15 if method == "wgan" else 10)
    for net in ("G", "D", "opt_G", "opt_D"):
        assert_same(whole[net], parts[net], net)
    last = [
        {
            k: v
            for k, v in read_log(tmp_path / name / "log.jsonl")[-1].items()
            if k not in ("seconds", "peak_MiB")
        }
        for name in ("whole", "parts")
    ]
    assert last[0]["L_D"] == last[1]["L_D"]


def test_drawing_leaves_spectral_norm_alone(tmp_path):
    """A toy's surface is D in the plane: in train mode it would be a power iteration more."""
    for every, name in (("1", "often"), ("9", "never")):
        train.main(
            [
                "--dataset",
                "25gaussians",
                "--method",
                "wgan_gp",
                "--spectral",
                "gd",
                "--width",
                "8",
                "--steps",
                "3",
                "--batch-size",
                "8",
                "--sample-every",
                every,
                "--out",
                str(tmp_path / name),
            ]
        )
    often, never = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["state"]["D"]
        for name in ("often", "never")
    )
    assert all(torch.equal(value, never[name]) for name, value in often.items())


def test_methods_are_their_papers():
    gan, wgan, gp, sagan, both = (train.parse_args(["--method", m]) for m in train.METHODS)
    assert (gan.optimizer, gan.lr_g, gan.lr_d, gan.beta1, gan.beta2) == (
        "adam",
        2e-4,
        2e-4,
        0.5,
        0.999,
    )
    assert (wgan.optimizer, wgan.lr_g, wgan.clip, wgan.n_critic, wgan.n_critic_warm) == (
        "rmsprop",
        5e-5,
        0.01,
        5,
        100,
    )
    assert (gp.lr_g, gp.lr_d, gp.beta1, gp.beta2, gp.gp, gp.n_critic) == (
        1e-4,
        1e-4,
        0.0,
        0.9,
        10.0,
        5,
    )
    assert [m.init for m in (gan, wgan, gp, sagan, both)] == [
        "normal",
        "normal",
        "he",
        "xavier",
        "xavier",
    ]
    assert [m.z_dim for m in (gan, wgan, gp, sagan, both)] == [100, 100, 128, 128, 128]
    assert (
        train.parse_args(["--dataset", "folder"]).images
        == train.parse_args(["--dataset", "mnist"]).images
        == 0
    )
    quick = train.parse_args(["--quick", "--method", "wgan"])
    assert (quick.n_critic_warm, quick.lr_d, quick.size, quick.images, quick.batch_size) == (
        10,
        2e-4,
        32,
        0,
        32,
    )
    assert train.parse_args(["--quick", "--dataset", "25gaussians"]).lr_decay
    assert (sagan.loss, sagan.lr_d, sagan.lr_g, sagan.beta1, sagan.n_critic, sagan.spectral) == (
        "hinge",
        4e-4,
        1e-4,
        0.0,
        1,
        "gd",
    )
    assert (both.loss, both.gp, both.lr_d, both.lr_g, both.attention, both.clip) == (
        "wasserstein",
        10.0,
        4e-4,
        1e-4,
        "25",
        0.0,
    )
    assert {a.batch_norm for a in (gp, sagan, both)} == {"g"} and gan.batch_norm == "gd"
    assert (both.dataset, both.size, both.images) == ("celeba", 200, 8000)
    assert train.attention_sides(both) == [25] and not train.attention_sides(gan)
    toy = train.parse_args(["--dataset", "25gaussians", "--method", "wgan_gp"])
    assert not toy.lr_decay
    assert (toy.gp, toy.lr_g, toy.beta1, toy.beta2, toy.n_critic, toy.batch_size) == (
        0.1,
        1e-4,
        0.5,
        0.9,
        5,
        256,
    )


@pytest.mark.parametrize(
    "size, sagan, both",
    [(28, 14, 14), (32, 16, 16), (48, 24, 24), (64, 32, 16), (128, 32, 16), (200, 25, 25)],
)
def test_attention_stands_on_a_smaller_map_under_the_penalty(size, sagan, both):
    """The run holds the side, not "auto": another rule must not change what a checkpoint means."""
    for flags, side in (
        (["--method", "sagan"], sagan),
        (["--method", "sagan_wgan_gp"], both),
        (["--method", "sagan_wgan_gp", "--gp", "0"], sagan),
        (["--method", "gan", "--attention", "auto"], sagan),
    ):
        args = train.parse_args([*flags, "--size", str(size)])
        assert args.attention == str(side) and train.attention_sides(args) == [side]
    asked = train.parse_args(["--size", "64", "--attention", "32,8"])
    assert train.attention_sides(asked) == [32, 8]


def test_a_checkpoint_that_says_auto_keeps_its_map(tmp_path):
    """As runs before the rule did, the shipped one among them: the largest up to 32."""
    flags = ["--size", "64", "--attention", "32", "--steps", "1", "--out", str(tmp_path / "r")]
    train.main([*TINY, *flags])
    path = tmp_path / "r/last.pt"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["args"]["attention"] = "auto"
    torch.save(checkpoint, path)
    args = json.loads((tmp_path / "r/args.json").read_text())
    (tmp_path / "r/args.json").write_text(json.dumps(args | {"attention": "auto"}))
    before = checkpoint["state"]["G"]
    G, *_ = sagan_eval.load(path, "cpu")
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())
    sides = []
    for layer in G:
        if isinstance(layer, SelfAttention):
            layer.register_forward_pre_hook(lambda _, x: sides.append(x[0].shape[-1]))
    G(torch.randn(1, 6))
    assert sides == [32]
    train.main(["--resume", str(tmp_path / "r"), "--steps", "2"])
    assert torch.load(path, weights_only=False)["step"] == 2


def test_methods_set_the_same_flags_and_the_table_shows_the_default_one():
    """Else a flag that one method leaves out would keep another's value."""
    table = train.Args()
    assert {tuple(sorted(m)) for m in train.METHODS.values()} == {tuple(sorted(methods.GAN))}
    assert train.METHODS[table.method] == {f: getattr(table, f) for f in methods.GAN}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--method", "wgan_gp", "--batch-norm", "gd"], "BatchNorm in D mixes"),
        (["--fid-samples", "1"], "0 or at least 2"),
        (["--method", "gan", "--gp", "10"], "BatchNorm in D mixes"),
        (["--method", "sagan", "--attention", "40"], "maps of side 100, 50, 25, 13, 7, 4, not 40"),
        (["--attention", "wide"], "--attention wide"),
        (["--size", "4"], "too small"),
        (["--dataset", "8gaussians", "--attention", "16"], "no attention"),
        (["--clip", "-1"], "at least 0"),
        (["--beta2", "1"], "below 1"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flags, message):
    with pytest.raises(UserError, match=message) as e:
        train.parse_args(flags)
    assert "\n" not in str(e.value)


def test_bf16_trains_with_spectral_norm_and_penalty(tmp_path):
    metrics = train.main(
        [
            *TINY,
            "--method",
            "sagan_wgan_gp",
            "--spectral",
            "gd",
            "--amp",
            "bf16",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert math.isfinite(metrics["L_D"]) and metrics["GP"] >= 0


# --- data


def test_images_are_a_choice_that_the_seed_fixes(tmp_path):
    (tmp_path / "faces").mkdir()
    for i in range(12):
        Image.fromarray(np.full((10, 8, 3), i, np.uint8)).save(tmp_path / "faces" / f"{i:02d}.png")

    def chosen(seed, n=5):
        data = load_images("folder", tmp_path, size=8, limit=n, limit_seed=seed)
        return sorted(
            ((data.images_at(range(len(data)))[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        )

    assert (
        chosen(0) == chosen(0) != chosen(1)
        and len(set(chosen(0))) == 5
        and chosen(0, 99) == list(range(12))
    )
    words = ["--dataset", "folder", "--data-dir", str(tmp_path), "--images", "5", "--size", "8"]
    assert [
        len(train.load_data(train.parse_args(words), split)) for split in ("train", "test")
    ] == [5, 12]
    files = [
        {str(f) for f in train.load_data(train.parse_args([*words, "--seed", seed])).files}
        for seed in "001"
    ]
    assert files[0] == files[1] != files[2], "--seed fixes the choice"
    a, b = (load_images("synthetic", None, limit=7, limit_seed=seed).images for seed in (3, 4))
    assert len(a) == 7 and not torch.equal(a, b)


def test_200x200_rgb_from_a_folder(tmp_path):
    """One epoch of 6 images, attention at 25x25; the grid and the peak memory are there."""
    (tmp_path / "d").mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (218, 178, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "d" / f"{i}.png")
    metrics = train.main(
        [
            "--dataset",
            "folder",
            "--data-dir",
            str(tmp_path / "d"),
            "--width",
            "2",
            "--batch-size",
            "3",
            "--steps",
            "2",
            "--log-every",
            "1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    with Image.open(tmp_path / "r/samples/step_00000002.png") as image:
        assert image.size == (5 * 202 + 2, 5 * 202 + 2) and image.mode == "RGB"
    assert metrics["peak_MiB"] > 50 and "gamma_D" in metrics


def test_swiss_roll():
    data = toy_data("swissroll")
    points, t = data.sample(20_000, step_rng(0, 1))
    radius = points.norm(dim=1)
    assert abs((radius - t / 7.5).std().item() - 0.25 / 7.5) < 0.003  # noise along the radius
    assert t.min() >= 1.5 * math.pi and t.max() <= 4.5 * math.pi and radius.max() < 2.1
    assert torch.equal(data.batch(3, 8, 0)[0], data.batch(3, 8, 0)[0])
    metrics = toy_metrics(data.sample(500, step_rng(0, 2))[0], data)
    assert abs(metrics["mmd2_unbiased_s1_500"]) < 0.01 and "modes_500" not in metrics


# --- eval.py


def test_diversity_within_a_batch():
    real = torch.randn(640, 8)
    assert sagan_eval.intra_batch_diversity(real, real) == 1
    assert sagan_eval.intra_batch_diversity(real, real[:1].repeat(128, 1)) == 0
    assert sagan_eval.intra_batch_diversity(real, 3 * real) == pytest.approx(3)
    classes = torch.arange(4.0).repeat_interleave(64)[:, None] + 0.1 * torch.randn(
        256, 2, generator=step_rng(0, 3)
    )
    mixed = classes[torch.randperm(256, generator=step_rng(0, 4))]
    assert sagan_eval.intra_batch_diversity(classes, mixed) == pytest.approx(
        1, abs=0.05
    )  # a folder, sorted by class


def test_evals_diversity_is_that_of_samples_over_that_of_real_images(monkeypatch):
    real = torch.randn(64, 4, generator=step_rng(0, 0))
    monkeypatch.setattr(sagan_eval, "image_scores", lambda *a: ({"fid": 1.0}, real, 3 * real))
    trained = SimpleNamespace(dataset="synthetic", data_dir="data")
    args = SimpleNamespace(n=8, seed=0, batch_size=5, amp="off")
    images, lenet = SimpleNamespace(split="test"), SimpleNamespace(name="lenet")
    found = sagan_eval.measure(None, trained, args, torch.device("cpu"), images, lenet)
    assert found["diversity_lenet_8_test"] == pytest.approx(3)


def test_stability_of_a_loss():
    log = [{"step": s, "L_D": 5.0} for s in range(50)] + [
        {"step": 50 + i, "L_D": 2 + i / 49 + 0.1 * (-1) ** i} for i in range(50)
    ]
    found = convergence.stability(log, "L_D")
    assert found["noise"] == pytest.approx(0.1 / 2.5, rel=0.02)  # about a line from 2 to 3
    assert found["drift"] == pytest.approx(1 / 2.5, rel=0.02)
    assert math.isnan(convergence.stability(log[:2], "L_D")["noise"])


def test_correlation_of_loss_and_quality():
    def log(sign):
        measured = {"fid_lenet_2k_test": 100, "is_lenet_2k": 1.0}
        return [
            {"step": s, "L_D": sign * s} | {k: v - s for k, v in measured.items() if s % 5 == 0}
            for s in range(1, 31)
        ]

    assert convergence.loss_versus_quality(log(1)) == pytest.approx(-1)
    assert convergence.loss_versus_quality(log(-1)) == pytest.approx(1)
    assert math.isnan(convergence.loss_versus_quality(log(1)[:15]))


def test_attention_map_is_the_row_of_the_pixel():
    torch.manual_seed(0)
    G = Generator(6, 16, 1, 8, attention=(8,)).eval()
    images, maps = pictures.attention_maps(
        G, torch.randn(3, 6), (15, 2), 16
    )  # row 7, column 1 of 8x8
    seen = {}
    block = next(layer for layer in G if isinstance(layer, SelfAttention))
    block.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    torch.manual_seed(0)
    Generator(6, 16, 1, 8, attention=(8,))  # the same z again
    z = torch.randn(3, 6)
    G(z)
    assert images.shape == (3, 1, 16, 16)
    assert torch.allclose(maps.flatten(1), block.beta(seen["x"])[:, 7 * 8 + 1], atol=1e-6)


def test_the_query_pixel_is_marked_at_its_row_and_column(tmp_path, monkeypatch, figures_of):
    drawn = figures_of(pictures.plots)
    maps = torch.zeros(1, 1, 16, 16), torch.full((1, 4, 4), 1 / 16)
    monkeypatch.setattr(pictures, "attention_maps", lambda *a: maps)
    pictures.draw_attention(None, torch.zeros(1, 2), (10, 3), 16, tmp_path / "a.png")
    for axis in drawn[0].axes[:2]:  # x is the column
        assert axis.lines[0].get_xydata().tolist() == [[3, 10]]


def test_rows_of_a_surface_are_along_y():
    D = nn.Linear(2, 1, bias=False)
    D.weight.data = T([[1.0, 10.0]])
    side, values = pictures.values_on_square(D, 2)
    assert torch.allclose(values, side[None, :] + 10 * side[:, None], atol=1e-4)


@pytest.mark.parametrize("dataset", ["25gaussians", "swissroll"])
def test_toys_train_and_are_measured(tmp_path, dataset):
    train.main(
        [
            "--dataset",
            dataset,
            "--method",
            "wgan_gp",
            "--quick",
            "--width",
            "8",
            "--batch-size",
            "8",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    sagan_eval.main(["--ckpt", str(tmp_path / "r"), "--export", str(tmp_path / "points")])
    assert np.load(tmp_path / "points/samples.npz")["points"].shape == (2000, 2)
    metrics = sagan_eval.main(["--ckpt", str(tmp_path / "r/last.pt"), "--n", "300"])
    assert "mmd2_unbiased_s1_300" in metrics and ("modes_300" in metrics) == (
        dataset == "25gaussians"
    )
    with Image.open(tmp_path / "r/samples.png") as image:
        assert np.asarray(image).std() > 10


def test_modes_in_the_log_are_of_the_samples(tmp_path):
    flags = ["--dataset", "25gaussians", "--method", "wgan_gp", "--quick", "--width", "8"]
    out = str(tmp_path / "r")
    found = train.main([*flags, "--batch-size", "8", "--steps", "2", "--out", out])
    G, _, trained, _ = sagan_eval.load(tmp_path / "r/last.pt", "cpu")
    samples = G(torch.randn(1000, 2, generator=step_rng(0, 0)))
    expected = mode_metrics(samples, train.load_data(trained))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_slim_toy_is_drawn_and_measured_as_its_run(tmp_path, monkeypatch):
    """With D's values behind; an older slim file has no D and is drawn without them."""
    monkeypatch.chdir(tmp_path)
    toy = "--dataset 25gaussians --method wgan_gp --width 8 --batch-size 8 --steps 2"
    train.main([*toy.split(), "--out", "r"])
    sagan_eval.main(["--ckpt", "r", "--slim", "slim.pt"])
    slim = torch.load("slim.pt", weights_only=True)
    assert set(slim["state"]) == {"G", "D"}
    del slim["state"]["D"]
    torch.save(slim, "older.pt")
    grounds = []
    monkeypatch.setattr(
        pictures.plots, "save_figure", lambda figure, path: grounds.append(len(figure.axes))
    )
    for name in ("slim", "older"):
        sagan_eval.main(["--ckpt", f"{name}.pt", "--samples", "50"])
        metrics = sagan_eval.main(["--ckpt", f"{name}.pt", "--n", "300"])
        assert "modes_300" in metrics
    assert grounds == [2, 2, 1, 1]  # with and without the bar of D's values
    train.main([*TINY, "--steps", "1", "--out", "images"])
    sagan_eval.main(["--ckpt", "images", "--slim", "images.pt"])
    assert set(torch.load("images.pt", weights_only=True)["state"]) == {"G"}


@pytest.mark.parametrize("flags", [[], ["--compare", "--ablation"]])
def test_one_table_is_asked_for(flags):
    with pytest.raises(UserError, match="--compare .* or --ablation"):
        reproduce.parse_args(flags)


@pytest.mark.parametrize("size", [["--quick"], []])
def test_two_learning_rates_are_an_ingredient_of_their_own(size):
    """Rows with attention have TTUR's ratio of 4 but for "− TTUR", whose one rate is the mean."""
    rows = reproduce.ablation(bool(size)) | reproduce.compare(bool(size))
    runs = {row: train.parse_args([*size, *flags.split()]) for row, flags in rows.items()}
    for method in ("SAGAN", "SAGAN + WGAN-GP"):
        two, one = runs[method], runs[f"{method} − TTUR"]
        assert two.lr_d / two.lr_g == runs[f"{method} − attention"].lr_d / two.lr_g == 4
        assert one.lr_d == one.lr_g == pytest.approx(math.sqrt(two.lr_g * two.lr_d))
        assert (one.steps, one.n_critic, one.gp) == (two.steps, two.n_critic, two.gp)
    assert runs["WGAN-GP"].lr_d == runs["WGAN-GP"].lr_g
    assert runs["GAN + TTUR"].lr_d == 4 * runs["GAN + TTUR"].lr_g


def test_what_a_row_is_made_of_by_hand(tmp_path, monkeypatch):
    """The second half of six lines: L_D stays 2, L_G goes from 4 to 6."""
    for name, value in (("load", [None] * 4), ("real_images", ()), ("measure", {})):
        monkeypatch.setattr(reproduce, name, lambda *a, value=value: value)
    lines = [{"step": s, "L_D": 2.0, "L_G": float(s), "seconds": 10 * s} for s in range(1, 7)]
    write_log(tmp_path, lines)
    found = reproduce.measure_run(tmp_path, None, SimpleNamespace(device="cpu"))
    assert found["L_D"]["drift"] == pytest.approx(0) and found["train_seconds"] == 60
    assert found["L_G"]["drift"] == pytest.approx(2 / 5)


def test_a_row_of_two_runs_by_hand():
    metrics = {"L_D": {"noise": 1, "drift": 2}, "L_G": {"noise": 3, "drift": 4}}
    metrics |= {"best_FID_2k": 5, "L_D_versus_FID": 6, "train_seconds": 7, "is_lenet_8": 9}
    results = [
        {"step": 8, "seed": seed, "metrics": metrics | {"fid_lenet_8_test": fid}}
        for seed, fid in enumerate((1.0, 3.0))
    ]
    (row,) = reproduce.summarise({"GAN": results})
    means = {"L_D noise": 1, "L_D drift": 2, "L_G drift": 4, "best FID (2k)": 5, "L_D ~ FID": 6}
    means |= {"seconds per run": 7, "IS": 9}
    assert {name: row[name]["mean"] for name in means} == means
    assert row["FID"] == {"mean": 2, "sd": pytest.approx(math.sqrt(2)), "runs": [1, 3]}


def test_fid_and_is_are_drawn_in_their_panels(tmp_path, figures_of):
    drawn = figures_of(reproduce.plots)
    log = [{"step": s, "fid_lenet_8_test": 90 / s, "is_lenet_8": s} for s in (1, 2, 4)]
    write_log(tmp_path / "a", log)
    reproduce.draw_quality({"GAN": [{"name": "a"}]}, tmp_path)
    for axis, values in zip(drawn[0].axes, ([90, 45, 22.5], [1, 2, 4])):
        assert axis.lines[0].get_xydata().T.tolist() == [[0.25, 0.5, 1], values]


def test_each_loss_is_drawn_in_its_panel(tmp_path, figures_of):
    drawn = figures_of(reproduce.plots)
    write_log(tmp_path / "a", [{"step": 5, "L_D": 1.0, "L_G": 2.0}])
    reproduce.draw_losses({"GAN": [{"name": "a"}]}, tmp_path)
    assert [axis.lines[0].get_xydata().tolist() for axis in drawn[0].axes] == [[[5, 1]], [[5, 2]]]


def test_each_panel_of_scores_has_its_column(tmp_path, figures_of):
    drawn = figures_of(reproduce.plots)
    row = {name: {"runs": [i, i + 2], "mean": i + 1} for i, name in enumerate(reproduce.SCORES)}
    reproduce.draw_scores([row | {"row": "GAN"}], tmp_path / "s.png")
    for i, axis in enumerate(drawn[0].axes):
        assert [list(line.get_xdata()) for line in axis.lines] == [[i, i + 2], [i + 1]]


def test_compare_trains_measures_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--smoke --width 4 --n-critic 1 --steps 8 --fid-samples 80"
    argv = [
        "--compare",
        "--no-quick",
        "--train-flags",
        flags,
        "--points",
        "4",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--n",
        "70",
        "--only",
        "GAN",
        "SAGAN + WGAN-GP",
    ]
    titles, save = {}, reproduce.plots.save_figure

    def remember(figure, path):
        titles[path.name] = figure.axes[0].get_title()
        save(figure, path)

    monkeypatch.setattr(reproduce.plots, "save_figure", remember)
    rows = reproduce.main(argv)
    assert titles["scores.png"].startswith("FID, 70 samples")
    assert [(r["row"], r["seeds"], r["steps"]) for r in rows] == [
        ("GAN", [0, 1], 8),
        ("SAGAN + WGAN-GP", [0, 1], 8),
    ]
    folder = Path("runs/sagan_wgangp/compare")
    assert {p.name for p in folder.iterdir()} >= {
        "compare.md",
        "compare.json",
        "quality.png",
        "losses.png",
        "grids.png",
    }
    text, saved = (
        (folder / "compare.md").read_text(),
        json.loads((folder / "compare.json").read_text()),
    )
    assert "The paper: best is SAGAN + WGAN-GP" in text and text.count("\n| ") == 3
    assert saved["rows"][1]["FID"]["mean"] == pytest.approx(np.mean(rows[1]["FID"]["runs"]))
    curve = saved["rows"][1]["FID (2k) by step"][0]
    assert [step for step, _ in curve] == [2, 4, 6, 8]
    assert min(fid for _, fid in curve) == saved["rows"][1]["best FID (2k)"]["runs"][0]
    before = (folder / "results.jsonl").read_text()
    reproduce.main(argv)  # all there: nothing is trained again
    assert (folder / "results.jsonl").read_text() == before
    check_tables_outlive_runs(folder, ["compare.md", "compare.json"], lambda: reproduce.main(argv))
    pictures_of_runs = [folder / f"{name}.png" for name in ("quality", "losses", "grids")]
    for path in pictures_of_runs:
        path.write_bytes(b"drawn when the runs were there")
    reproduce.main(argv)
    assert {path.read_bytes() for path in pictures_of_runs} == {b"drawn when the runs were there"}
    with pytest.raises(UserError, match="the rows are GAN"):
        reproduce.main(["--compare", "--only", "VAE"])


# --- critics alone


def test_part_of_w1_that_a_linear_critic_sees_is_closed():
    """D = 3 x₁: slope 3, so E x₁ − E x̃₁ whatever the factor; and that is all of W₁ if x̃ is x moved along x₁."""
    x = torch.randn(50, 2, generator=step_rng(0, 1))
    found = surfaces.distance_seen(
        lambda points: 3 * points[:, 0], x, x - T([0.7, 0.0]), torch.rand(50)
    )
    assert found == pytest.approx((0.7, 3.0), rel=1e-5)


def test_the_exact_distance_is_of_the_best_matching():
    """(0, 0) goes to (0, ½), and (1, 0) stays."""
    found = surfaces.exact_distance(T([[0.0, 0.0], [1.0, 0.0]]), T([[1.0, 0.0], [0.0, 0.5]]))
    assert found == pytest.approx(0.25)


def test_surfaces_hold_the_penalised_critic_to_slope_one(tmp_path, monkeypatch):
    """WGAN-GP's Fig. 1a, short: slope near 1, more of W₁ seen than by the clipped critic, never more than all of it."""
    monkeypatch.setattr(surfaces, "TOYS", ("8gaussians",))
    flags = [
        "--n",
        "300",
        "--train-flags",
        "--width 64 --steps 200 --lr-d 2e-3",
        "--out",
        str(tmp_path),
    ]
    found = {row["method"]: row for row in surfaces.main(flags)}
    assert 0.7 < found["wgan_gp"]["slope"] < 2
    assert (
        found["wgan"]["W1_seen"]
        < found["wgan_gp"]["W1_seen"]
        < 1.1 * found["wgan_gp"]["W1_exact_300"]
    )
    assert (tmp_path / "surfaces.png").exists() and json.loads(
        (tmp_path / "surfaces.json").read_text()
    )["rows"]
