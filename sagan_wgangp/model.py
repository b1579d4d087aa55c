"""From GAN to SAGAN + WGAN-GP: one generator and critic for any image size, five objectives, self-attention.

Papers
  R. Ding, "Research on Image Generation Methods Based on Adversarial Neural Networks", Shanghai Maritime University:
    the comparison GAN, WGAN, WGAN-GP, SAGAN and SAGAN + WGAN-GP. "Eq.", "§", "Table" without a name mean this text.
  DCGAN, arXiv:1511.06434; WGAN, arXiv:1701.07875; WGAN-GP, arXiv:1704.00028; SAGAN, arXiv:1805.08318: the methods.

Ding adds one idea after the other to a GAN (here a DCGAN: 14): the Wasserstein distance, the gradient penalty, spectral
normalisation with two learning rates and self-attention, and at last SAGAN with WGAN-GP's loss. Here each of them is a
switch.

Symbols
  x, z            x  (B, C, H, W) in [-1, 1] or (B, 2),  z  (B, N_z) ~ N(0, I)
  G, D            Generator, Critic (images); ToyGenerator, ToyCritic (points). D's output is a number, no sigmoid
  W(P_r, P_g)     wasserstein_distance                c               c of clip_weights
  x̂, ε, λ         in gradient_penalty; --gp           n_critic        --n-critic (train.py)
  f, g, h, v      1x1 convolutions of SelfAttention   β_{j,i}, γ      SelfAttention.beta, SelfAttention.gamma

Departures from Ding: his slips
  1. Eq. 4 takes the penalty at x; it is at x̂ = ε x + (1 − ε) G(z), with one ε a sample (WGAN-GP, Alg. 1).
  2. §3.2.1 lets the generator be 1-Lipschitz; it is the critic. Clipping makes it K-Lipschitz for some K, not 1.
  3. §3.1 says that WGAN-GP clips weights and gives up Adam. That is WGAN; WGAN-GP uses Adam.
  4. §3.2.1 keeps BatchNorm in WGAN-GP. Not in its critic: the penalty is a matter of single samples.
  5. Fig. 1 has a Hadamard product in the attention; §3.2.2, SAGAN and we a product of matrices.
  6. §3.2.2 leaves out of SAGAN's attention the softmax, γ and the widths; they are SAGAN's.
  7. §3.2.3 says that TTUR saves G's steps; it saves D's. §4.1 gives CelebA "over twenty thousand" images; it has
     202,599. §4.3.1 writes p(y) = Σ p(y|xᵢ); the mean is meant, 1/N of it.
Departures from the methods' own papers, and where all are silent
  8. All have one pair of networks: DCGAN's, with a linear layer instead of the 4x4 convolution at its narrow end. The
     sizes halve, rounding up, to 4 or 5 (200, 100, 50, 25, 13, 7, 4), widths double up to eight times the first.
     SAGAN's own are residual, conditional and larger.
  9. z is normal for all; DCGAN's was uniform. BatchNorm's gain starts at 1, not at N(1, 0.02²).
 10. Spectral normalisation spares the last layers of G and D (§3.2.2); SAGAN's authors' code has it there, too. It
     covers the attention's convolutions. Each forward pass in train mode is one power iteration; in SAGAN's authors'
     code only D(x) and G(z) are, not D(G(z)).
 11. SAGAN's authors' code pools the keys and values of attention 2x2; its paper and we do not. Values have C/2
     channels as in the code (the paper: C/8, like queries and keys).
 12. Eq. 1 lets G minimise log(1 − D(G(z))); we, as all, maximise log D(G(z)) (§3.2.1's "-logD trick").
 13. He's initial weights are normal, with a transposed convolution's whole kernel as fan; WGAN-GP's authors' code draws
     them uniform, averages both fans and divides by stride². Ours start G's images four times smaller in variance.
 14. Ding's baseline is "the original GAN" for 28x28 images, enlarged to 200x200 (§4.2); its layers are not given.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import spectral_norm

# --- Blocks -------------------------------------------------------------------------------------------------

INITS = {
    "normal": lambda weight, fan: nn.init.normal_(weight, 0.0, 0.02),                    # DCGAN, WGAN
    "he": lambda weight, fan: nn.init.kaiming_normal_(weight, mode=fan, nonlinearity="relu"),    # WGAN-GP's code: 13
    "xavier": lambda weight, fan: nn.init.xavier_uniform_(weight),                       # SAGAN's code
}


def pyramid(size: int) -> list[int]:
    """The sides of the maps: each half the one before, rounded up, until 5 or less. 200 -> 200 100 50 25 13 7 4."""
    if size < 6:
        raise ValueError(f"images of side {size} are too small: 6 is the least")
    sides = [size]
    while sides[-1] > 5:
        sides.append((sides[-1] + 1) // 2)
    return sides


def widths_of(size: int, width: int) -> list[int]:
    """Channels of the maps pyramid(size)[1:]."""
    return [width * min(2**i, 8) for i in range(len(pyramid(size)) - 1)]


def ready(layer: nn.Module, init: str, spectral: bool) -> nn.Module:
    """A convolution or linear layer with its initial weights, spectrally normalised or not."""
    # A transposed convolution's weight is (in, out, k, k): what torch takes for fan_out is the fan that comes in.
    INITS[init](layer.weight, "fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if spectral else layer          # W / σ(W); of a transposed convolution over dim 1


class SelfAttention(nn.Module):
    """y_j = γ o_j + x_j,  o_j = v(Σ_i β_{j,i} h(x_i)),  β_{j,i} = softmax_i f(x_i)ᵀ g(x_j), SAGAN Eq. 1-3.

    (B, C, H, W) -> the same. i, j run over the N = H·W places; keys f and queries g have C/8 channels, values h C/2.
    γ = 0 at the start, so that the block begins as the identity; γ alone has a gradient in the very first step.
    Costs N²·C multiplications, keys and queries being padded to C/2; memory grows with N,
    under the gradient penalty with N².
    """

    def __init__(self, channels: int, init: str = "xavier", spectral: bool = True):
        super().__init__()
        narrow, wide = max(1, channels // 8), max(1, channels // 2)
        self.f, self.g, self.h, self.v = (
            ready(nn.Conv2d(c_in, c_out, 1, bias=False), init, spectral)
            for c_in, c_out in ((channels, narrow), (channels, narrow), (channels, wide), (wide, channels)))
        self.gamma = nn.Parameter(torch.zeros(()))

    def beta(self, x: Tensor) -> Tensor:
        """β (B, N, N): row j is what place j looks at; rows sum to 1."""
        keys, queries = self.f(x).flatten(2), self.g(x).flatten(2)                       # (B, C/8, N)
        return torch.softmax(queries.transpose(1, 2) @ keys, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (conv(x).flatten(2).mT[:, None].contiguous() for conv in (self.g, self.f, self.h))
        extra = (0, values.shape[-1] - keys.shape[-1])          # fused kernels want equal widths; zeros add nothing
        o = F.scaled_dot_product_attention(F.pad(queries, extra), F.pad(keys, extra), values, scale=1.0)
        o = o[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])                            # (B, C/2, H, W)
        return self.gamma * self.v(o) + x


# --- Generators and critics ---------------------------------------------------------------------------------


class Generator(nn.Sequential):
    """G: z (B, N_z) -> images (B, C, H, W) in [-1, 1]. Linear, then [BN, ReLU, attention, transposed convolution].

    attention: sides of the maps that it works on. The kernel is 4 to an even side, 3 to an odd one: just the critic's
    sizes, backwards.
    """

    def __init__(self, z_dim=128, size=200, channels=3, width=64, batch_norm=True, spectral=True, attention=(),
                 init="xavier"):
        sides, widths = pyramid(size), widths_of(size, width)
        linear = nn.Linear(z_dim, widths[-1] * sides[-1] ** 2, bias=not batch_norm)
        layers = [ready(linear, init, spectral), nn.Unflatten(1, (widths[-1], sides[-1], sides[-1]))]
        for i in reversed(range(len(widths))):                                           # side sides[i+1] -> sides[i]
            layers += [nn.BatchNorm2d(widths[i])] if batch_norm else []
            layers += [nn.ReLU(True)]
            layers += [SelfAttention(widths[i], init, spectral)] if sides[i + 1] in attention else []
            c_out, last = (widths[i - 1], False) if i else (channels, True)
            conv = nn.ConvTranspose2d(widths[i], c_out, 4 - sides[i] % 2, 2, 1, bias=last or not batch_norm)
            layers += [ready(conv, init, spectral and not last)]
        super().__init__(*layers, nn.Tanh())


class Critic(nn.Sequential):
    """D: images (B, C, H, W) -> (B,). [Convolution, BN (not first), LeakyReLU(0.2), attention] to side 4 or 5, linear.

    As a discriminator (Eq. 1) its output is the logit of D. batch_norm must be False with the gradient penalty.
    """

    def __init__(self, size=200, channels=3, width=64, batch_norm=False, spectral=False, attention=(), init="xavier"):
        sides, widths = pyramid(size), widths_of(size, width)
        layers = []
        for i, (c_in, c_out) in enumerate(zip([channels] + widths, widths)):             # side sides[i] -> sides[i+1]
            norm = batch_norm and i > 0
            conv = nn.Conv2d(c_in, c_out, 4 - sides[i] % 2, 2, 1, bias=not norm)
            layers += [ready(conv, init, spectral)]
            layers += [nn.BatchNorm2d(c_out)] if norm else []
            layers += [nn.LeakyReLU(0.2)]
            layers += [SelfAttention(c_out, init, spectral)] if sides[i + 1] in attention else []
        last = ready(nn.Linear(widths[-1] * sides[-1] ** 2, 1), init, False)
        super().__init__(*layers, nn.Flatten(), last, nn.Flatten(0))


def perceptron(c_in, width, c_out, spectral, init):
    """Three hidden layers with ReLU: the networks of WGAN-GP's toy problems (authors' code)."""
    sides = [(c_in, width), (width, width), (width, width)]
    hidden = [layer for side in sides for layer in (ready(nn.Linear(*side), init, spectral), nn.ReLU())]
    return [*hidden, ready(nn.Linear(width, c_out), init, False)]


class ToyGenerator(nn.Sequential):
    """G: z (B, N_z) -> points (B, 2)."""

    def __init__(self, z_dim=2, width=512, spectral=False, init="he"):
        super().__init__(*perceptron(z_dim, width, 2, spectral, init))


class ToyCritic(nn.Sequential):
    """D: points (B, 2) -> (B,)."""

    def __init__(self, width=512, spectral=False, init="he"):
        super().__init__(*perceptron(2, width, 1, spectral, init), nn.Flatten(0))


# --- Objectives. real = D(x), fake = D(G(z)), each (B,); all return scalars -----------------------------------


def gan_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−E log D(x) − E log(1 − D(G(z))), Eq. 1 for D, from logits. 2 log 2 where D = 1/2; in [0, ∞)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def gan_generator_loss(fake: Tensor) -> Tensor:
    """−E log D(G(z)), Eq. 1 for G with the "-logD trick", from logits. log 2 where D = 1/2; in [0, ∞)."""
    return F.softplus(-fake).mean()


def wasserstein_distance(real: Tensor, fake: Tensor) -> Tensor:
    """W(P_r, P_θ) = E D(x) − E D(G(z)), Eq. 2, up to the Lipschitz constant of D."""
    return real.mean() - fake.mean()


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−W: D looks for the supremum of Eq. 3. The first two terms of Eq. 4."""
    return -wasserstein_distance(real, fake)


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """−E D(G(z)): what of W depends on G. Its zero is arbitrary: D + constant has the same W."""
    return -fake.mean()


@torch.no_grad()
def clip_weights(D: nn.Module, c: float) -> None:
    """Every parameter of D into [−c, c], in place: how WGAN keeps the sup of Eq. 3 finite. BatchNorm's, too."""
    for parameter in D.parameters():
        parameter.clamp_(-c, c)


def gradient_penalty(D: nn.Module, x: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """E (‖∇_x̂ D(x̂)‖₂ − 1)², x̂ = ε x + (1 − ε) G(z), Eq. 4 without λ. In [0, ∞).

    x, fake: (B, …), epsilon: (B,) in [0, 1], one a sample; the norm is over all other axes. Always in fp32. D is
    differentiated twice, which only the plain kernel of attention can.
    """
    epsilon = epsilon.view(-1, *[1] * (x.ndim - 1))
    x_hat = torch.lerp(fake.detach().float(), x.float(), epsilon).requires_grad_()
    with torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        gradient, = torch.autograd.grad(D(x_hat).sum(), x_hat, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def hinge_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))), SAGAN Eq. 4. 2 where D = 0; in [0, ∞). G's is Wasserstein's."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


LOSSES = {"gan": (gan_critic_loss, gan_generator_loss),
          "wasserstein": (wasserstein_critic_loss, wasserstein_generator_loss),
          "hinge": (hinge_critic_loss, wasserstein_generator_loss)}
