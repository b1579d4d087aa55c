"""Evolutionary Generative Adversarial Networks (E-GAN)

C. Wang, C. Xu, X. Yao, D. Tao, IEEE Transactions on Evolutionary Computation 23(6), 2019,
arXiv:1803.00657. Lines below are those of Algorithm 1 in C. Wang's slides "Stabilizing GANs
Training via Evolutionary Strategy"; equations have no numbers there.

Each generation every parent has one child per mutation: one Adam step on one GAN's generator loss.
A child's fitness is how real D finds its samples, plus γ times how little D could learn from them.
The μ fittest children are the next parents, and D trains on samples of all parents.

x: data, z: noise, G_θ, D_w: networks. D = sigmoid(l), where l, the logit, is what D_w returns.
M_G^h: mutation h of n_m, F = F_q + γ F_d: fitness, μ: parents, m: batch size, n_D: steps of D.
Losses and fitness of (…, B) are (…): of (B,) for one G, of (P, B) for P individuals at once.
Departures from the paper are listed in README.md, by number.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- The discriminator's loss, lines 4-5


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_D = −E_x log D(x) − E_z log(1 − D(G(z))), lines 4-5 negated.

    real_logits (…, B), fake_logits (…, B'). Returns (…), in [0, ∞); 2 log 2 where D = 1/2.
    """
    return real_loss(real_logits) + fake_loss(fake_logits)


def real_loss(real_logits: Tensor) -> Tensor:
    """−E_x log D(x) = E softplus(−l), line 4 negated. Logits (…, B). Returns (…), in [0, ∞)."""
    return F.softplus(-real_logits).mean(-1)


def fake_loss(fake_logits: Tensor) -> Tensor:
    """−E_z log(1 − D(G(z))) = E softplus(l), line 5 negated. (…, B). Returns (…), in [0, ∞)."""
    return F.softplus(fake_logits).mean(-1)


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """E (‖∇_x̂ l(x̂)‖ − 1)² at x̂ = ε x + (1 − ε) G(z): E-GAN-GP's, in L_D only.

    Gulrajani et al. 2017. real, fake: (B, …) of one shape; epsilon: (B,), in [0, 1]. Returns a
    scalar in [0, ∞), differentiable in w. To be called outside of autocast.
    """
    epsilon = epsilon.view(-1, *[1] * (real.dim() - 1))
    x_hat = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x_hat).sum(), x_hat, create_graph=True)  # (B, …)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


# --- Mutations M_G^h, line 11: generator losses, functions of D's logits of generated samples


def minimax(fake_logits: Tensor) -> Tensor:
    """M_G^minimax = E_z log(1 − D(G(z))) = −E softplus(l). (…, B). Returns (…), in (−∞, 0]."""
    return -F.softplus(fake_logits).mean(-1)


def heuristic(fake_logits: Tensor) -> Tensor:
    """M_G^heuristic = −E_z log D(G(z)) = E softplus(−l). (…, B). Returns (…), in [0, ∞)."""
    return F.softplus(-fake_logits).mean(-1)


def least_squares(fake_logits: Tensor) -> Tensor:
    """M_G^least-squares = E_z (D(G(z)) − 1)². (…, B). Returns (…), in [0, 1]."""
    return (torch.sigmoid(fake_logits) - 1).square().mean(-1)  # departures 4 and 6


MUTATIONS = {"heuristic": heuristic, "minimax": minimax, "least-squares": least_squares}


# --- Fitness, line 13


def fitness(F_q: Tensor, F_d: Tensor, gamma: float) -> Tensor:
    """F = F_q + γ F_d, line 13 (the slides also write λ for γ). γ = 0: F_q, whatever F_d is."""
    return F_q + gamma * F_d if gamma else F_q


def quality_fitness(fake_logits: Tensor) -> Tensor:
    """F_q = E_z D(G(z)). (…, B). Returns (…), in [0, 1]."""
    return torch.sigmoid(fake_logits).mean(-1)  # departure 10: D is a probability


def diversity_fitness(squared_norm: Tensor) -> Tensor:
    """F_d = −log ‖∇_w L_D‖. squared_norm: Σ over all of D's parameters of (∂L_D/∂w)², (…)."""
    bounded = squared_norm.clamp(min=torch.finfo(torch.float32).tiny)  # departure 11
    return -bounded.log() / 2  # departure 5: of the norm, not of its square


def diversity_fitness_of(gradient: list[Tensor]) -> Tensor:
    """F_d = −log ‖∇_w L_D‖ from the gradient itself, also where the sum of its squares overflows.

    gradient: for each of D's parameters (P, …), a row per individual. Returns (P,): NaN where an
    entry is not finite.
    """
    rows = [g.reshape(len(g), -1) for g in gradient]
    squared_norm = sum(g.square().sum(1) for g in rows)
    # where it overflows: ‖g‖ = largest · ‖g / largest‖
    largest = torch.stack([g.abs().amax(1) for g in rows]).amax(0)
    scaled = sum((g / largest[:, None]).square().sum(1) for g in rows)
    rescued = diversity_fitness(scaled) - largest.log()
    return torch.where(squared_norm.isinf(), rescued, diversity_fitness(squared_norm))


# --- Selection, lines 16-17


def select(scores: Tensor, mu: int) -> Tensor:
    """Places of the μ fittest children, best first, lines 16-17: (μ, λ) selection, λ = n_m·μ.

    scores: F of each child, (n_m·μ,). Returns int64 (μ,). A child whose F is not finite is never
    selected; if fewer than μ are left, they take the places in turn. ValueError if none is left.
    """
    healthy = scores.isfinite()  # departure 16
    if not healthy.any():
        raise ValueError("no child has a finite fitness")
    ranked = scores.where(healthy, -math.inf)
    order = torch.sort(ranked, descending=True, stable=True).indices  # departure 3
    return order[torch.arange(mu, device=scores.device) % healthy.sum()]


# --- Baselines, no E-GAN: WGAN (with clip_weights) and WGAN-GP, rows of the tables; departure 17


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E_z l(G(z)) − E_x l(x), WGAN's critic loss. (…, B), (…, B'). Returns (…)."""
    return fake_logits.mean(-1) - real_logits.mean(-1)


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """−E_z l(G(z)), WGAN's generator loss, Arjovsky et al. 2017. (…, B). Returns (…)."""
    return -fake_logits.mean(-1)


@torch.no_grad()
def clip_weights(D: nn.Module, c: float) -> None:
    """w ← clip(w, −c, c) for all of D's parameters, WGAN's way to a bounded slope."""
    for w in D.parameters():
        w.clamp_(-c, c)


# --- Networks, departure 15


class ToyGenerator(nn.Sequential):
    """G: z (B, N_z) -> points (B, 2). Three hidden layers with ReLU."""

    def __init__(self, z_dim: int = 2, width: int = 512, init: str = "normal"):
        super().__init__(
            nn.Linear(z_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2),
        )
        initialise(self, init)


class ToyDiscriminator(nn.Sequential):
    """l: points (B, 2) -> (B,). Three hidden layers with ReLU.

    norm: "batch", on the second, or "none".
    """

    def __init__(self, width: int = 512, norm: str = "batch", init: str = "normal"):
        super().__init__(
            nn.Linear(2, width),
            nn.ReLU(),
            nn.Linear(width, width, bias=norm == "none"),
            *batch_norm(norm, nn.BatchNorm1d, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )
        initialise(self, init)


class ConvGenerator(nn.Sequential):
    """G: z (B, N_z) -> images (B, C, H, W) in [-1, 1]: transposed convolutions, tanh.

    Kernel 4, stride 2, padding 1. At size 32 and width 128 the maps are 512x4x4, 256x8x8,
    128x16x16, Cx32x32.
    """

    def __init__(self, z_dim=100, size=32, channels=3, width=128, init="normal"):
        widths = [width * 2**i for i in reversed(range(halvings(size)))]
        layers = [nn.Linear(z_dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
        for c_in, c_out in zip(widths, widths[1:] + [channels]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
        super().__init__(*layers, nn.Tanh())
        initialise(self, init)


class ConvDiscriminator(nn.Sequential):
    """l: images (B, C, H, W) -> (B,). Convolutions down to 4x4, LeakyReLU(0.2), then linear.

    Kernel 4, stride 2, padding 1. norm: "batch", after all convolutions but the first, or "none".
    """

    def __init__(self, size=32, channels=3, width=128, norm="batch", init="normal"):
        widths = [width * 2**i for i in range(halvings(size))]
        layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c_in, c_out in zip(widths, widths[1:]):
            layers += [
                nn.Conv2d(c_in, c_out, 4, 2, 1, bias=norm == "none"),
                *batch_norm(norm, nn.BatchNorm2d, c_out),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 1), nn.Flatten(0))
        initialise(self, init)


# Same as began.model.halvings
def halvings(size: int) -> int:
    """How often `size` halves down to 4x4. ValueError unless it is 8, 16, 32, 64, 128, …"""
    n = int(math.log2(size / 4)) if size >= 8 else 0
    if n < 1 or size != 4 * 2**n:
        raise ValueError(f"image size {size} is not 4·2^k (8, 16, 32, 64, 128, …)")
    return n


def batch_norm(norm: str, layer: type[nn.Module], channels: int) -> list[nn.Module]:
    """[BatchNorm that always uses the batch's statistics], or [] for norm "none".

    The layer before it must have no bias: its gradient would be rounding noise, which Adam blows up
    to steps of α.
    """
    return [layer(channels, track_running_stats=False)] if norm == "batch" else []  # departure 14


def initialise(net: nn.Module, kind: str) -> None:
    """Weights N(0, 0.02²), as the authors' code ("normal"), or He's N(0, 2/fan_in); biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            if kind == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
