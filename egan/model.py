"""E-GAN: a population of generators that mutate, are judged by one discriminator, and survive or die.

Paper
  C. Wang, C. Xu, X. Yao, D. Tao, "Evolutionary Generative Adversarial Networks", arXiv:1803.00657, as told in
    C. Wang, "Stabilizing GANs Training via Evolutionary Strategy", slides, University of Sydney. Names, Algorithm 1
    and tables below are those of the slides; they number no equations.

Each generation every parent G_θ has one child per mutation, where a mutation is one Adam step on one GAN's
generator loss. A child's fitness is how real D finds its samples, plus γ times how little D could learn from
them. The μ fittest children are the next parents; D trains on samples of all parents.

Symbols
  x, z              x  (B, 2) or (B, C, H, W) in [-1, 1],  z  (B, N_z)
  G_θ, D_w          ToyGenerator, ConvGenerator; ToyDiscriminator, ConvDiscriminator. D = sigmoid(l), l: their output
  M_G^h             MUTATIONS: minimax, heuristic, least_squares      n_m         how many of them are used
  L_D               discriminator_loss                                λ_GP        weight of gradient_penalty
  F_q, F_d, F       quality_fitness, diversity_fitness, fitness       γ           gamma (tables: λ)
  μ, n_D, m, α      --mu, --n-d, --batch-size, --lr-g and --lr-d (train.py)

Departures from the paper: its slips
  1. Algorithm 1 counts k = 0 … n_D, j = 0 … μ, h = 0 … n_m. These are n_D, μ and n_m rounds.
  2. Line 6 must ascend g_w, since lines 4-5 are to be maximised; we descend L_D = −(lines 4-5).
  3. Line 16 must sort descending. Line 5 needs 1/m·Σ_j Σ_i over m/μ different z for each parent j.
  4. The least-squares slide maximises D's squared error and lets a half stand before one of two terms. Only the
     generator's side is a mutation, and as all mutations need the same best D, D always minimises L_D.
  5. F_d lacks parentheses: the norm is of ∇_w of the whole of L_D. It is the norm; the authors' older code takes
     its square, which doubles γ. One weight is called γ in Algorithm 1 and λ in the tables.
  6. The least-squares mutation acts on sigmoid(l) as the slides' D(·), not on the logit as the authors' newer code
     does. The constant factor 1/2 before it is left out: Adam does not see it (but for its ε).
  7. Adam's β₂ is printed 0.99. The authors' code has 0.999, and so have we.
  8. The slide's FID has ‖μ_r − μ_g‖ without its square. Ours has the square, as the metric's authors.
  9. Some losses draw z from p_g and x from p_z; Prop. 2 and Th. 1's proof put samples of p_g through G once more.
     χ²_Pearson(p_d + p_g ‖ 2 p_g) needs other least-squares targets than the slide's 0 and 1.
Where the paper is silent
 10. F_q takes D as a probability (both of the authors' codes do).
 11. F_d is bounded: below the smallest normal square, ‖∇_w L_D‖² counts as that (F_d ≤ 43.7), where D has won.
 12. All children of a generation are judged on the same z and the same x, which D has not trained on yet.
 13. A child starts from its parent's Adam moments and step, not only from its weights.
 14. D's BatchNorm keeps no running statistics: D is only ever used with the batch's own, and judging children can
     leave no trace in it. It is off (--d-norm none) with the gradient penalty, which is a matter of single samples.
 15. Networks are those of the authors' code for the toys and at 32x32 (no BatchNorm in G); above, DCGAN's halving.
 16. A child whose loss, weights, Adam moments or F are not finite dies. If fewer than μ are left, they take the
     places in turn, fittest first (a place's own z makes twins differ again). If none is left, the run stops.
 17. WGAN and WGAN-GP, rows of the tables that are no E-GAN, are run with our networks and Adam.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- Blocks -------------------------------------------------------------------------------------------------


# Same as began.model.halvings
def halvings(size: int) -> int:
    """How often `size` halves down to 4x4."""
    n = int(math.log2(size / 4)) if size >= 8 else 0
    if n < 1 or size != 4 * 2**n:
        raise ValueError(f"image size {size} is not 4·2^k (8, 16, 32, 64, 128, …)")
    return n


def batch_norm(kind: str, channels: int, dims: int) -> list[nn.Module]:
    """BatchNorm that always uses the batch's statistics, in a list; an empty list for kind "none".

    The layer before it must have no bias: its gradient would be rounding noise, which Adam blows up to steps of α.
    """
    layer = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
    return [layer(channels, track_running_stats=False)] if kind == "batch" else []


def initialise(net: nn.Module, kind: str) -> None:
    """Weights N(0, 0.02²), as the authors' code, or He's N(0, 2/fan_in); biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            if kind == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# --- Generators ---------------------------------------------------------------------------------------------


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


class ConvGenerator(nn.Sequential):
    """G: z (B, N_z) -> images (B, C, H, W) in [-1, 1]: linear to 4x4, 4/2/1 transposed convolutions, tanh.

    At size 32 and width 128 the maps are 512x4x4, 256x8x8, 128x16x16, Cx32x32.
    """

    def __init__(
        self,
        z_dim: int = 100,
        size: int = 32,
        channels: int = 3,
        width: int = 128,
        init: str = "normal",
    ):
        widths = [width * 2**i for i in reversed(range(halvings(size)))]
        layers = [
            nn.Linear(z_dim, widths[0] * 16),
            nn.Unflatten(1, (widths[0], 4, 4)),
        ]  # (B, C, 4, 4)
        for c_in, c_out in zip(widths, widths[1:] + [channels]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
        super().__init__(*layers, nn.Tanh())
        initialise(self, init)


# --- Discriminators: their output is the logit l of D = sigmoid(l) --------------------------------------------


class ToyDiscriminator(nn.Sequential):
    """l: points (B, 2) -> (B,). Three hidden layers with ReLU, BatchNorm on the second. norm: "batch" or "none"."""

    def __init__(self, width: int = 512, norm: str = "batch", init: str = "normal"):
        super().__init__(
            nn.Linear(2, width),
            nn.ReLU(),
            nn.Linear(width, width, bias=norm == "none"),
            *batch_norm(norm, width, 1),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )
        initialise(self, init)


class ConvDiscriminator(nn.Sequential):
    """l: images (B, C, H, W) -> (B,). 4/2/1 convolutions down to 4x4, LeakyReLU(0.2), BatchNorm but on the first."""

    def __init__(
        self,
        size: int = 32,
        channels: int = 3,
        width: int = 128,
        norm: str = "batch",
        init: str = "normal",
    ):
        widths = [channels] + [width * 2**i for i in range(halvings(size))]
        layers = []
        for i, (c_in, c_out) in enumerate(zip(widths, widths[1:])):
            here = norm if i else "none"
            layers += [
                nn.Conv2d(c_in, c_out, 4, 2, 1, bias=here == "none"),
                *batch_norm(here, c_out, 2),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 1), nn.Flatten(0))
        initialise(self, init)


# --- Mutations: generator losses, each a function of D's logits of generated samples --------------------------


def minimax(l: Tensor) -> Tensor:
    """M_G^minimax = E_z log(1 − D(G(z))) = −E softplus(l). l: (…, B). Returns (…). In (−∞, 0]."""
    return -F.softplus(l).mean(-1)


def heuristic(l: Tensor) -> Tensor:
    """M_G^heuristic = −E_z log D(G(z)) = E softplus(−l). l: (…, B). Returns (…). In [0, ∞)."""
    return F.softplus(-l).mean(-1)


def least_squares(l: Tensor) -> Tensor:
    """M_G^least-squares = E_z (D(G(z)) − 1)². l: (…, B). Returns (…). In [0, 1]."""
    return (torch.sigmoid(l) - 1).square().mean(-1)


MUTATIONS = {"heuristic": heuristic, "minimax": minimax, "least-squares": least_squares}


# --- The discriminator's loss -------------------------------------------------------------------------------


def real_loss(l: Tensor) -> Tensor:
    """−E_x log D(x) = E softplus(−l), line 4 negated. l: (…, B). Returns (…). In [0, ∞)."""
    return F.softplus(-l).mean(-1)


def fake_loss(l: Tensor) -> Tensor:
    """−E_z log(1 − D(G(z))) = E softplus(l), line 5 negated. l: (…, B). Returns (…). In [0, ∞)."""
    return F.softplus(l).mean(-1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D = −E_x log D(x) − E_z log(1 − D(G(z))), lines 4-5 negated. Logits (…, B), (…, B'). 2 log 2 where D = 1/2."""
    return real_loss(real) + fake_loss(fake)


# --- Not E-GAN: the Wasserstein GAN's pair, for the tables' rows WGAN (with clip_weights) and WGAN-GP


def wasserstein(l: Tensor) -> Tensor:
    """−E_z l(G(z)), WGAN's generator loss, Arjovsky et al. 2017. l: (…, B). Returns (…)."""
    return -l.mean(-1)


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E_z l(G(z)) − E_x l(x), WGAN's critic loss. Logits (…, B), (…, B'). Returns (…)."""
    return fake.mean(-1) - real.mean(-1)


@torch.no_grad()
def clip_weights(D: nn.Module, c: float) -> None:
    """w ← clip(w, −c, c) for all of D's parameters, WGAN's way to a bounded slope."""
    for w in D.parameters():
        w.clamp_(-c, c)


# --- E-GAN-GP -----------------------------------------------------------------------------------------------


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """E (‖∇_x̂ l(x̂)‖ − 1)² at x̂ = u x + (1 − u) G(z), Gulrajani et al. 2017. For E-GAN-GP; in D's loss only.

    real, fake: (B, …) of one shape; u: (B,) in [0, 1]. Returns a scalar in [0, ∞), differentiable in w.
    """
    u = u.view(-1, *[1] * (real.dim() - 1))
    x_hat = (u * real + (1 - u) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x_hat).sum(), x_hat, create_graph=True)  # (B, …)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


# --- Fitness ------------------------------------------------------------------------------------------------


def quality_fitness(fake: Tensor) -> Tensor:
    """F_q = E_z D(G(z)). fake: logits (…, B). Returns (…), in [0, 1]."""
    return torch.sigmoid(fake).mean(-1)


def diversity_fitness(squared_norm: Tensor) -> Tensor:
    """F_d = −log ‖∇_w L_D‖. squared_norm: Σ over all of D's parameters of (∂L_D/∂w)², (…). Returns (…)."""
    return -squared_norm.clamp(min=torch.finfo(torch.float32).tiny).log() / 2


def diversity_of(gradient: list[Tensor]) -> Tensor:
    """F_d of ∇_w L_D, also where Σ (∂L_D/∂w)² overflows but no part of the gradient does.

    gradient: (P, …) for each of D's parameters. Returns (P,): NaN where a part is not finite.
    """
    rows = [g.reshape(len(g), -1) for g in gradient]
    squares = sum(g.square().sum(1) for g in rows)
    largest = torch.stack([g.abs().amax(1) for g in rows]).amax(0)
    scaled = sum((g / largest[:, None]).square().sum(1) for g in rows)
    rescued = diversity_fitness(scaled) - largest.log()
    return torch.where(squares.isinf(), rescued, diversity_fitness(squares))


def fitness(F_q: Tensor, F_d: Tensor, gamma: float) -> Tensor:
    """F = F_q + γ F_d, line 13. γ = 0: F_q, whatever F_d is."""
    return F_q + gamma * F_d if gamma else F_q


def select(F: Tensor, mu: int) -> Tensor:
    """Places of the μ fittest children, best first, lines 16-17: (μ, λ) selection. F: (n_m·μ,). Returns int64 (μ,).

    A child whose F is not finite is never selected; if fewer than μ are left, they take the places in turn.
    ValueError if none is left.
    """
    healthy = F.isfinite()
    if not healthy.any():
        raise ValueError("no child has a finite fitness")
    order = torch.sort(F.where(healthy, -math.inf), descending=True, stable=True).indices
    return order[torch.arange(mu, device=F.device) % healthy.sum()]
