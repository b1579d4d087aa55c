"""From GAN to SAGAN + WGAN-GP: self-attention, the objectives, one generator and critic.

R. Ding, "Research on Image Generation Methods Based on Adversarial Neural Networks", Shanghai
Maritime University, 2025. "Eq.", "§", "Table" without a name mean this text. The methods: DCGAN
arXiv:1511.06434v2, WGAN 1701.07875v3, WGAN-GP 1704.00028v3, SAGAN 1805.08318v2.

Ding adds one idea after the other to a GAN: the Wasserstein distance, the gradient penalty,
spectral normalisation with two learning rates and self-attention; at last SAGAN with WGAN-GP's
loss. Here each is a switch. README.md numbers the departures.

x images (B, C, H, W) in [-1, 1] or points (B, 2), z (B, N_z) ~ N(0, I), G generator, D critic: a
number, no sigmoid; W(P_r, P_θ) Wasserstein distance, c clipping, x̂, ε, λ the penalty's; f, g, h, v
1x1 convolutions of attention, β_{j,i} its weights, γ its gain.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import spectral_norm


class SelfAttention(nn.Module):
    """y_j = γ o_j + x_j,  o_j = v(Σ_i β_{j,i} h(x_i)),  β_{j,i} = softmax_i f(x_i)ᵀ g(x_j),
    SAGAN Eq. 1-3 (§3.2.2; departures 5, 6, 11).

    (B, C, H, W) -> the same. i, j run over the N = H·W places; keys f and queries g have C/8
    channels, values h C/2. γ = 0 at the start, so that the block begins as the identity; γ alone
    has a gradient in the very first step. Costs N²·C multiplications; memory grows with N, under
    the gradient penalty with N².
    """

    def __init__(self, channels: int, init: str = "xavier", spectral: bool = True):
        super().__init__()

        def conv(c_in, c_out):
            return init_layer(nn.Conv2d(c_in, c_out, 1, bias=False), init, spectral)

        narrow, wide = max(1, channels // 8), max(1, channels // 2)
        self.f = conv(channels, narrow)
        self.g = conv(channels, narrow)
        self.h = conv(channels, wide)  # departure 11
        self.v = conv(wide, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def beta(self, x: Tensor) -> Tensor:
        """β (B, N, N): row j is what place j looks at; rows sum to 1."""
        keys = self.f(x).flatten(2)  # (B, C/8, N)
        queries = self.g(x).flatten(2)
        return torch.softmax(queries.mT @ keys, dim=-1)

    def attend(self, x: Tensor) -> Tensor:
        """Σ_i β_{j,i} h(x_i) for all j, (B, C/2, H, W), without keeping β."""

        def one_head(maps):  # (B, c, H, W) -> (B, 1, N, c)
            return maps.flatten(2).mT[:, None].contiguous()

        queries = one_head(self.g(x))
        keys = one_head(self.f(x))
        values = one_head(self.h(x))
        # Fused kernels want keys as wide as values; zeros add nothing to f(x_i)ᵀ g(x_j).
        padding = (0, values.shape[-1] - keys.shape[-1])
        queries, keys = F.pad(queries, padding), F.pad(keys, padding)
        o = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        return o[:, 0].mT.unflatten(2, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * self.v(self.attend(x)) + x


# --- Objectives. real = D(x), fake = D(G(z)), each (B,); all return scalars


def nonsaturating_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """−E log D(x) − E log(1 − D(G(z))), Eq. 1 for D. In [0, ∞), 2 log 2 where D = 1/2."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """−E log D(G(z)), Eq. 1 for G with §3.2.1's "-logD trick". In [0, ∞), log 2 where D = 1/2."""
    return F.softplus(-fake_logits).mean()  # departure 12


def wasserstein_distance(real: Tensor, fake: Tensor) -> Tensor:
    """W(P_r, P_θ) = E D(x) − E D(G(z)), Eq. 2, up to the Lipschitz constant of D."""
    return real.mean() - fake.mean()


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−W: D looks for the supremum of Eq. 3. The first two terms of Eq. 4."""
    return -wasserstein_distance(real, fake)


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """−E D(G(z)): the part of Eq. 2 that depends on G.

    Its zero is arbitrary: D + c has the same W.
    """
    return -fake.mean()


@torch.no_grad()
def clip_weights(D: nn.Module, c: float) -> None:
    """w ← clip(w, −c, c), §3.2.1: every parameter of D, in place, BatchNorm's, too (departure 2).

    How WGAN keeps the supremum of Eq. 3 finite.
    """
    for parameter in D.parameters():
        parameter.clamp_(-c, c)


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """E (‖∇_x̂ D(x̂)‖₂ − 1)², x̂ = ε x + (1 − ε) G(z), Eq. 4 without λ. In [0, ∞).

    real, fake: (B, …), epsilon: (B,) in [0, 1], one per sample; the norm is over all other axes.
    Always in fp32. D is differentiated twice, which only the plain kernel of attention can.
    """
    epsilon = epsilon.view(-1, *[1] * (real.ndim - 1))
    # x̂ = ε real + (1 − ε) fake: departure 1
    x_hat = torch.lerp(fake.detach().float(), real.float(), epsilon).requires_grad_()
    with torch.autocast(real.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(D(x_hat).sum(), x_hat, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))), SAGAN Eq. 4. In [0, ∞), 2 where D = 0.

    G's loss is Wasserstein's.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


LOSSES = {  # of D, of G
    "gan": (nonsaturating_discriminator_loss, nonsaturating_generator_loss),
    "wasserstein": (wasserstein_discriminator_loss, wasserstein_generator_loss),
    "hinge": (hinge_discriminator_loss, wasserstein_generator_loss),
}


# --- Networks (departure 8)


def init_layer(layer: nn.Module, init: str, spectral: bool) -> nn.Module:
    """A convolution or linear layer with its initial weights; spectral: W / σ(W) (departure 10).

    init: "normal" (DCGAN, WGAN), "he" (WGAN-GP's code) or "xavier" (SAGAN's code).
    """
    if init == "normal":
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif init == "he":  # departure 13
        # A transposed convolution's weight is (in, out, k, k): its fan in is what torch calls out.
        fan = "fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")
    elif init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        raise ValueError(f"init {init!r}: normal, he or xavier")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if spectral else layer


def pyramid(size: int) -> list[int]:
    """Sides of the maps: each half the one before, rounded up, until 5 or less.

    200 -> 200 100 50 25 13 7 4. ValueError for a size below 6.
    """
    if size < 6:
        raise ValueError(f"images of side {size} are too small: 6 is the least")
    sides = [size]
    while sides[-1] > 5:
        sides.append((sides[-1] + 1) // 2)
    return sides


def pyramid_widths(size: int, width: int) -> list[int]:
    """Channels of the maps pyramid(size)[1:]."""
    return [width * min(2**i, 8) for i in range(len(pyramid(size)) - 1)]


class Generator(nn.Sequential):
    """G: z (B, N_z) -> images (B, C, H, W) in [-1, 1].

    Linear, then [BatchNorm, ReLU, attention, transposed convolution], tanh. attention: sides of the
    maps that it works on. The kernel is 4 to an even side, 3 to an odd one: just the critic's
    sizes, backwards. Ding gives no layers (departure 14).
    """

    def __init__(
        self,
        z_dim=128,
        size=200,
        channels=3,
        width=64,
        batch_norm=True,
        spectral=True,
        attention=(),
        init="xavier",
    ):
        sides, widths = pyramid(size), pyramid_widths(size, width)
        linear = nn.Linear(z_dim, widths[-1] * sides[-1] ** 2, bias=not batch_norm)
        layers = [init_layer(linear, init, spectral)]
        layers.append(nn.Unflatten(1, (widths[-1], sides[-1], sides[-1])))
        for i in reversed(range(len(widths))):  # side sides[i+1] -> sides[i]
            if batch_norm:
                layers.append(nn.BatchNorm2d(widths[i]))
            layers.append(nn.ReLU(True))
            if sides[i + 1] in attention:
                layers.append(SelfAttention(widths[i], init, spectral))
            last = i == 0
            c_out = channels if last else widths[i - 1]
            kernel, bias = 4 - sides[i] % 2, last or not batch_norm
            conv = nn.ConvTranspose2d(widths[i], c_out, kernel, 2, 1, bias=bias)
            layers.append(init_layer(conv, init, spectral and not last))
        super().__init__(*layers, nn.Tanh())


class Critic(nn.Sequential):
    """D: images (B, C, H, W) -> (B,), the logit of Eq. 1's D or the critic of Eq. 2.

    [Convolution, BatchNorm (not first), LeakyReLU(0.2), attention] to side 5 or less, linear.
    batch_norm must be False with the gradient penalty (departure 4).
    """

    def __init__(
        self,
        size=200,
        channels=3,
        width=64,
        batch_norm=False,
        spectral=False,
        attention=(),
        init="xavier",
    ):
        sides, widths = pyramid(size), pyramid_widths(size, width)
        layers = []
        for i, c_out in enumerate(widths):  # side sides[i] -> sides[i+1]
            c_in = widths[i - 1] if i > 0 else channels
            norm = batch_norm and i > 0
            conv = nn.Conv2d(c_in, c_out, 4 - sides[i] % 2, 2, 1, bias=not norm)
            layers.append(init_layer(conv, init, spectral))
            if norm:
                layers.append(nn.BatchNorm2d(c_out))
            layers.append(nn.LeakyReLU(0.2))
            if sides[i + 1] in attention:
                layers.append(SelfAttention(c_out, init, spectral))
        last = init_layer(nn.Linear(widths[-1] * sides[-1] ** 2, 1), init, False)
        super().__init__(*layers, nn.Flatten(), last, nn.Flatten(0))


def perceptron(c_in, width, c_out, spectral, init):
    """Three hidden layers with ReLU: the networks of WGAN-GP's toy problems (authors' code)."""
    layers = []
    for fan_in in (c_in, width, width):
        layers.append(init_layer(nn.Linear(fan_in, width), init, spectral))
        layers.append(nn.ReLU())
    return [*layers, init_layer(nn.Linear(width, c_out), init, False)]


class ToyGenerator(nn.Sequential):
    """G: z (B, N_z) -> points (B, 2)."""

    def __init__(self, z_dim=2, width=512, spectral=False, init="he"):
        super().__init__(*perceptron(z_dim, width, 2, spectral, init))


class ToyCritic(nn.Sequential):
    """D: points (B, 2) -> (B,)."""

    def __init__(self, width=512, spectral=False, init="he"):
        super().__init__(*perceptron(2, width, 1, spectral, init), nn.Flatten(0))
