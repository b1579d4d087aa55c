"""BiGAN and ALI: a GAN with an encoder that learns to invert the generator.

J. Donahue, P. Krähenbühl, T. Darrell, "Adversarial Feature Learning", ICLR 2017,
arXiv:1605.09782v7: "§" and "eq."; "authors": their code, github.com/jeffdonahue/bigan.
V. Dumoulin et al., "Adversarially Learned Inference", ICLR 2017, arXiv:1606.00704v3: ALI.
C. Li et al., "ALICE", NIPS 2017, arXiv:1709.01215v2: the cycle term.

D sees pairs: real x with its code E(x), or a code z with its image G(z). Where D can't tell the two
apart they have one joint distribution, and then E inverts G. In training E never sees G(z), and G
never sees E(x), except in a cycle term. ALI: E is stochastic.

x (B, C, H, W) in [-1, 1] or (B, 2);  z (B, N_z) ~ p_z, "uniform" on [-1, 1] or "normal"
G generator, E encoder (ALI's: μ + σ·ε, ε ~ N(0, 1)), D discriminator (logits), V(D, E, G) = −2·L_D
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- Objectives


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_D = −½ E log D(x, E(x)) − ½ E log(1 − D(G(z), z)) = −V(D, E, G)/2, eq. 3.

    real_logits, fake_logits: (B,), D's of (x, E(x)) and of (G(z), z). A scalar, ln 2 where D = ½.
    """
    return (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / 2


def encoder_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_GE = −½ E log(1 − D(x, E(x))) − ½ E log D(G(z), z), §3.4: L_D with the labels swapped.

    real_logits, fake_logits: (B,), D's of (x, E(x)) and of (G(z), z). Returns a scalar.
    """
    return (F.softplus(real_logits).mean() + F.softplus(-fake_logits).mean()) / 2


def generator_loss(fake_logits: Tensor) -> Tensor:
    """L_G = −E log D(G(z)): the plain GAN below the latent regressors, §4.1. (B,) -> a scalar."""
    return F.softplus(-fake_logits).mean()


def latent_loss(logits: Tensor, z: Tensor, prior: str = "uniform") -> Tensor:
    """L(z, E(G(z))) = H((z + 1)/2, sigmoid(a)), §4.1; normal prior: ½(a − z)² (authors).

    H: cross-entropy. logits: a (B, N_z), E's at G(z). Returns a scalar, the mean over B and N_z.
    """
    if prior == "uniform":
        return F.binary_cross_entropy_with_logits(logits, (z + 1) / 2)
    return (logits - z).square().mean() / 2


def reconstruction_loss(x: Tensor, reconstruction: Tensor, p: int = 1) -> Tensor:
    """mean|x − G(E(x))|^p: the autoencoders of §4.2 (p = 1, 2), ALICE's cycle term (p = 1).

    x, reconstruction: (B, …). Returns a scalar, the mean over images and pixels.
    """
    return (x.float() - reconstruction.float()).abs().pow(p).mean()


# --- The three players


class Encoder(nn.Module):
    """E: x -> z, 2·sigmoid(a) − 1 with a uniform prior (authors), a with a normal one.

    stochastic: a = μ(x) + σ(x)·ε, ε (B, N_z) ~ N(0, 1), ALI §2; without eps, ε = 0.
    features: x -> (B, features.dim), all but the last layer.
    """

    def __init__(self, features: nn.Module, z_dim: int, prior="uniform", stochastic=False):
        super().__init__()
        self.prior, self.stochastic = prior, stochastic
        self.features = features
        n_out = 2 * z_dim if stochastic else z_dim
        self.head = nn.Linear(features.dim, n_out, bias=False)
        self.apply(init_layer)  # departure 1

    def logits(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        a = self.head(self.features(x)).float()
        if not self.stochastic:
            return a
        mu, log_sigma = a.chunk(2, 1)
        return mu if eps is None else mu + log_sigma.exp() * eps

    def forward(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        return to_support(self.logits(x, eps), self.prior)


class Discriminator(nn.Module):
    """D: pairs (x, z) -> logits (B,), at first 0. pairs=False: x alone, for the latent regressors.

    net: (x, z) -> (B, net.dim), all but the last layer.
    """

    def __init__(self, net: nn.Module, pairs: bool = True):
        super().__init__()
        self.net, self.pairs = net, pairs
        self.head = nn.Linear(net.dim, 1, bias=False)
        self.apply(init_layer)
        nn.init.zeros_(self.head.weight)
        if isinstance(net, ConvFeatures):
            # authors: 16 times wider, since C·z is added to a sum over a kernel
            for C in net.conditions:
                nn.init.normal_(C.weight, std=0.02 * 16)

    def features(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.net(x, z if self.pairs else None)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, z)).squeeze(1)


def to_support(a: Tensor, prior: str) -> Tensor:
    """E's logits a squashed to the support of the prior."""
    return 2 * torch.sigmoid(a) - 1 if prior == "uniform" else a


def init_layer(m: nn.Module) -> None:
    """N(0, 0.02²) on weights (authors; ALI's toys too), zero biases."""
    if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, std=0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


def norm_with_z(norm: nn.Module, h: Tensor, Cz: Tensor, norm_z: bool = True) -> Tensor:
    """BN(h + C·z) if norm_z. Else BN(h) + C·z: codes without bounds, whose scale BN would hide.

    h (B, n) or maps (B, n, H, W); Cz (B, n), the same at each place of the maps.
    """
    Cz = Cz.view(Cz.shape + (1,) * (h.ndim - 2))
    return norm(h + Cz) if norm_z else norm(h) + Cz


# --- Permutation-invariant networks, §4.2: 784-1024-1024 at size 28 and width 64 (authors)


class MLPGenerator(nn.Module):
    """h₁ = ReLU(BN(W₁z)),  h₂ = ReLU(BN(W₂h₁ + C·z)),  x = 2·sigmoid(W₃h₂) − 1.

    z (B, N_z) -> images (B, C, size, size). BN without gain and bias.
    """

    def __init__(self, z_dim: int, size: int, channels: int, width: int):
        super().__init__()
        self.shape, n = (channels, size, size), 16 * width
        self.layers = linear_layers(z_dim, n, n, channels * size * size)
        # departure 2: BatchNorm's ε, here and below
        self.norms = nn.ModuleList(nn.BatchNorm1d(n, affine=False) for _ in range(2))
        self.conditions = linear_layers(z_dim, n)
        self.apply(init_layer)

    def forward(self, z: Tensor) -> Tensor:
        W1, W2, W3 = self.layers
        bn1, bn2 = self.norms
        (C,) = self.conditions
        h = F.relu(bn1(W1(z)))
        h = F.relu(norm_with_z(bn2, W2(h), C(z)))
        return (2 * torch.sigmoid(W3(h)) - 1).view(-1, *self.shape)


class MLPFeatures(nn.Module):
    """h₁ = LReLU(W₁x),  h₂ = LReLU(BN(W₂h₁ + C·z)): images x, z (B, N_z) or None -> (B, dim).

    dim = 16·width; x is first brought to [0, 1]. E's features and a D of images alone have z_dim 0
    and z None: no C·z.
    """

    def __init__(self, size: int, channels: int, width: int, z_dim: int = 0, norm_z=True):
        super().__init__()
        self.norm_z, self.dim = norm_z, 16 * width
        self.layers = linear_layers(channels * size * size, self.dim, self.dim)
        self.norms = nn.ModuleList([nn.BatchNorm1d(self.dim, affine=False)])
        self.conditions = linear_layers(z_dim, self.dim) if z_dim else nn.ModuleList()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        W1, W2 = self.layers
        (bn,) = self.norms
        h = W2(F.leaky_relu(W1(((x + 1) / 2).flatten(1)), 0.2))
        h = bn(h) if z is None else norm_with_z(bn, h, self.conditions[0](z), self.norm_z)
        return F.leaky_relu(h, 0.2)


def linear_layers(*widths: int) -> nn.ModuleList:
    """Linear maps without bias from each width to the next."""
    return nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:]))


# --- Convolutions: 4x4 kernels, stride 2 (departure 3)


class ConvGenerator(nn.Module):
    """h₁ = ReLU(BN(W₁z)),  h_l = ReLU(BN(W_l·h_{l−1} + C_l·z)),  x = 2·sigmoid(W·h) − 1.

    z (B, N_z) -> images (B, C, size, size). h₁ are 4x4 maps, each W_l doubles their side.
    """

    def __init__(self, z_dim: int, size: int, channels: int, width: int):
        super().__init__()
        widths = conv_widths(size, channels, width)[::-1]
        first = nn.Linear(z_dim, widths[0] * 16, bias=False)
        up = [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in zip(widths, widths[1:])]
        self.layers = nn.ModuleList([first, *up])
        norms = [nn.BatchNorm2d(n) for n in widths[1:-1]]
        self.norms = nn.ModuleList([nn.BatchNorm1d(widths[0] * 16), *norms])
        self.conditions = nn.ModuleList(nn.Linear(z_dim, n, bias=False) for n in widths[1:-1])
        self.apply(init_layer)

    def forward(self, z: Tensor) -> Tensor:
        first, *between, last = self.layers
        h = F.relu(self.norms[0](first(z))).unflatten(1, (-1, 4, 4))
        for W, bn, C in zip(between, self.norms[1:], self.conditions):
            h = F.relu(norm_with_z(bn, W(h), C(z)))
        return 2 * torch.sigmoid(last(h)) - 1


class ConvFeatures(nn.Module):
    """h₁ = LReLU(W₁x),  h_l = LReLU(BN(W_l·h_{l−1} + C_l·z)), the last one's 4x4 maps flattened.

    Images x (B, C, size, size), z (B, N_z) or None -> (B, dim). z_dim 0 needs z None: no C_l·z.
    """

    def __init__(self, size: int, channels: int, width: int, z_dim: int = 0, norm_z=True):
        super().__init__()
        widths = conv_widths(size, channels, width)
        self.norm_z = norm_z
        self.dim = 16 * widths[-1]  # 4x4 maps
        down = [nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip(widths, widths[1:])]
        self.layers = nn.ModuleList(down)
        inner = widths[2:]  # of all layers but the first, which has neither BN nor z
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in inner)
        self.conditions = nn.ModuleList(nn.Linear(z_dim, n, bias=False) for n in inner if z_dim)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = F.leaky_relu(self.layers[0](x), 0.2)
        for i, (W, bn) in enumerate(zip(self.layers[1:], self.norms)):
            h = W(h)
            h = bn(h) if z is None else norm_with_z(bn, h, self.conditions[i](z), self.norm_z)
            h = F.leaky_relu(h, 0.2)
        return h.flatten(1)


def conv_widths(size: int, channels: int, width: int) -> list[int]:
    """Channels of the maps from `size` to 4x4: C, width, 2·width, … ValueError if not 4·2^k."""
    n = int(math.log2(size / 4)) if size >= 8 else 0
    if n < 1 or size != 4 * 2**n:
        raise ValueError(
            f"image size {size} is not 4·2^k (8, 16, 32, 64, …), which conv networks need"
        )
    return [channels] + [width * 2**i for i in range(n)]
