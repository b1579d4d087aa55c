"""MDMA: a GAN for jets whose particles talk to each other through one mean-field particle only.

B. Käch, I.-A. Melzer-Pellmann, "Attention to Mean-Fields for Particle Cloud Generation" (also "Pay
Attention to Mean-Fields during Particle Cloud Generation"), DESY 2023, arXiv:2305.15254v1. It
numbers no equations: "§" means its sections. Departures have their numbers from the README.

A jet is a set of particles. Generator and critic are stacks of one block (Fig. 1): the mean field
attends to all particles, then each particle is updated with the new mean field, so the cost is
linear in their number. At first G also matches the critic's last mean field on real jets (§3.2).

x, z  particles, noise (B, N, 3), standardised  mask   (B, N), True where a particle is real
c     mean field (B, l)                         n      number of real particles / const, (B, 1)
l, h  latent and hidden dimension               const  n_mean, which sums and n are divided by
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.masking import masked_mean, masked_sum

# --- Fig. 1 as it is drawn, but for LN's place (departure 9): the definition


def plain_block(block, x, c, n, mask):
    """hᵢ = act(W xᵢ);  c ← W↓ [MultiHead(act(LN(W c)), h, h), n];  xᵢ ← act(W′ [hᵢ, c]), Fig. 1.

    Without the residual connections, in which G and D differ. `block` lends its layers; it computes
    the same faster, and is tested against this.
    x: (B, N, l); c: (B, l); n: (B, 1); mask: (B, N). Returns the new x and c.
    """
    h = block.act(block.up(x))  # (B, N, h)
    query = block.act(block.norm(block.up(c)))  # (B, h); LN before act: departure 9
    pooled = plain_attention(block.attention, query, h, mask)  # (B, h)
    c = block.down_act(block.down(torch.cat([pooled, n], dim=1)))  # (B, l)
    pairs = torch.cat([h, c[:, None].expand(-1, h.shape[1], -1)], dim=2)  # (B, N, h + l)
    return block.act(block.out(pairs)), c


def plain_attention(attention, c, h, mask):
    """MultiHead(c, h, h), §3: Σᵢ softmaxᵢ(q·kᵢ / √d) vᵢ per head, over real particles.

    c: (B, H), the only query; h: (B, N, H); mask: (B, N). Returns (B, H).
    """
    W_q, W_k, W_v = attention.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attention.in_proj_bias.chunk(3)
    per_head = (attention.heads, -1)
    q = F.linear(c, W_q, b_q).unflatten(-1, per_head)  # (B, heads, d)
    k = F.linear(h, W_k, b_k).unflatten(-1, per_head)  # (B, N, heads, d)
    v = F.linear(h, W_v, b_v).unflatten(-1, per_head)  # (B, N, heads, d)
    scores = torch.einsum("bhd,bnhd->bhn", q, k) / q.shape[-1] ** 0.5
    a = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
    return attention.out_proj(torch.einsum("bhn,bnhd->bhd", a, v).flatten(1))


# --- Fig. 1 as it is computed (departure 7)


class MeanFieldAttention(nn.Module):
    """MultiHead(c, h, h), §3, without a key or a value for each particle.

    q·(W_k hᵢ + b_k) = (W_kᵀ q)·hᵢ + q·b_k, whose last term is the same for all i and drops out of
    the softmax; Σᵢ aᵢ (W_v hᵢ + b_v) = W_v Σᵢ aᵢ hᵢ + b_v, as Σᵢ aᵢ = 1.
    The parameters are those of nn.MultiheadAttention.
    """

    def __init__(self, h: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * h, h)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * h))
        self.out_proj = nn.Linear(h, h)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, c: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        """c: (B, H); h: (B, N, H); mask: (B, N). Returns (B, H)."""
        W_q, W_k, W_v = self.in_proj_weight.unflatten(0, (3, self.heads, -1))  # (heads, d, H)
        b_q, _, b_v = self.in_proj_bias.chunk(3)
        q = F.linear(c, W_q.flatten(0, 1), b_q) * W_q.shape[1] ** -0.5  # (B, H), over √d
        q = q.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (heads, B, d)
        W_kT_q = (q @ W_k).transpose(0, 1)  # (B, heads, H)
        # The softmax of -1e30 is exactly 0, and finite for a jet without particles.
        minus_infinity = (~mask).to(h.dtype)[:, None] * -1e30  # in empty slots, else 0: (B, 1, N)
        a = (W_kT_q @ h.mT).add_(minus_infinity).softmax(dim=-1)  # (B, heads, N)
        sum_ah = (a @ h).transpose(0, 1)  # (heads, B, H)
        pooled = (sum_ah @ W_v.mT).transpose(0, 1)  # (B, heads, d)
        return self.out_proj(pooled.flatten(1) + b_v)


class Block(nn.Module):
    """Fig. 1 as in plain_block; the residual connections are added by G's and D's blocks.

    Those also set `linear` (the kind of layer), `act` (the activation) and `down_act` (that of the
    new mean field). Ablations (departure 11): aggregate "mean" or "sum" in place of "attention",
    update "add" in place of "layer", and glu, by which n gates c.
    """

    def __init__(self, l, h, heads, n_mean, aggregate="attention", update="layer", glu=False):
        super().__init__()
        if h % heads:
            raise ValueError(f"hidden dimension {h} is not a multiple of {heads} heads")
        self.n_mean, self.aggregate, self.update, self.glu = n_mean, aggregate, update, glu
        self.up = self.linear(l, h)
        if aggregate == "attention":
            self.norm = nn.LayerNorm(h)
            self.attention = MeanFieldAttention(h, heads)
        self.down = self.linear(h + 1, l)
        self.out = self.linear(h + l if update == "layer" else h, l)

    def forward(self, x, c, n, mask):
        """x: (B, N, l); c: (B, l); n: (B, 1); mask: (B, N). Returns the new x and c."""
        h = self.act(self.up(x))
        c = self.particles_to_mean_field(h, c, n, mask)
        return self.mean_field_to_particles(h, c), c

    def particles_to_mean_field(self, h: Tensor, c: Tensor, n: Tensor, mask: Tensor) -> Tensor:
        """c ← W↓ [MultiHead(act(LN(W c)), h, h), n]. h: (B, N, h). Returns (B, l)."""
        if self.aggregate == "attention":
            pooled = self.attention(self.act(self.norm(self.up(c))), h, mask)
        elif self.aggregate == "mean":
            pooled = masked_mean(h, mask)
        else:
            pooled = masked_sum(h, mask) / self.n_mean
        if self.glu:
            W, v = self.down.weight.split([pooled.shape[1], 1], dim=1)
            return self.down_act(F.linear(pooled, W, self.down.bias) * torch.sigmoid(n @ v.T))
        return self.down_act(self.down(torch.cat([pooled, n], dim=1)))

    def mean_field_to_particles(self, h: Tensor, c: Tensor) -> Tensor | None:
        """xᵢ ← act(W′ [hᵢ, c] + b), as act(W₁ hᵢ + (W₂ c + b)). h: (B, N, h). Returns (B, N, l)."""
        if self.out is None:  # the critic's last block, whose particles nobody needs
            return None
        if self.update == "add":
            W_1 = self.out.weight
            c = c if self.out.bias is None else c + self.out.bias
        else:
            W_1, W_2 = self.out.weight.split([h.shape[2], c.shape[1]], dim=1)
            c = F.linear(c, W_2, self.out.bias)
        return self.act(F.linear(h, W_1).add_(c[:, None]))


def gelu(x: Tensor) -> Tensor:
    """GELU of a layer's output, written over it where nobody needs its gradient."""
    return F.gelu(x) if x.requires_grad else torch.ops.aten.gelu_(x)


class GeneratorBlock(Block):
    """Block with a residual connection along the particles: xᵢ ← act(W_m yᵢ + xᵢ), §3.

    y: the particles that leave the block. Shapes as Block's.
    """

    linear = nn.Linear
    act = staticmethod(gelu)

    def __init__(self, l, h, heads, **options):
        super().__init__(l, h, heads, **options)
        self.mix = nn.Linear(l, l)  # W_m: departure 9

    def down_act(self, c):
        return c

    def forward(self, x, c, n, mask):
        y, c = super().forward(x, c, n, mask)
        return self.act(self.mix(y).add_(x)), c


class WNLinear(nn.Module):
    """y_j = w_j·x / ‖w_j‖: rows of norm 1, no gain, no bias (Xiang & Li 2017; the critic, §3)."""

    bias = None

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        bound = in_features**-0.5
        self.direction = nn.Parameter(
            torch.empty(out_features, in_features).uniform_(-bound, bound)
        )

    @property
    def weight(self) -> Tensor:
        return F.normalize(self.direction, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class CriticBlock(Block):
    """Block of weight-normalised layers with a residual along the mean field: c ← u + c, §3.

    u: the mean field that leaves the block. Shapes as Block's.
    """

    linear = WNLinear
    act = down_act = staticmethod(F.leaky_relu)  # departure 9

    def __init__(self, l, h, heads, **options):
        super().__init__(l, h, heads, **options)
        if self.aggregate == "attention":
            # departure 9: torch's, with a gain; out_proj has none
            nn.utils.parametrizations.weight_norm(self.attention, "in_proj_weight")

    def forward(self, x, c, n, mask):
        y, u = super().forward(x, c, n, mask)
        return y, u + c


# --- Objectives, §3.1 and §3.2. Scores (B,) are D's, unbounded


def lsgan_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """L_D = E (D(x) − 1)² + E D(G(z))², §3.1. 1/2 where D = 1/2."""
    return (real_score - 1).square().mean() + fake_score.square().mean()  # departure 10


def lsgan_generator_loss(fake_score: Tensor) -> Tensor:
    """L_G = E (D(G(z)) − 1)² / 2, §3.1. 1/8 where D = 1/2."""
    return (fake_score - 1).square().mean() / 2  # departure 10


def nonsaturating_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """L_D = −E log σ(D(x)) − E log(1 − σ(D(G(z)))), §3.1's vanilla GAN. 2 log 2 where D = 0."""
    return F.softplus(-real_score).mean() + F.softplus(fake_score).mean()


def nonsaturating_generator_loss(fake_score: Tensor) -> Tensor:
    """L_G = −E log σ(D(G(z))), §3.1's vanilla GAN."""
    return F.softplus(-fake_score).mean()


def wasserstein_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """L_D = E D(G(z)) − E D(x), §3.1's WGAN-GP; λ times gradient_penalty is added to it."""
    return fake_score.mean() - real_score.mean()


def wasserstein_generator_loss(fake_score: Tensor) -> Tensor:
    """L_G = −E D(G(z)), §3.1's WGAN-GP."""
    return -fake_score.mean()


class Objective(NamedTuple):
    discriminator_loss: Callable[[Tensor, Tensor], Tensor]
    generator_loss: Callable[[Tensor], Tensor]


OBJECTIVES = {
    "lsgan": Objective(lsgan_discriminator_loss, lsgan_generator_loss),
    "vanilla": Objective(nonsaturating_discriminator_loss, nonsaturating_generator_loss),
    "wgan-gp": Objective(wasserstein_discriminator_loss, wasserstein_generator_loss),
}


def gradient_penalty(
    D: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor, mask: Tensor
) -> Tensor:
    """E (‖∇_x̂ D(x̂)‖ − 1)² at x̂ = ε x + (1 − ε) G(z), §3.1 (Gulrajani et al. 2017).

    One norm per jet, over its real particles. real, fake: (B, N, 3), paired jet by jet with one
    mask (B, N); epsilon: (B,) in [0, 1]. Returns a scalar in [0, ∞), differentiable in D.
    """
    epsilon = epsilon[:, None, None]
    x_hat = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    score, _ = D(x_hat, mask)
    (gradient,) = torch.autograd.grad(score.sum(), x_hat, create_graph=True)  # (B, N, 3)
    gradient = gradient.masked_fill(~mask[..., None], 0)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


def mean_field_matching(fake_field: Tensor, real_field: Tensor) -> Tensor:
    """L_match = E ‖c_D(G(z)) − c_D(x)‖² / l, §3.2; no gradient to the real side. (B, l) each."""
    return F.mse_loss(fake_field, real_field.detach())  # departure 10


# --- The two players


def multiplicity(mask: Tensor, n_mean: float, paper_code: bool, dtype: torch.dtype) -> Tensor:
    """n = number of real particles / const, (B, 1); paper_code: of empty slots. mask: (B, N)."""
    counted = ~mask if paper_code else mask  # departure 1
    return counted.sum(dim=1, keepdim=True).to(dtype) / n_mean


class Generator(nn.Module):
    """G: noise z (B, N, 3), mask (B, N) -> particles (B, N, 3), standardised; masked slots are 0.

    n_mean: const; options: of Block: aggregate, update, glu. 87,139 parameters, of which 336 (key
    biases) cannot matter. paper_code: 87,136, and departures 1 to 4 undone; then a jet depends on
    how far it is padded, but not on what the padding holds.
    """

    def __init__(
        self, l=16, h=48, blocks=7, heads=8, features=3, n_mean=70.0, paper_code=False, **options
    ):
        super().__init__()
        self.n_mean, self.paper_code = n_mean, paper_code
        self.embed = nn.Linear(features, l)
        self.blocks = nn.ModuleList(
            GeneratorBlock(l, h, heads, n_mean=n_mean, **options) for _ in range(blocks)
        )
        last = WNLinear if paper_code else nn.Linear  # departure 4
        self.out = last(l, features)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        act = F.leaky_relu if self.paper_code else gelu  # departure 3
        x = act(self.embed(z.masked_fill(~mask[..., None], 0)))  # (B, N, l)
        total = x.sum(dim=1) if self.paper_code else masked_sum(x, mask)  # departure 2
        c = total / self.n_mean  # (B, l)
        n = multiplicity(mask, self.n_mean, self.paper_code, x.dtype)
        for block in self.blocks:
            x, c = block(x, c, n, mask)
        return self.out(x).masked_fill(~mask[..., None], 0)  # (B, N, 3)


class Critic(nn.Module):
    """D: particles x (B, N, 3), mask (B, N) -> score (B,), unbounded, and the last c (B, l), §3.2.

    Options as the generator's. 41,744 parameters. paper_code: 43,040, of which 1,296 are never
    used, and departures 1, 2 and 5 undone; then a score depends on how far a jet is padded.
    """

    def __init__(
        self, l=16, h=64, blocks=2, heads=4, features=3, n_mean=70.0, paper_code=False, **options
    ):
        super().__init__()
        self.n_mean, self.paper_code = n_mean, paper_code
        self.embed = WNLinear(features, l)
        self.init = WNLinear(l + 1, l)  # departure 9
        self.blocks = nn.ModuleList(
            CriticBlock(l, h, heads, n_mean=n_mean, **options) for _ in range(blocks)
        )
        self.head = nn.Sequential(  # departure 9
            WNLinear(l, h),
            nn.LeakyReLU(),
            WNLinear(h, l),
            nn.LayerNorm(l),
            nn.LeakyReLU(),
            WNLinear(l, 1),
            nn.Flatten(0),
        )
        if paper_code:
            self.cls_token = nn.Parameter(torch.randn(1, 1, l))
        else:
            self.blocks[-1].out = None  # departure 5

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.embed(x.masked_fill(~mask[..., None], 0)))  # (B, N, l)
        c = x.mean(dim=1) if self.paper_code else masked_sum(x, mask) / self.n_mean  # departure 2
        n = multiplicity(mask, self.n_mean, self.paper_code, x.dtype)
        mean_field = self.init(torch.cat([c, n], dim=1))  # (B, l)
        for block in self.blocks:
            x, mean_field = block(x, F.leaky_relu(mean_field), n, mask)
        return self.head(F.leaky_relu(mean_field)), mean_field
