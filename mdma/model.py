"""MDMA: a GAN for jets whose particles talk to each other through one mean-field particle only.

Paper
  B. Käch, I.-A. Melzer-Pellmann, "Attention to Mean-Fields for Particle Cloud Generation" (also "Pay Attention to
    Mean-Fields during Particle Cloud Generation"), arXiv:2305.15254v1. It numbers no equations; "§" means its sections.
  Authors' code: the commit of May 2023 that has the paper's parameter counts, github.com/kaechb/MDMA at 5b0a15c.

A jet is a set of n particles. Generator and critic are stacks of one block (Fig. 1): the mean field attends to all
particles, and each particle is updated with the new mean field. The cost is linear in n. For the first steps the
generator also matches the critic's last mean field on real jets (mean-field matching, §3.2).

Symbols
  x, z     particles, noise  (B, N, 3), standardised            mask   (B, N), True where a particle is real
  c        mean field  (B, l)                                   n      real particles of a jet, mask.sum(1)
  l, h     latent and hidden dimension                          G, D   Generator, Critic
  const    n_mean, the constant that sums and n are divided by

Departures from the authors' code, where it breaks the paper's promise that masked particles have no influence, or
differs from the paper's text. `paper_code=True` goes back to the code in 1-6; 7-8 change no value in either mode.
  1. n / const enters at the down-projections; the code's number is the count of *masked* slots / const.
  2. c starts as the sum over real particles / const (§3) in both networks. In the code G's sum includes the padding's
     embedded bias, and D takes the mean over the padded length.
  3. All activations of G are GELU (§3); the code's embedding has LeakyReLU.
  4. G's last layer is a plain one (§3: weight normalisation is the critic's); the code normalises its rows.
  5. D's unused parameters are left out: the last block's particle update (1,280) and a cls_token (16).
  6. So G has 87,139 parameters and D 41,744; the published 87,136 and 43,040 ("~87'000", "~43'000") are paper_code's.
  7. Keys and values of particles are never formed, and no particle is concatenated with c: see MeanFieldAttention
     and Block.update. The key bias, which cannot matter, is kept, so that the parameters are nn.MultiheadAttention's.
  8. The critic's attention dropout (0.1) is left out: the authors' training puts the critic in eval mode each step.
Where the paper is silent: what follows the authors' code
  9. D maps [c, n / const] through a layer of its own before the first block; D's head has a LayerNorm; the residual
     on particles stands inside the activation; the attention's in-projection is weight-normalised with a gain, its
     out-projection is plain; all other weight-normalised layers have neither gain nor bias. LayerNorm of c stands
     before the activation; a layer l -> l ends the generator's block (Fig. 1 has none), an activation the critic's
     down-projection; particles of the critic see c from before its residual; its head has three layers (§3: two).
 10. The factors of the least-squares losses: none for D, 1/2 for G. Mean-field matching is a mean over B and l.
And what is our choice
 11. aggregate "mean" and "sum" pool h in the place of the attention (sum / const), and nothing else of c survives.
     update "add": act(W h + b + c). glu: (W c + b) · σ(v n / const), with as many parameters as the layer on [c, n].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.masking import lengths_to_mask, masked_mean, masked_sum

# --- Blocks -------------------------------------------------------------------------------------------------


class WNLinear(nn.Module):
    """y_j = w_j·x / ‖w_j‖: linear layer with rows of norm 1, no gain, no bias (Xiang & Li 2017; the critic, §3)."""

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


class MeanFieldAttention(nn.Module):
    """MultiHead(c, h, h) of §3: cross-attention with the mean field as its only query.

    Equal to nn.MultiheadAttention with the same parameters, without a key or value for each particle:
      q·(W_k h_i + b_k) = (W_kᵀ q)·h_i + q·b_k, where q·b_k is the same for all i and drops out of the softmax;
      Σ_i a_i (W_v h_i + b_v) = W_v Σ_i a_i h_i + b_v, as Σ_i a_i = 1.
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
        W_q, W_k, W_v = self.in_proj_weight.unflatten(0, (3, self.heads, -1))  # (heads, d, H) each
        b_q, _, b_v = self.in_proj_bias.chunk(3)
        q = F.linear(c, W_q.flatten(0, 1), b_q) * W_q.shape[1] ** -0.5  # (B, H), scaled by 1/√d
        q = (q.unflatten(1, (self.heads, -1)).transpose(0, 1) @ W_k).transpose(
            0, 1
        )  # (B, heads, H)
        masked = (~mask).to(h.dtype)[
            :, None
        ] * -1e30  # the softmax of it is exactly 0, and finite for an empty jet
        a = (q @ h.mT).add_(masked).softmax(dim=-1)  # (B, heads, N)
        c = (a @ h).transpose(0, 1) @ W_v.mT  # (heads, B, d)
        return self.out_proj(c.transpose(0, 1).flatten(1) + b_v)


class Block(nn.Module):
    """Fig. 1 without its residual connections, in which G and D differ.

    linear, act: layer and activation. Of the particles' and the mean field's way, `exchange` is the first half and
    `update` the second.
    """

    def __init__(self, l, h, heads, linear, act, n_mean, aggregate, update, glu):
        super().__init__()
        self.act, self.n_mean, self.aggregate, self.update_with, self.glu = (
            act,
            n_mean,
            aggregate,
            update,
            glu,
        )
        self.up = linear(l, h)
        if h % heads:
            raise ValueError(f"hidden dimension {h} is not a multiple of {heads} heads")
        if aggregate == "attention":
            self.norm = nn.LayerNorm(h)
            self.attention = MeanFieldAttention(h, heads)
        self.down = linear(h + 1, l)
        self.out = linear(h + l if update == "layer" else h, l)

    def exchange(self, x: Tensor, c: Tensor, n: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Particles to mean field. x: (B, N, l); c: (B, l); n: (B, 1). Returns h (B, N, h) and the new c (B, l)."""
        h = self.act(self.up(x))
        if self.aggregate == "attention":
            c = self.attention(self.act(self.norm(self.up(c))), h, mask)
        elif self.aggregate == "mean":
            c = masked_mean(h, mask)
        else:
            c = masked_sum(h, mask) / self.n_mean  # (B, h)
        if not self.glu:
            return h, self.down(torch.cat([c, n], dim=1))
        W, v = self.down.weight.split([c.shape[1], 1], dim=1)
        return h, F.linear(c, W, self.down.bias) * torch.sigmoid(n @ v.T)

    def update(self, h: Tensor, c: Tensor) -> Tensor:
        """Mean field to particles: act(W [h_i, c] + b) as W₁ h_i + (W₂ c + b). h: (B, N, h); c: (B, l) -> (B, N, l)."""
        if self.update_with == "add":
            W_1, c = self.out.weight, c if self.out.bias is None else c + self.out.bias
        else:
            W_1, W_2 = self.out.weight.split([h.shape[2], c.shape[1]], dim=1)
            c = F.linear(c, W_2, self.out.bias)
        return self.act(F.linear(h, W_1).add_(c[:, None]))


class GeneratorBlock(Block):
    """Block with a residual connection between the particles, §3."""

    def __init__(self, l, h, heads, **options):
        super().__init__(l, h, heads, nn.Linear, F.gelu, **options)
        self.mix = nn.Linear(l, l)

    def forward(self, x: Tensor, c: Tensor, n: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, N, l); c: (B, l); n: (B, 1); mask: (B, N). Returns the new x and c."""
        h, c = self.exchange(x, c, n, mask)
        return self.act(self.mix(self.update(h, c)).add_(x)), c


class CriticBlock(Block):
    """Block with weight-normalised layers and a residual connection between the mean fields, §3."""

    def __init__(self, l, h, heads, **options):
        super().__init__(l, h, heads, WNLinear, F.leaky_relu, **options)
        if self.aggregate == "attention":
            nn.utils.parametrizations.weight_norm(self.attention, "in_proj_weight")

    def forward(
        self, x: Tensor, c: Tensor, n: Tensor, mask: Tensor, last: bool
    ) -> tuple[Tensor | None, Tensor]:
        """x: (B, N, l); c: (B, l); n: (B, 1); mask: (B, N). Returns the new x (nobody needs the last one) and c."""
        h, u = self.exchange(x, c, n, mask)
        u = self.act(u)
        return None if last else self.update(h, u), u + c


# --- The two players ----------------------------------------------------------------------------------------


def multiplicity(mask: Tensor, n_mean: float, paper_code: bool, dtype: torch.dtype) -> Tensor:
    """n / const, which the down-projections are fed; (N − n) / const in the authors' code. mask: (B, N) -> (B, 1)."""
    counted = ~mask if paper_code else mask
    return counted.sum(dim=1, keepdim=True).to(dtype) / n_mean


class Generator(nn.Module):
    """G: noise z (B, N, 3), mask (B, N) -> particles (B, N, 3), standardised; masked slots are exactly 0.

    aggregate: "attention", "mean", "sum"; update: "layer", "add"; glu: gate by n; n_mean: const. 87,139 parameters,
    of which 336 (key biases) cannot matter. paper_code: 87,136, and the authors' code's departures 1-4 above; then a
    jet depends on how far it is padded (the published model is one for 150 slots), but not on what the padding holds.
    """

    def __init__(
        self,
        l=16,
        h=48,
        blocks=7,
        heads=8,
        features=3,
        aggregate="attention",
        update="layer",
        glu=False,
        n_mean=70.0,
        paper_code=False,
    ):
        super().__init__()
        self.n_mean, self.paper_code = n_mean, paper_code
        self.embed = nn.Linear(features, l)
        self.blocks = nn.ModuleList(
            GeneratorBlock(l, h, heads, n_mean=n_mean, aggregate=aggregate, update=update, glu=glu)
            for _ in range(blocks)
        )
        self.out = WNLinear(l, features) if paper_code else nn.Linear(l, features)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        act = F.leaky_relu if self.paper_code else F.gelu
        x = act(self.embed(z.masked_fill(~mask[..., None], 0)))  # (B, N, l)
        c = (x.sum(dim=1) if self.paper_code else masked_sum(x, mask)) / self.n_mean  # (B, l)
        n = multiplicity(mask, self.n_mean, self.paper_code, x.dtype)
        for block in self.blocks:
            x, c = block(x, c, n, mask)
        return self.out(x).masked_fill(~mask[..., None], 0)  # (B, N, 3)


class Critic(nn.Module):
    """D: particles x (B, N, 3), mask (B, N) -> score (B,), unbounded, and the last mean field (B, l) for §3.2.

    Options as the generator's. 41,744 parameters. paper_code: 43,040 of which 1,296 are never used (departures 1, 2
    and 5 above); then a score depends on how far a jet is padded, but not on what the padding holds.
    """

    def __init__(
        self,
        l=16,
        h=64,
        blocks=2,
        heads=4,
        features=3,
        aggregate="attention",
        update="layer",
        glu=False,
        n_mean=70.0,
        paper_code=False,
    ):
        super().__init__()
        self.n_mean, self.paper_code = n_mean, paper_code
        self.embed = WNLinear(features, l)
        self.init = WNLinear(l + 1, l)
        self.blocks = nn.ModuleList(
            CriticBlock(l, h, heads, n_mean=n_mean, aggregate=aggregate, update=update, glu=glu)
            for _ in range(blocks)
        )
        self.head = nn.Sequential(
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
            del self.blocks[-1].out

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.embed(x.masked_fill(~mask[..., None], 0)))  # (B, N, l)
        c = x.mean(dim=1) if self.paper_code else masked_sum(x, mask) / self.n_mean  # (B, l)
        n = multiplicity(mask, self.n_mean, self.paper_code, x.dtype)
        mean_field = self.init(torch.cat([c, n], dim=1))
        for block in self.blocks:
            x, mean_field = block(
                x, F.leaky_relu(mean_field), n, mask, last=block is self.blocks[-1]
            )
        return self.head(F.leaky_relu(mean_field)), mean_field


@torch.no_grad()
def sample_jets(
    G: nn.Module,
    n: Tensor,
    num_particles: int,
    features: int = 3,
    chunk_size: int = 500,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """J jets of n[i] particles each: (J, num_particles, 3), standardised and masked slots 0, and their mask.

    Jets are generated in chunks of like n, each padded to its largest n only, and put back in their order. The noise
    is drawn for all jets first, so that a seeded `generator` (on G's device) gives the same jets whatever the
    chunk size. n: (J,) int64 in [1, num_particles]. chunk_size: a few hundred fit a CPU's cache; a GPU wants tens of
    thousands.
    """
    if len(n) and not 1 <= int(n.min()) <= int(n.max()) <= num_particles:
        raise ValueError(
            f"jets of {int(n.min())} to {int(n.max())} particles; possible are 1 to {num_particles}"
        )
    device = next(G.parameters()).device
    n = n.to(device)
    jets = torch.randn(len(n), num_particles, features, device=device, generator=generator)
    mask = lengths_to_mask(n, num_particles)
    for chunk in n.argsort().split(chunk_size):
        N = (
            num_particles if getattr(G, "paper_code", False) else int(n[chunk[-1]])
        )  # there padding counts
        jets[chunk, :N] = G(jets[chunk, :N], mask[chunk, :N])
    return jets.masked_fill_(~mask[..., None], 0), mask


# --- Objectives, §3.1: D's loss of real and fake scores (B,), G's loss of fake ones -----------------------------


def lsgan_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(x) − 1)² + E D(G(z))². 1/2 where D = 1/2."""
    return (real - 1).square().mean() + fake.square().mean()


def lsgan_generator_loss(fake: Tensor) -> Tensor:
    """E (D(G(z)) − 1)² / 2."""
    return (fake - 1).square().mean() / 2


def vanilla_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−E log σ(D(x)) − E log(1 − σ(D(G(z)))). 2 log 2 where D = 0."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def vanilla_generator_loss(fake: Tensor) -> Tensor:
    """−E log σ(D(G(z))), the non-saturating one."""
    return F.softplus(-fake).mean()


def wgan_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) − E D(x); to it λ times gradient_penalty is added."""
    return fake.mean() - real.mean()


def wgan_generator_loss(fake: Tensor) -> Tensor:
    """−E D(G(z))."""
    return -fake.mean()


OBJECTIVES = {
    "lsgan": (lsgan_critic_loss, lsgan_generator_loss),
    "vanilla": (vanilla_critic_loss, vanilla_generator_loss),
    "wgan-gp": (wgan_critic_loss, wgan_generator_loss),
}


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, mask: Tensor, u: Tensor) -> Tensor:
    """E (‖∇_x̂ D(x̂)‖ − 1)² at x̂ = u x + (1 − u) G(z), Gulrajani et al. 2017. One norm a jet, over its real particles.

    real, fake: (B, N, 3), paired jet by jet with one mask (B, N), particles in the order they stand; u: (B,) in
    [0, 1]. Returns a scalar in [0, ∞), differentiable in D's parameters.
    """
    u = u[:, None, None]
    x_hat = (u * real + (1 - u) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        D(x_hat, mask)[0].sum(), x_hat, create_graph=True
    )  # (B, N, 3)
    gradient = gradient.masked_fill(~mask[..., None], 0)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()


def mean_field_matching(fake: Tensor, real: Tensor) -> Tensor:
    """E ‖c_D(G(z)) − c_D(x)‖² / l, §3.2, paired by place; no gradient to the real side. fake, real: (B, l)."""
    return F.mse_loss(fake, real.detach())
