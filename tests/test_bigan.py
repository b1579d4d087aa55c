"""BiGAN / ALI: objectives by hand, who gets gradient in the loop itself, inverted pairs, feature measurements."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from torch.nn import functional as F

from bigan import eval as bigan_eval
from bigan import progress as bigan_progress
from bigan import features, figures, reproduce, toys, train
from bigan.data import class_index
from bigan.features import (
    anomaly_score,
    auroc,
    linear_probe,
    measure_features,
    measure_inversion,
    nearest,
    one_nn_accuracy,
    pixel_novelty,
)
from bigan.batch_norm import fixed_batches, recompute_statistics
from bigan.model import (
    ConvFeatures,
    Discriminator,
    discriminator_loss,
    encoder_generator_loss,
    generator_loss,
    latent_loss,
    reconstruction_loss,
)
from common.cli import UserError
from common.data import ImageSet
from common.rng import step_rng
from common.runs import load_checkpoint
from tests.helpers import check_tables_outlive_runs, write_log

T = torch.tensor
CPU = torch.device("cpu")
LN2 = math.log(2)
TINY = ["--smoke", "--size", "8", "--width", "2", "--z-dim", "4", "--batch-size", "6"]


def networks(stochastic=False, pairs=True, **flags):
    """G, E and D of these arguments, of grey images unless they say channels."""
    encoder = "stochastic" if stochastic else "deterministic"
    method = "bigan" if pairs else "latent-regressor"
    shape = dict(channels=1) | flags
    return train.build(train.Args(encoder=encoder, method=method, **shape))


def count(net):
    return sum(p.numel() for p in net.parameters())


# --- objectives


def test_all_losses_are_ln_2_where_D_is_one_half():
    zero = torch.zeros(5)
    for loss in (
        discriminator_loss(zero, zero),
        encoder_generator_loss(zero, zero),
        generator_loss(zero),
    ):
        assert loss.item() == pytest.approx(LN2)


def test_adversarial_losses_by_hand():
    real, fake = T([math.log(3), 0.0]), T([math.log(4), -math.log(4)])  # D: 3/4, 1/2; 4/5, 1/5
    assert discriminator_loss(real, fake).item() == pytest.approx(
        -(math.log(3 / 4) + math.log(1 / 2)) / 4 - (math.log(1 / 5) + math.log(4 / 5)) / 4
    )
    assert encoder_generator_loss(real, fake).item() == pytest.approx(
        -(math.log(1 / 4) + math.log(1 / 2)) / 4 - (math.log(4 / 5) + math.log(1 / 5)) / 4
    )
    assert generator_loss(fake).item() == pytest.approx(-(math.log(4 / 5) + math.log(1 / 5)) / 2)


def test_losses_of_G_and_E_are_Ds_with_the_labels_swapped():
    real, fake = torch.randn(2, 50, dtype=torch.float64).unbind(0)
    both = torch.cat([real, fake])
    labels = torch.cat([torch.ones(50), torch.zeros(50)]).double()
    assert discriminator_loss(real, fake).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(both, labels).item()
    )
    assert encoder_generator_loss(real, fake).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(both, 1 - labels).item()
    )


def test_latent_and_reconstruction_losses_by_hand():
    a, z = T([[0.0, math.log(3)]]), T([[1.0, 0.0]])  # σ(a): 1/2, 3/4; targets 1, 1/2
    expected = -(math.log(1 / 2) + 0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4)) / 2
    assert latent_loss(a, z).item() == pytest.approx(expected)
    assert latent_loss(T([[3.0, 1.0]]), T([[1.0, 1.0]]), "normal").item() == pytest.approx(
        1.0
    )  # ½ (4 + 0) / 2
    x, rec = T([[[[1.0, -1.0]]]]), T([[[[0.5, 0.0]]]])
    assert reconstruction_loss(x, rec, 1).item() == pytest.approx(0.75)
    assert reconstruction_loss(x, rec, 2).item() == pytest.approx((0.25 + 1) / 2)


def test_anomaly_score_by_hand():
    x, rec = T([[[[1.0, -1.0]]], [[[0.0, 0.0]]]]), T([[[[0.5, 0.0]]], [[[0.0, 0.0]]]])
    f, f_rec = T([[1.0, 2.0], [0.0, 5.0]]), T([[1.0, 0.0], [1.0, 5.0]])
    assert anomaly_score(x, rec, f, f_rec).tolist() == pytest.approx([0.9 * 1.5 + 0.1 * 2, 0.1])


# --- the game


def test_D_cannot_beat_ln_2_where_E_inverts_G_and_can_where_it_does_not():
    """Linear G = A, E = A⁻¹, normal prior: (x, E(x)) and (G(z), z) are one distribution. E = −A⁻¹: they are not."""
    A = T([[1.0, 0.5], [-0.3, 0.8]])

    def loss_of_trained_D(E):
        torch.manual_seed(0)
        _, _, D = networks(arch="toy", z_dim=2, width=16)
        adam = torch.optim.Adam(D.parameters(), lr=1e-2)
        for step in range(201):
            n = 20_000 if step == 200 else 128
            x, z = torch.randn(n, 2) @ A.T, torch.randn(n, 2)
            loss = discriminator_loss(D(x, x @ E.T), D(z @ A.T, z))
            adam.zero_grad()
            loss.backward()
            adam.step()
        return loss.item()  # of fresh samples, before its step

    assert loss_of_trained_D(torch.linalg.inv(A)) > LN2 - 0.005
    assert loss_of_trained_D(-torch.linalg.inv(A)) < 0.4


def observed_step(tmp_path, monkeypatch, watch_steps, *flags):
    """Gradients of the first step of train.main, and what they should be made of: initial networks, x, z, ε."""
    grads, argv = (
        {},
        [*TINY, "--steps", "1", "--weight-decay", "0", "--out", str(tmp_path / "run"), *flags],
    )
    nets = []
    build = train.build

    def head_moved(args):  # D starts at logit 0, where it gives nobody a gradient
        G, E, D = build(args)
        torch.nn.init.normal_(D.head.weight, generator=torch.Generator().manual_seed(1))
        nets[:] = G, E, D
        return G, E, D

    def look(optimiser):  # when it steps: a backward after the averaging counts, too
        stepping = {id(p) for p in optimiser.param_groups[0]["params"]}
        for name, net in zip("GED", nets):
            if {id(p) for p in net.parameters()} <= stepping:
                grads[name] = [p.grad.clone() for p in net.parameters()]

    monkeypatch.setattr(train, "build", head_moved)
    watch_steps(train, "fused_adam", look)
    train.main(argv)
    args = train.parse_args(argv)
    data, trained = train.load_data(args), list(nets)
    args.channels = data.channels
    train.seed_all(args.seed)
    G, E, D = head_moved(args)
    grads["moved"] = {
        name
        for name, net, before in zip("GED", trained, (G, E, D))
        if all(not torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters()))
    }
    rng = step_rng(args.seed, 1)
    x = data.batch(0, args.batch_size, args.seed)[0]
    return grads, G, E, D, x, train.sample_z(6, args, rng), train.sample_eps(6, args, rng)


def assert_gradient(found, loss, net):
    expected = torch.autograd.grad(
        loss, list(net.parameters()), allow_unused=True, retain_graph=True
    )
    assert any(g is not None and g.abs().max() > 1e-9 for g in expected), "nothing to compare"
    for a, b in zip(
        found, expected
    ):  # fp32 errs by the size of the summands, whatever is left of their sum
        b = torch.zeros_like(a) if b is None else b
        assert (a - b).abs().max() <= max(1e-7, 1e-5 * b.abs().max())


@pytest.mark.parametrize("method", ["bigan", "ali"])
def test_each_network_gets_its_own_half_of_the_loss_at_the_same_parameters(
    tmp_path, monkeypatch, watch_steps, method
):
    grads, G, E, D, x, z, eps = observed_step(
        tmp_path, monkeypatch, watch_steps, "--method", method
    )
    assert (eps is not None) == (method == "ali") and grads["moved"] == set("GED")
    code, image = E(x, eps), G(z)
    real, fake = D(x, code), D(image, z)
    assert_gradient(
        grads["E"], -torch.sigmoid(-real).log().mean() / 2, E
    )  # −½ E log(1 − D(x, E(x))), no G(z)
    assert_gradient(
        grads["G"], -torch.sigmoid(fake).log().mean() / 2, G
    )  # −½ E log D(G(z), z), no E(x)
    real, fake = D(x, code.detach()), D(image.detach(), z)
    assert_gradient(
        grads["D"], -(torch.sigmoid(real).log().mean() + torch.sigmoid(-fake).log().mean()) / 2, D
    )


@pytest.mark.parametrize("arch, size", [("mlp", 16), ("conv", 16)])
def test_batch_norm_does_not_hide_the_size_of_unbounded_codes(arch, size):
    """x is one image throughout, so only z varies: normalised with it, ten times z would look like z."""
    x, z = torch.zeros(64, 1, size, size), torch.randn(64, 8)
    for prior, hidden in (("uniform", True), ("normal", False)):
        _, _, D = networks(arch=arch, z_dim=8, size=size, width=8, prior=prior)
        for C in D.net.conditions:
            torch.nn.init.normal_(C.weight)
        f, f10 = D.features(x, z), D.features(x, 10 * z)
        assert torch.allclose(f, f10, atol=0.01) == hidden
        assert (f10.std() > 5 * f.std()) != hidden


def test_cycle_adds_the_reconstruction_error_to_G_and_E_and_not_to_D(
    tmp_path, monkeypatch, watch_steps
):
    grads, G, E, D, x, z, _ = observed_step(tmp_path, monkeypatch, watch_steps, "--cycle", "3")
    code = E(x)
    real, fake = D(x, code), D(G(z), z)
    swapped = -(torch.sigmoid(-real).log().mean() + torch.sigmoid(fake).log().mean()) / 2
    loss = swapped + 3 * (x - G(code)).abs().mean()
    assert_gradient(grads["E"], loss, E)
    assert_gradient(grads["G"], loss, G)
    assert_gradient(grads["D"], discriminator_loss(real, fake), D)


@pytest.mark.parametrize("method, weight", [("latent-regressor", 1.0), ("joint-lr", 0.25)])
def test_regressors_D_sees_images_only_and_G_feels_E_only_in_joint_lr(
    tmp_path, monkeypatch, watch_steps, method, weight
):
    grads, G, E, D, x, z, _ = observed_step(tmp_path, monkeypatch, watch_steps, "--method", method)
    image = G(z)
    L_G, L_E = -torch.sigmoid(D(image)).log().mean(), latent_loss(E.logits(image), z)
    assert_gradient(grads["E"], weight * L_E, E)
    assert_gradient(grads["G"], L_G + weight * L_E if method == "joint-lr" else L_G, G)
    assert_gradient(grads["D"], discriminator_loss(D(x), D(image.detach())), D)


@pytest.mark.parametrize("method, p", [("ae-l1", 1), ("ae-l2", 2)])
def test_autoencoders_leave_D_alone(tmp_path, monkeypatch, watch_steps, method, p):
    grads, G, E, _, x, _, _ = observed_step(tmp_path, monkeypatch, watch_steps, "--method", method)
    assert "D" not in grads and grads["moved"] == set("GE")
    assert_gradient(grads["E"], (x - G(E(x))).abs().pow(p).mean(), E)
    assert_gradient(grads["G"], (x - G(E(x))).abs().pow(p).mean(), G)


def test_gradients_are_of_one_step_and_networks_in_train_mode(tmp_path, monkeypatch, watch_steps):
    """At rate 0 and with the same batch they stay the same, unless they add up; samples are drawn in between."""
    seen, nets = {}, []
    build = train.build
    monkeypatch.setattr(train, "build", lambda args: nets.extend(build(args)) or tuple(nets))
    monkeypatch.setattr(train, "step_rng", lambda seed, step: step_rng(seed, 1))
    batch_of = ImageSet.batch
    monkeypatch.setattr(ImageSet, "batch", lambda data, step, *rest: batch_of(data, 0, *rest))

    def look(optimiser):
        assert all(net.training for net in nets)
        params = optimiser.param_groups[0]["params"]
        grad = torch.cat([p.grad.flatten() for p in params])
        seen.setdefault(len(params), []).append(grad)

    watch_steps(train, "fused_adam", look)
    train.main(
        [
            *TINY,
            "--steps",
            "3",
            "--lr",
            "0",
            "--cycle",
            "1",
            "--sample-every",
            "1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert len(seen) == 2
    for grads in seen.values():
        assert len(grads) == 3 and grads[0].abs().max() > 1e-6
        assert all(torch.allclose(grad, grads[0], atol=1e-7) for grad in grads)


def test_the_log_has_Ds_answers(tmp_path, monkeypatch):
    """D's head moved so that it says σ(2) of (x, E(x)) and σ(−3) of (G(z), z)."""
    monkeypatch.setattr(
        Discriminator,
        "forward",
        lambda D, x, z: D.head(D.features(x, z)).squeeze(1) * 0 + (2 if x.grad_fn is None else -3),
    )
    metrics = train.main([*TINY, "--steps", "1", "--out", str(tmp_path / "r")])
    assert metrics["D_real"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert metrics["D_fake"] == pytest.approx(1 / (1 + math.exp(3)))
    assert metrics["L_D"] == pytest.approx(
        (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-3))) / 2
    )


@pytest.mark.parametrize("arch", ["mlp", "conv", "toy"])
def test_D_judges_pairs(arch):
    torch.manual_seed(0)
    _, _, D = networks(arch=arch, z_dim=3, size=16, width=8)
    for weight in (p for p in D.parameters() if p.dim() > 1):
        torch.nn.init.normal_(weight)
    x = torch.randn(8, 2) if arch == "toy" else torch.rand(8, 1, 16, 16)
    z = torch.rand(8, 3)
    assert not torch.allclose(D(x, z), D(x, z.roll(1, 0)), atol=1e-4)
    _, _, plain = networks(arch=arch, z_dim=3, size=16, width=8, pairs=False)
    torch.nn.init.normal_(plain.head.weight)
    assert torch.equal(plain(x, z), plain(x, z.roll(1, 0))) and count(plain) < count(D)


# --- networks


def test_the_papers_mnist_networks():
    G, E, D = networks()
    assert (
        count(G) == 50 * 1024 + 1024**2 + 50 * 1024 + 1024 * 784
    )  # the second: z again, into layer 2
    assert count(E) == 784 * 1024 + 1024**2 + 1024 * 50
    assert count(D) == 784 * 1024 + 1024**2 + 50 * 1024 + 1024  # no bias, no gain anywhere
    x, z = torch.rand(4, 1, 28, 28) * 2 - 1, torch.rand(4, 50) * 2 - 1
    assert G(z).shape == x.shape and G(z).abs().max() <= 1
    assert E(x).shape == z.shape and E.features(x).shape == (4, 1024)
    assert torch.equal(D(x, z), torch.zeros(4)), "D = ½ at the start"
    assert E.features.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_alis_toy_networks():
    """ali_mixture.py at a7d4235: G 2-400⁴-2, E (x, ε) 4-400²-2, BN and ReLU; D 4-200³-1, maxout of 5 pieces."""
    norm = 2 * 400
    G, E, D = networks(arch="toy", z_dim=2, width=400, prior="normal", stochastic=True)
    assert count(G) == 2 * 400 + 3 * 400**2 + 4 * norm + 400 * 2 + 2
    assert count(E) == 4 * 400 + 400**2 + 2 * norm + 400 * 2 + 2
    assert count(D) == 4 * 1000 + 1000 + 2 * (200 * 1000 + 1000) + 200
    x, eps = torch.randn(8, 2), torch.randn(8, 2)
    E.eval()
    assert G(x).shape == E(x, eps).shape == (8, 2) and not torch.allclose(
        E(x, eps), E(x, eps.roll(1, 0)), atol=1e-6
    )
    assert torch.equal(E(x), E(x, torch.zeros(8, 2)))


def test_mlp_networks_see_images_in_0_1_and_do_not_care_where_a_pixel_is():
    E = networks(size=8, width=4, z_dim=5)[1].eval()
    assert torch.equal(E(torch.full((1, 1, 8, 8), -1.0)), torch.zeros(1, 5)), (
        "black is 0, and there is no bias"
    )
    x, order = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randperm(64)
    before = E(x)
    E.features.layers[0].weight.data = E.features.layers[0].weight.data[:, order]
    assert torch.allclose(E(x.flatten(1)[:, order].view_as(x)), before, atol=1e-6)


def test_conv_conditions_start_as_large_as_a_sum_over_a_kernel():
    _, _, D = networks(arch="conv", z_dim=100, size=32, width=32)
    assert D.net.conditions[0].weight.std().item() == pytest.approx(0.02 * 16, rel=0.05)
    assert D.net.layers[1].weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("size, channels", [(32, 1), (32, 3), (64, 1), (64, 3)])
def test_conv_networks(size, channels):
    torch.manual_seed(0)
    shape = dict(arch="conv", z_dim=10, size=size, channels=channels, width=2)
    x, z = torch.rand(3, channels, size, size), torch.rand(3, 10)
    G, E, D = networks(**shape)
    assert G(z).shape == x.shape and E(x).shape == z.shape and D(x, z).shape == (3,)
    assert not torch.allclose(G.eval()(z)[0], G(z.flip(0))[0], atol=1e-6)
    with pytest.raises(ValueError, match="4·2"):
        ConvFeatures(size=28, channels=1, width=2)
    with pytest.raises(UserError, match="--size 28: .*4·2"):
        networks(arch="conv", size=28)


def test_encoder_keeps_to_the_priors_support_and_adds_its_noise():
    torch.manual_seed(0)
    x, eps = torch.rand(6, 1, 8, 8), torch.randn(6, 4)
    E = networks(size=8, width=2, z_dim=4)[1].eval()
    E.head.weight.data *= 1e4
    assert E.logits(x).abs().max() > 1 and E(x).abs().max() <= 1
    assert torch.allclose(E(x), torch.tanh(E.logits(x) / 2), atol=1e-6)
    ali = networks(size=8, width=2, z_dim=4, prior="normal", stochastic=True)[1].eval()
    ali.head.weight.data *= 50
    mu, sigma = ali(x), ali(x, torch.ones(6, 4)) - ali(x)
    assert (
        torch.allclose(ali(x, eps), mu + sigma * eps, atol=1e-5)
        and (sigma > 0).all()
        and sigma.std() > 1e-3
    )
    a = ali.head(ali.features(x))
    assert torch.allclose(mu, a[:, :4], atol=1e-6) and torch.allclose(
        sigma.log(), a[:, 4:], atol=1e-4
    )


def test_statistics_are_means_over_the_batches_and_batches_no_longer_matter():
    torch.manual_seed(0)
    G, E, D = networks(size=8, width=2, z_dim=4)
    batches = [(torch.rand(5, 1, 8, 8), torch.rand(5, 4), None) for _ in range(3)]
    recompute_statistics(G, E, D, batches)
    inputs = [G.layers[0](z) for _, z, _ in batches]
    assert torch.allclose(
        G.norms[0].running_mean, torch.stack([h.mean(0) for h in inputs]).mean(0), atol=1e-6
    )
    assert torch.allclose(
        G.norms[0].running_var, torch.stack([h.var(0) for h in inputs]).mean(0), atol=1e-6
    )
    assert not (G.training or E.training or D.training) and G.norms[0].momentum == 0.1
    x, z, _ = batches[0]
    assert torch.allclose(G(z[:1]), G(z)[:1], atol=1e-6) and torch.allclose(
        E(x[:1]), E(x)[:1], atol=1e-6
    )
    recompute_statistics(
        G, E, D, [(x, None, None) for x, _, _ in batches]
    )  # z None: G is given E(x)
    E.train()
    inputs = [G.layers[0](E(x)) for x, _, _ in batches]
    assert torch.allclose(
        G.norms[0].running_mean, torch.stack([h.mean(0) for h in inputs]).mean(0), atol=1e-6
    )


# --- measurements


def test_nearest_is_exact():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(3, 1, (300, 7)), rng.normal(3, 1, (101, 7))
    found = nearest(T(bank).float(), T(queries).float(), block=32)
    assert found.tolist() == cdist(queries, bank).argmin(1).tolist()
    labels = torch.arange(300)
    assert one_nn_accuracy(T(bank), labels, T(bank[:50]), labels[:50]) == 1.0
    assert one_nn_accuracy(T(bank), labels, T(bank[:50]), labels[:50].roll(1)) == 0.0


def test_linear_probe_is_least_squares_on_one_hot_labels():
    rng = np.random.default_rng(0)
    X, queries = rng.normal(size=(400, 5)) * [1, 10, 0.1, 1, 1] + 2, rng.normal(size=(200, 5)) + 2
    y = (X[:, 0] + X[:, 3] > 4).astype(int) + 2 * (X[:, 4] > 2)
    scale = lambda a: (a - X.mean(0)) / X.std(0, ddof=1)
    design = np.c_[scale(X), np.ones(400)]
    answers = (
        np.c_[scale(queries), np.ones(200)] @ np.linalg.lstsq(design, np.eye(4)[y], rcond=None)[0]
    ).argmax(1)
    assert linear_probe(T(X), T(y), T(queries), T(answers), ridge=1e-9) == 1.0
    assert linear_probe(T(X), T(y), T(queries), T(answers), ridge=100.0) < 1.0
    constant = np.c_[X, np.ones(400)]
    assert (
        linear_probe(T(constant), T(y), T(constant), T(y)) > 0.7
    )  # a dead feature is no division by 0


def test_auroc_by_hand_and_against_scipy():
    assert auroc(T([1.0, 2.0, 3.0, 4.0]), T([False, False, True, True])) == 1.0
    assert auroc(T([1.0, 2.0, 3.0, 4.0]), T([False, True, False, True])) == 0.75  # 3 of 4 pairs
    assert auroc(T([1.0, 1.0]), T([False, True])) == 0.5
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.3  # many ties
    expected = mannwhitneyu(scores[positive], scores[~positive]).statistic / (
        positive.sum() * (~positive).sum()
    )
    assert auroc(T(scores), T(positive)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="positives and negatives"):
        auroc(T([1.0]), T([True]))


def grey(shades, labels=None, split="train"):
    """Grey images of 2x2, each of one shade from 0 to 255, of the classes a and b."""
    images = T(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels = None if labels is None else T(labels)
    return ImageSet("grey", split, 2, 1, ["a", "b"], images=images, labels=labels)


def test_novelty_is_the_distance_to_the_nearest_training_image_in_pixels_of_0_1():
    novelty = pixel_novelty(grey([0, 255, 102]), grey([102, 51, 240]), bank=2, device="cpu")
    # the third training image is not in the bank; four pixels each: a norm of 2
    assert novelty.tolist() == pytest.approx([2 * 0.4, 2 * 0.2, 2 * 15 / 255], rel=1e-5)


class Images(ImageSet):
    """Grey images of 2x2, in memory, whose shade tells which they are."""

    def __init__(self, shades, labels, files=None):
        self.shades, self.labels, self.files = T(shades), T(labels), files

    def __len__(self):
        return len(self.shades)

    def images_at(self, index, device):
        return self.shades[index].view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_progress_measures_on_the_test_images(tmp_path, monkeypatch):
    """E reads the shade off, G writes it: perfect but for a constant. 1NN by the bank's labels: 2 of 3 are right.
    With (shade - 0.2)² in the features' place 1 of 3 is: 0.49, 0.36, 1.21 beside the bank's 1.44, 0.49, 0.09, 0.64."""
    monkeypatch.setattr(bigan_progress, "save_rows", lambda rows, path: None)
    data, test = Images([-1.0, -0.5, 0.5, 1.0], [0, 1, 2, 3]), Images([0.9, -0.4, -0.9], [3, 1, 2])
    E = lambda x: x[:, 0, 0, :1]
    E.features = lambda x: (x[:, 0, 0, :1] - 0.2) ** 2
    G = lambda z: (z + 0.05).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    scores = bigan_progress.progress(G, E, data, test, torch.zeros(4, 1), tmp_path / "g.png")
    assert scores["1nn_E_4_3"] == pytest.approx(2 / 3)
    assert scores["1nn_features_4_3"] == pytest.approx(1 / 3)
    others = [abs(a - b - 0.05) for a, b in ((-0.9, 0.9), (0.9, -0.4), (-0.4, -0.9))]
    assert scores["recon_ratio_3"] == pytest.approx(0.05 / (sum(others) / 3), rel=1e-4)


def reads_shade(x):
    """E and its features, where an image is a shade."""
    return x[:, 0, 0, :1]


reads_shade.features = reads_shade.logits = reads_shade


def writes_shade(z):
    """G, where z is a shade."""
    return z.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def look_at(data, test, tmp_path, **more):
    """`progress` of networks that know nothing but the shade."""
    networks = writes_shade, reads_shade
    return bigan_progress.progress(
        *networks, data, test, torch.zeros(4, 1), tmp_path / "g.png", **more
    )


def test_image_files_are_measured_in_no_order_of_their_classes(tmp_path):
    """Noise with sorted labels: of its first 30 images all are of class 0, and 1NN would be 1."""
    rng = torch.Generator().manual_seed(0)
    labels = [c for c in range(3) for _ in range(40)]
    data, test = (
        Images(torch.rand(120, generator=rng).tolist(), labels, [f"{split}/{i}" for i in labels])
        for split in ("train", "test")
    )
    assert sorted(data.places(500).tolist()) == list(range(120))
    assert data.places(30).tolist() == data.places(500)[:30].tolist()
    scores = look_at(data, test, tmp_path, n_bank=30, n_queries=30)
    assert scores["1nn_E_30_30"] == scores["1nn_features_30_30"] < 0.7
    data.shades = test.shades = T(labels) / 2 - 0.5  # labels go with their images
    assert look_at(data, test, tmp_path, n_bank=30, n_queries=30)["1nn_E_30_30"] == 1
    scores = measure_features(reads_shade, None, reads_shade, data, test, 30, "cpu")
    assert scores["1nn_E_30_120"] == scores["1nn_pixels_30_120"] == 1
    data.files = None
    assert data.places(30).tolist() == list(range(30))


def test_the_nearest_of_the_images_themselves_is_not_looked_for(tmp_path, capsys):
    shades, labels = [-1.0, -0.5, 0.5, 1.0], [0, 1, 0, 1]
    data = Images(shades, labels, ["a/0", "b/0", "a/1", "b/1"])
    assert list(look_at(data, data, tmp_path)) == ["recon_ratio_4"]
    assert "the test split is the training images" in capsys.readouterr().err
    other = Images(shades, labels, ["a/2", "b/2", "a/3", "b/3"])
    assert look_at(data, other, tmp_path)["1nn_E_4_4"] == 1
    other.labels = T([0, 1, 2, 1])  # a class that was held out
    assert list(look_at(data, other, tmp_path)) == ["recon_ratio_4"]


def test_each_key_of_1nn_names_its_space(monkeypatch):
    """Each space is one number in place of features, and its score is this number."""

    def net(value):
        return lambda x, *z: torch.full((len(x), 1), float(value))

    E, fresh, D = net(1), net(4), SimpleNamespace(pairs=True, features=net(6))
    E.logits, E.features, fresh.features = net(2), net(3), net(5)
    for score in ("one_nn_accuracy", "linear_probe"):
        monkeypatch.setattr(features, score, lambda bank, *rest: bank.mean().item())
    data = Images([0.5, 0.5], [0, 1])
    names = ("E", "logits", "features", "untrained_E", "untrained_features", "D")
    expected = {f"1nn_{name}_2_2": value for value, name in enumerate(names, 1)}
    expected |= {"1nn_pixels_2_2": 0.5, "probe_pixels_2_2": 0.5, "probe_E_2_2": 1}
    expected |= {"probe_features_2_2": 3, "probe_untrained_features_2_2": 5}
    assert measure_features(E, D, fresh, data, data, 2, CPU) == expected


def test_progress_of_a_toy_tells_samples_from_reconstructions(tmp_path, monkeypatch):
    """G(z) is always the first mode, G(E(x)) each x."""
    drawn = {}
    monkeypatch.setattr(
        toys, "densities", lambda points, path, limit: drawn.update(points, limit=limit)
    )
    args = train.parse_args(["--dataset", "25gaussians"])
    data = train.load_data(args)
    first = data.centres[0].float()
    E = lambda x, eps: x
    G = lambda z: first.expand(len(z), 2) if not z.any() else z
    scores = toys.toy_progress(G, E, data, torch.zeros(2000, 2), args, tmp_path / "d.png")
    assert scores["modes_2k"] == 1 and scores["modes_recon_2k"] == 25
    assert drawn["limit"] > drawn["reconstructions"].abs().max()


def test_measurements_of_a_toy_tell_samples_from_reconstructions():
    """All samples are of one mode, and E and G leave the data as they are."""
    args = train.parse_args(["--dataset", "25gaussians"])
    data = train.load_data(args)
    samples = data.centres[:1].float().expand(500, 2)
    found = toys.measure_toy(lambda z: z, lambda x, eps: x, samples, data, args, 0, CPU)
    assert (found["modes_500"], found["modes_recon_500"]) == (1, 25)


@pytest.mark.parametrize("method, with_z", [("bigan", True), ("joint-lr", True), ("ae-l1", False)])
def test_statistics_are_of_what_G_is_given(method, with_z):
    args = train.parse_args([*TINY, "--method", method])
    batches = list(fixed_batches(train.load_data(args), args, 3, torch.device("cpu")))
    assert len(batches) == 3 and not torch.equal(batches[0][0], batches[1][0])
    assert all((z is not None) == with_z and eps is None for _, z, eps in batches)


def test_samples_are_drawn_with_statistics_of_the_weights_as_they_are(tmp_path, monkeypatch):
    """The statistics are taken over training images."""
    seen = []
    monkeypatch.setattr(
        train, "recompute_statistics", lambda G, E, D, batches: seen.append(list(batches))
    )
    train.main([*TINY, "--steps", "2", "--sample-every", "1", "--out", str(tmp_path / "r")])
    assert [len(batches) for batches in seen] == [50, 50]
    x, _ = train.load_data(train.parse_args(TINY)).batch(0, 6, 0)
    assert torch.equal(seen[0][0][0], x) and torch.equal(seen[1][0][0], x)


def test_progress_gets_the_training_images_and_then_those_to_test_with(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "progress", lambda *given: seen.append(given) or {})
    train.main([*TINY, "--steps", "1", "--out", str(tmp_path / "r")])
    ((_, _, data, test, _, _),) = seen
    assert (data.split, test.split) == ("train", "test")


# --- train.py's own rules


def test_defaults_are_the_papers():
    args = train.parse_args([])
    paper = dict(
        method="bigan",
        arch="mlp",
        size=28,
        width=64,
        z_dim=50,
        prior="uniform",
        encoder="deterministic",
        cycle=0.0,
        lr=2e-4,
        lr_final=0.01,
        beta1=0.5,
        weight_decay=2.5e-5,
        batch_size=128,
        steps=400 * 469,
        lr_weight=0.25,
        lr_steps=400 * 469,
    )
    assert {k: getattr(args, k) for k in paper} == paper
    ali = train.parse_args(["--method", "ali"])
    assert (ali.prior, ali.encoder) == ("normal", "stochastic")
    toy = train.parse_args(["--dataset", "25gaussians"])
    assert (toy.arch, toy.lr, toy.lr_ratio, toy.beta1, toy.lr_final) == ("toy", 1e-4, 1, 0.8, 1)
    quick = train.parse_args(["--quick", "--dataset", "25gaussians"])
    assert (quick.arch, quick.lr, quick.lr_ratio, quick.beta1, quick.cycle) == (
        "toy",
        1e-3,
        0.1,
        0.5,
        0,
    )
    images = train.parse_args(["--quick"])
    assert (images.width, images.cycle, images.steps, images.lr) == (32, 5, 20_000, 2e-4)
    assert train.parse_args(["--arch", "conv"]).size == 32
    assert train.parse_args(["--lr-steps", "7"]).lr_steps == 7
    assert (
        train.parse_args(["--quick"]).cycle == 5
        and train.parse_args(["--quick", "--method", "ae-l2"]).cycle == 0
    )


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--method", "ae-l1", "--cycle", "1"], "--cycle belongs to"),
        (["--arch", "toy"], "toy goes with"),
        (["--method", "joint-lr", "--encoder", "stochastic"], "stochastic belongs to"),
        (["--lr", "-1"], "at least 0"),
        (["--dataset", "25gaussians", "--hold-out", "3"], "no classes to leave out"),
    ],
)
def test_flags_that_mean_nothing_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        train.parse_args(argv)


def test_z_is_uniform_or_normal():
    uniform = train.sample_z(4000, train.parse_args([]), step_rng(0, 1))
    normal = train.sample_z(4000, train.parse_args(["--method", "ali"]), step_rng(0, 1))
    assert uniform.shape == (4000, 50) and uniform.abs().max() <= 1
    assert (
        uniform.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02) and uniform.min() < -0.99
    )
    assert normal.std().item() == pytest.approx(1, rel=0.02)


def test_learning_rate_is_constant_then_falls_to_one_percent(tmp_path):
    def rate(name, *flags):
        train.main([*TINY, "--out", str(tmp_path / name), *flags])
        state = load_checkpoint(tmp_path / name / "last.pt")["state"]
        for opt in ("opt_D", "opt_GE"):
            group = state[opt]["param_groups"][0]
            assert group["weight_decay"] == 2.5e-5 and tuple(group["betas"]) == (0.5, 0.999)
        return [state[opt]["param_groups"][0]["lr"] for opt in ("opt_D", "opt_GE")]

    assert rate("half", "--steps", "2", "--lr-steps", "4") == [2e-4, 2e-4]
    assert rate("three quarters", "--steps", "3", "--lr-steps", "4") == pytest.approx([2e-5, 2e-5])
    assert rate("end", "--steps", "1") == pytest.approx([2e-6, 2e-6])
    assert rate("ratio", "--steps", "1", "--lr-ratio", "0.1") == pytest.approx(
        [2e-6, 2e-7]
    )  # [D, G and E]


@pytest.mark.parametrize(
    "flags", [("--method", "ali", "--arch", "conv", "--cycle", "1"), ("--method", "joint-lr")]
)
def test_resumed_is_the_same_run(tmp_path, flags):
    common = [*TINY, *flags, "--lr-steps", "8"]
    train.main([*common, "--steps", "6", "--out", str(tmp_path / "whole")])
    train.main([*common, "--steps", "4", "--out", str(tmp_path / "parts")])
    train.main(["--resume", str(tmp_path / "parts"), "--steps", "6"])
    whole, parts = (
        load_checkpoint(tmp_path / name / "last.pt")["state"] for name in ("whole", "parts")
    )
    for net in "GED":
        for name, tensor in whole[net].items():
            assert torch.equal(tensor, parts[net][name]), f"{net}.{name}"
    for opt in ("opt_D", "opt_GE"):
        for i, moments in whole[opt]["state"].items():
            assert all(
                torch.equal(moment, parts[opt]["state"][i][name])
                for name, moment in moments.items()
            ), opt


def test_hold_out_leaves_a_class_out_of_training_only():
    args = train.parse_args(["--smoke", "--hold-out", "Square"])
    data, test = train.load_data(args), train.load_data(args, "test")
    whole = train.load_data(train.parse_args(["--smoke"]))
    assert torch.equal(data.labels, whole.labels[whole.labels != 2])
    assert torch.equal(data.images, whole.images[whole.labels != 2])
    assert (
        2 not in data.labels
        and len(data.labels) == len(data)
        and set(data.labels.tolist()) == set(range(10)) - {2}
    )
    assert 2 in test.labels
    assert class_index(test, "2") == 2
    for wrong in ("Cube", "10", "-1"):
        with pytest.raises(UserError, match="disc, ring"):
            class_index(test, wrong)
    test.images = None  # files that are read as they are needed
    with pytest.raises(UserError, match="don't fit into memory. Give a smaller --size"):
        class_index(test, "2")
    test.labels = None
    with pytest.raises(UserError, match="has no classes"):
        class_index(test, "2")


@pytest.mark.parametrize("held, count", [("b", "none"), ("a", "all")])
def test_hold_out_needs_test_images_of_both_kinds(here, held, count):
    pictures("own/train", ["a/0.png", "b/0.png"])
    pictures("own/test", ["a/0.png", "a/1.png"])
    flags = ["--dataset", "folder", "--data-dir", "own", "--hold-out", held]
    message = f"--hold-out {held}: {count} of the 2 test images of folder are of this class"
    with pytest.raises(UserError, match=message):
        train.main([*TINY, *flags])
    pictures("own/test", ["b/0.png"])
    assert len(train.load_data(train.parse_args([*TINY, *flags]), "test")) == 3


# --- eval.py


def test_eval_of_a_held_out_class_and_of_an_autoencoder(tmp_path):
    for method in ("bigan", "ae-l2"):
        train.main(
            [
                *TINY,
                "--steps",
                "2",
                "--method",
                method,
                "--hold-out",
                "disc",
                "--out",
                str(tmp_path / method),
            ]
        )
        metrics = bigan_eval.main(
            ["--ckpt", str(tmp_path / method / "last.pt"), "--n", "70", "--bn-batches", "2"]
        )
        assert (
            0 <= metrics["auroc_recon_class0_512"] <= 1
            and (tmp_path / method / "anomaly.png").exists()
        )
        assert not any(key.startswith("1nn") for key in metrics)
        assert ("auroc_D_features_class0_512" in metrics) == (method == "bigan")
        args = train.parse_args([*TINY, "--hold-out", "disc"])
        args.channels = 1
        data, test = (train.load_data(args, split) for split in ("train", "test"))
        novelty = pixel_novelty(data, test, len(data), "cpu")
        assert metrics["auroc_nearest_class0_512"] == auroc(novelty, test.labels == 0)
        assert any(key.startswith("fid") for key in metrics) == (method == "bigan")


def test_inversion_is_measured_in_pixels_of_0_1():
    """G writes half of the shade: on 2x2 pixels the norm of a difference in [-1, 1] is as large."""
    x = writes_shade(T([-1.0, 1.0]))
    z = T([[-1.0], [0.0], [1.0]])
    found = measure_inversion(lambda z: writes_shade(z / 2), reads_shade, x, z)
    expected = {"recon_l2_2_test": 1 / 2, "recon_l2_shuffled_2_test": 3 / 2}
    expected |= {"regen_l2_3": 1 / 6, "regen_l2_shuffled_3": 1 / 2, "regen_ratio_3": 1 / 3}
    expected |= {"latent_l2_3": 1 / 3, "code_sd_2_test": math.sqrt(2)}
    assert {key: found[key] for key in expected} == pytest.approx(expected)


@pytest.fixture
def held_out(monkeypatch):
    """What bigan.eval measures, and on what, where class b of four images is held out."""
    data = grey([0, 0, 0], [0, 0, 0])
    test = grey([255, 204, 102, 255], [0, 0, 1, 0], "train")
    found = {}

    def keep(**given):
        found.update(given)
        return {}

    for name, stand_in in (
        ("anomaly_scores", lambda *a: {"score": T([1.0, 2, 3, 0])}),
        ("measure_inversion", lambda G, E, x, z, *rest: keep(x=x, z=z, of=rest[-1])),
        ("image_scores", lambda *a: (keep(images=a[-2:]), None, None)),
    ):
        monkeypatch.setattr(bigan_eval, name, stand_in)
    trained = train.parse_args(["--smoke", "--prior", "normal", "--hold-out", "b"])
    args = bigan_eval.Args(n=4, seed=3)
    metrics = bigan_eval.measure((None, None, "D"), data, test, None, trained, args, CPU)
    return SimpleNamespace(metrics=metrics, z_dim=trained.z_dim, **found)


def test_the_held_out_class_shall_have_the_highest_scores(held_out):
    assert held_out.metrics["auroc_score_class1_4"] == 1


def test_codes_are_measured_on_test_images_and_on_z_that_the_seed_fixes(held_out):
    assert held_out.x[:, 0, 0, 0].tolist() == pytest.approx([1, 0.6, -0.2, 1])
    z = torch.randn(4, held_out.z_dim, generator=torch.Generator().manual_seed(3))
    assert torch.equal(held_out.z, z)


def test_samples_are_not_compared_with_the_held_out_class(held_out):
    keep, split = held_out.images
    assert keep.tolist() == [True, True, False, True] and split == "train_without_class1"
    assert held_out.of == "train"


def test_the_untrained_encoder_is_the_runs_own_at_step_0():
    args = train.parse_args([*TINY, "--seed", "5", "--channels", "1"])
    found = bigan_eval.untrained_encoder(train.load_data(args), args, CPU)
    train.seed_all(5)
    expected = train.build(args)[1]
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters()))
    assert not found.training


def test_the_held_out_class_is_drawn_over_the_others(tmp_path, figures_of):
    """All of it at 1, all others at 0."""
    drawn = figures_of(figures)
    positive = T([False, False, True, True, True])
    figures.draw_anomaly({"score": positive.float()}, positive, "b", tmp_path)
    axis = drawn[0].axes[0]
    right = [any(bar.get_height() and bar.get_x() > 0.5 for bar in x) for x in axis.containers]
    assert right == [False, True] and "AUROC 1.000" in axis.get_title()


@pytest.fixture
def drawn_images(tmp_path, monkeypatch):
    """Of 16 training images, where G(E(x)) = x: (images, {file: what draw_images draws})."""
    drawn = {}
    for name in ("save_rows", "save_grid"):
        monkeypatch.setattr(
            figures, name, lambda shown, path, **k: drawn.update({path.name: shown})
        )
    data = Images(torch.linspace(-1, 1, 20).tolist(), [0] * 20, [str(i) for i in range(20)])
    images = data.images_at(torch.arange(16), CPU)
    figures.draw_images(writes_shade, reads_shade, images, data, data, 20, CPU, tmp_path)
    return images, drawn


def test_a_training_image_is_its_own_neighbour(drawn_images):
    """Image files are looked through in an order of their own."""
    images, drawn = drawn_images
    for _, neighbours in drawn["neighbours.png"][1:]:
        assert torch.equal(neighbours, images)


def test_interpolation_begins_and_ends_at_its_images(drawn_images):
    way = drawn_images[1]["interpolation.png"].unflatten(0, (6, 11))
    for a, b in ((0, 1), (9, 10)):
        assert torch.allclose(way[:, a], way[:, b], atol=1e-6)


def test_eval_refuses_what_it_does_not_do():
    for flags in (["--amp", "bf16"], ["--split", "train"]):
        with pytest.raises(UserError, match=f"{flags[0]} {flags[1]}: .*Leave it out"):
            bigan_eval.parse_args(flags)
    with pytest.raises(UserError, match="--table, --toy or --anomaly"):
        reproduce.main([])


# --- eval.py --score


def pictures(folder, names, seed=0, shape=(8, 8)):
    rng = np.random.default_rng(seed)
    for name in names:
        file = Path(folder, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file)


def table(path):
    """The CSV's head, its files, its numbers (files, columns)."""
    head, *rows = csv.reader(Path(path).read_text().splitlines())
    return head, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


@pytest.mark.parametrize("method", ["bigan", "latent-regressor", "ali"])
def test_each_image_of_a_folder_gets_the_score_that_holding_out_is_measured_by(here, method):
    """File by file, in their order, whatever the batch."""
    encoder = ["--encoder", "stochastic", "--prior", "normal"] if method == "ali" else []
    train.main([*TINY, "--steps", "3", "--method", method, *encoder, "--out", "X"])
    names = ["b/2.png", "b/10.png", "a.png", 'B, and "c".png', "c.png"]
    pictures("DIR", names)
    Path("DIR/notes.txt").write_text("no image")
    for size, out in (("250", "scores.csv"), ("2", "new/two.csv")):
        argv = ["--ckpt", "X", "--score", "DIR", "--out", out, "--batch-size", size]
        bigan_eval.main(argv)
    head, files, found = table("scores.csv")
    assert head == ["file", "score", "L_G", "L_D"] and files == sorted(names, key=Path)
    G, E, D, _, _ = bigan_eval.load(Path("X/last.pt"), "cpu")
    assert not any(net.training for net in (G, E, D))
    for file, (score, L_G, L_D) in zip(files, found):
        x = torch.from_numpy(np.asarray(Image.open(Path("DIR", file)))).float()[None, None]
        x = x / 127.5 - 1
        code = E(x)
        rec = G(code)
        assert L_G == pytest.approx((x - rec).abs().sum().item(), rel=1e-5)
        assert L_D == pytest.approx(
            (D.features(x, code) - D.features(rec, code)).abs().sum().item(), rel=1e-4, abs=1e-6
        )
        assert score == pytest.approx(0.9 * L_G + 0.1 * L_D, rel=1e-5)
    np.testing.assert_allclose(table("new/two.csv")[2], found, rtol=1e-5, atol=1e-6)
    assert found[:, 1].std() > 0 and {p.name for p in Path("DIR").iterdir()} == {
        "b",
        "a.png",
        'B, and "c".png',
        "c.png",
        "notes.txt",
    }


def test_without_a_trained_D_the_reconstruction_is_scored(here, capsys):
    train.main([*TINY, "--steps", "2", "--out", "X"])
    train.main([*TINY, "--steps", "2", "--method", "ae-l1", "--out", "Y"])
    bigan_eval.main(["--ckpt", "X", "--slim", "slim.pt"])
    pictures("DIR", ["1.png", "2.png"], shape=(20, 14, 3))  # of any size, and in colour
    for ckpt, out in (("X", "x.csv"), ("slim.pt", "slim.csv"), ("Y", "y.csv")):
        capsys.readouterr()
        bigan_eval.main(["--ckpt", ckpt, "--score", "DIR", "--out", out])
        assert ("no trained D" in capsys.readouterr().err) == (ckpt != "X")
    whole = table("x.csv")[2]
    head, files, found = table("slim.csv")
    assert head == ["file", "L_G"] == table("y.csv")[0] and files == ["1.png", "2.png"]
    np.testing.assert_allclose(found[:, 0], whole[:, 1], rtol=1e-2)  # weights of 16 bits


def test_folders_that_cannot_be_scored(here):
    train.main([*TINY, "--steps", "1", "--out", "X"])
    toy = ["--dataset", "25gaussians", "--width", "8", "--steps", "1", "--batch-size", "8"]
    train.main([*toy, "--out", "T"])
    Path("empty").mkdir()
    pictures("DIR", ["1.png", "2.png"])
    whole = Path("DIR/2.png").read_bytes()
    for flags, message in (
        (["--score", "none"], "can't look into none"),
        (["--score", "X/args.json"], "is a file: give a directory"),
        (["--score", "empty"], "no images under empty"),
        (["--score", "DIR", "--ckpt", "T"], "T/last.pt was trained on 25gaussians, points"),
    ):
        with pytest.raises(UserError, match=message):
            bigan_eval.main(["--ckpt", "X", "--out", "a.csv", *flags])
    Path("DIR/2.png").write_bytes(whole[:-30])
    pictures("DIR", ["0.png"])
    Path("DIR/0.png").write_bytes(whole[:-30])
    cut = r"2 of 3 images in DIR can't be decoded: 0.png \(.*\), 2.png \(.*\). Replace or remove them$"
    with pytest.raises(UserError, match=cut):
        bigan_eval.main(["--ckpt", "X", "--score", "DIR", "--out", "a.csv"])
    Path("DIR/0.png").unlink()
    Path("DIR/2.png").write_text("nothing")
    with pytest.raises(UserError, match="1 of 2 images in DIR can't be decoded: 2.png"):
        bigan_eval.main(["--ckpt", "X", "--score", "DIR", "--out", "a.csv"])
    assert not Path("a.csv").exists()
    Path("a.csv").write_text("mine")
    with pytest.raises(UserError, match="a.csv exists already: .*--out"):
        bigan_eval.main(["--ckpt", "X", "--score", "DIR", "--out", "a.csv"])
    assert Path("a.csv").read_text() == "mine"


def test_the_mean_auroc_is_over_classes_and_its_spread_over_seeds():
    """Seed 2 lacks a class, and doesn't count."""
    values = {"bag": [0.5, 0.7, 0.9], "coat": [0.7, 0.8]}
    results = {
        name: [
            {"seed": seed, "metrics": {f"auroc_score_class{c}_10k": value}}
            for seed, value in enumerate(each)
        ]
        for c, (name, each) in enumerate(values.items())
    }
    assert reproduce.mean_aurocs(results, "score") == pytest.approx([0.6, 0.75])
    assert reproduce.mean_aurocs(results, "recon") == []
    assert "| mean | 0.675 ± 0.106 | – |" in reproduce.auroc_table(results)


def run_of(**metrics):
    """A run in a sweep's results."""
    return {"step": 5, "seconds": 9.0, "metrics": metrics}


def test_the_1nn_table_by_hand():
    """D is that of the plain GAN below LR, whose accuracies are larger by a half."""
    names = "1nn_features 1nn_E 1nn_logits probe_features 1nn_D 1nn_untrained_features "
    names += "1nn_untrained_E probe_untrained_features 1nn_pixels probe_pixels"
    accuracies = {f"{name}_4_3": 0.11 + i / 100 for i, name in enumerate(names.split())}
    others = {"recon_ratio_3_test": 0.5, "fid_lenet_3_test": 7.0}
    of_lr = {key: value + 0.5 for key, value in accuracies.items()}
    results = {"BiGAN": [run_of(**accuracies, **others)], "LR": [run_of(**of_lr, **others)]}
    lines = reproduce.one_nn_table(results).splitlines()
    for line in (
        "| BiGAN | 97.39 | 11.00 | 12.00 | 13.00 | 14.00 | 0.500 | 7.0 | 5 | 9 |",
        "| D | 97.3 | 65.00 | – | – | – | – | – | – | – |",
        "| untrained E | – | 16.00 | 17.00 | – | 18.00 | – | – | – | – |",
        "| pixels | – | 19.00 | – | – | 20.00 | – | – | – | – |",
    ):
        assert line in lines


def test_the_table_of_modes_by_hand():
    run = run_of(
        modes_hit_10k=1, modes_hit_recon_10k=2, modes_10k=3, modes_recon_10k=4, high_quality_10k=0.5
    )
    table = reproduce.mode_table({"ALI": [run]})
    assert "| ALI | 13.4 ± 5.8 | 1.0 | 1 | 2.0 | 3.0 | 0.50 | 9 |" in table


def test_curves_of_1nn_are_in_per_cent_over_epochs_beside_the_untrained_encoder(
    tmp_path, figures_of
):
    drawn = figures_of(reproduce.plots)
    lines = [{"step": 469 * i, "1nn_E_4_3": 0.1 * i, "1nn_features_4_3": 0.2 * i} for i in (1, 2)]
    write_log(tmp_path / "a", [*lines, {"step": 939}])
    only_b = {"step": 500, "1nn_E_4_3": 0.9, "1nn_features_4_3": 0.9}
    write_log(tmp_path / "b", [lines[0], only_b, lines[1]])
    run = run_of(**{"1nn_untrained_features_4_3": 0.5, "1nn_untrained_E_4_3": 0.25})
    reproduce.draw_table(
        tmp_path, {"BiGAN": [run | {"name": name} for name in "ab"]}, "fashion-mnist"
    )
    for axis, height, start in zip(drawn[0].axes, (20, 10), (50, 25)):
        curve, dashed = (line.get_xydata() for line in axis.lines)
        assert curve.flatten().tolist() == pytest.approx([1, height, 2, 2 * height])
        assert dashed[0, 1] == start


def test_each_mark_of_the_aurocs_is_of_its_score(tmp_path, figures_of):
    drawn = figures_of(reproduce.plots)
    metrics = {f"auroc_{score}_class0_4": i / 10 for i, score in enumerate(reproduce.SCORES, 1)}
    reproduce.draw_aurocs({"bag": [run_of(**metrics) | {"seed": 0}]}, tmp_path / "a.png")
    found = [line.get_xdata()[0] for line in drawn[0].axes[0].lines]
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5]  # the last one: chance


def test_runs_are_measured_as_the_sweeps_flags_say(tmp_path, monkeypatch):
    given = dict(data_dir="d", extractor="lenet", inception_weights="w", n=7, bank=8, bn_batches=9)
    given |= dict(batch_size=10, seed=11, device="cpu")
    asked = []

    def load_with_data(path, args, device):
        asked.append(args)
        return [None] * 6

    monkeypatch.setattr(reproduce.evaluation, "load_with_data", load_with_data)
    for name in ("draw", "measure"):
        monkeypatch.setattr(reproduce.evaluation, name, lambda *a: None)
    reproduce.measure_run(tmp_path, None, SimpleNamespace(**given))
    assert given.items() <= vars(asked[0]).items()


def test_tables_train_measure_and_write(here, monkeypatch):
    monkeypatch.setattr(
        reproduce, "METHODS", {k: reproduce.METHODS[k] for k in ("BiGAN", "AE (l1)")}
    )
    flags = ["--jobs", "1", "--seeds", "1", "--n", "70", "--bn-batches", "2", "--train-flags"]
    small = " ".join(TINY + ["--steps", "4", "--sample-every", "2"])
    reproduce.main(["--table", "--dataset", "synthetic", *flags, small])
    text = (here / "runs/bigan/table/table.md").read_text()
    assert (
        "| BiGAN | 97.39 |" in text
        and "| AE (l1) | 97.63 |" in text
        and "| pixels |" in text
        and "nan" not in text
    )
    assert (here / "runs/bigan/table/table.png").exists() and (
        here / "runs/bigan/table/table.json"
    ).exists()
    check_tables_outlive_runs(
        "runs/bigan/table",
        ["table.md", "table.json"],
        lambda: reproduce.main(["--table", "--dataset", "synthetic", *flags, small]),
    )

    monkeypatch.setattr(reproduce, "CLASSES", {"synthetic": ["disc"]})
    reproduce.main(["--anomaly", "--dataset", "synthetic", *flags, small])
    assert (here / "runs/bigan/anomaly/anomaly.png").exists()
    lines = (here / "runs/bigan/anomaly/anomaly.md").read_text().splitlines()
    assert lines[2].endswith("| distance to the nearest training image |")
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| disc",
        "| mean",
    ] and "nan" not in lines[-1]

    monkeypatch.setattr(
        reproduce, "TOY_METHODS", {k: reproduce.TOY_METHODS[k] for k in ("ALI", "GAN")}
    )
    toys = ["--toy", *flags, "--width 4 --batch-size 16 --steps 4 --log-every 2"]
    reproduce.main(toys)
    text = (here / "runs/bigan/toy/toy.md").read_text()
    assert "| ALI | 13.4 ± 5.8 |" in text and "| GAN | 10.4 ± 9.2 |" in text
    assert (here / "runs/bigan/toy/toy.png").exists()
    reproduce.main(
        ["--toy", "--only", "GAN", *flags, "--width 4 --batch-size 16 --steps 4 --log-every 2"]
    )
    assert "| ALI |" not in (here / "runs/bigan/toy/toy.md").read_text()
    check_tables_outlive_runs("runs/bigan/toy", ["toy.md"], lambda: reproduce.main(toys))
