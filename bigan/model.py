"""BiGAN and ALI: a GAN with an encoder that learns to invert the generator.

Papers
  J. Donahue, P. Krähenbühl, T. Darrell, "Adversarial Feature Learning", arXiv:1605.09782v7: BiGAN; "§", "eq." below.
  V. Dumoulin et al., "Adversarially Learned Inference", arXiv:1606.00704v3: ALI, the same game with a stochastic E.
  C. Li et al., "ALICE", arXiv:1709.01215v2: the cycle term.
  "code": github.com/jeffdonahue/bigan, the authors'. ALI's is github.com/IshmaelBelghazi/ALI.

D sees pairs: real x with its code E(x), or a code z with its image G(z). Where D can't tell the two joint distributions
apart they are equal, and then E inverts G. E never sees G's output in training, nor G E's: each gets its gradient from
its own half of D's loss.

Symbols
  x, z            x  (B, C, H, W) in [-1, 1] or (B, 2),  z  (B, N_z)       p_z   prior: "uniform" on [-1, 1], "normal"
  G, E, D         Generator, Encoder, Discriminator (logits)               V(D, E, G)   −2·discriminator_loss
  E(x) = μ + σ·ε  stochastic=True (ALI)                                    λ     weight of the cycle term

Departures from the authors' code
  1. E's last layer starts at N(0, 0.02²) for all methods; the code starts it at 0 for the latent regressors.
  2. BatchNorm's ε is 1e-5 (torch's), not 1e-8. The learning rate decays each step, not each epoch.
  3. "conv" follows the shape of the code's convnet_64 (4x4 for 5x5 kernels, any size 4·2^k), not its AlexNet encoder.
  4. For ALI only E, the prior and the toy networks are its own; on images it uses the networks below, not its
     maxout D with dropout. With a normal prior D's BatchNorm leaves z alone: else E wins by making E(x) ever larger.
     The toys follow the authors' ali_mixture.py at a7d4235, which drops nothing.
Where the papers are silent: weight decay acts on every parameter; reconstruction errors are means over pixels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARCHS = ("mlp", "conv", "toy")

# --- Features of x, and of pairs (x, z): all of E and D but their last layers ---------------------------------


def conv_widths(size: int, channels: int, width: int) -> list[int]:
    """Channels of the maps from `size` down to 4x4: C, width, 2·width, …"""
    n = int(math.log2(size / 4)) if size >= 8 else 0
    if n < 1 or size != 4 * 2**n:
        raise ValueError(
            f"image size {size} is not 4·2^k (8, 16, 32, 64, …), which conv networks need"
        )
    return [channels] + [width * 2**i for i in range(n)]


def add(h: Tensor, b: Tensor) -> Tensor:
    """h + b, with b (B, n) the same at each place of maps h (B, n, H, W)."""
    return h + b.view(b.shape + (1,) * (h.ndim - 2))


class Features(nn.Module):
    """h₁ = LReLU(W₁x),  h_l = LReLU(BN(W_l·h_{l−1} + C_l·z)),  the last one flattened: (B, dim). No z_dim: no C_l.

    norm_z=False: LReLU(BN(W_l·h_{l−1}) + C_l·z), for codes without bounds, whose scale BN would hide.
    mlp: 784-1024-1024 at size 28 and width 64, x as [0, 1], BN without gain and bias; conv: 4x4/2 convolutions.
    """

    def __init__(
        self, arch: str, size: int, channels: int, width: int, z_dim: int = 0, norm_z: bool = True
    ):
        super().__init__()
        self.mlp, self.norm_z = arch == "mlp", norm_z
        if self.mlp:
            widths = [channels * size * size, 16 * width, 16 * width]
            layers = [nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])]
        else:
            widths = conv_widths(size, channels, width)
            layers = [nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip(widths, widths[1:])]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(n, affine=False) if self.mlp else nn.BatchNorm2d(n) for n in widths[2:]
        )
        self.conditions = nn.ModuleList(
            nn.Linear(z_dim, n, bias=False) for n in widths[2:] if z_dim
        )
        self.dim = widths[-1] * (1 if self.mlp else 16)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = ((x + 1) / 2).flatten(1) if self.mlp else x
        h = F.leaky_relu(self.layers[0](h), 0.2)
        for i, (W, norm) in enumerate(zip(self.layers[1:], self.norms)):
            if not self.conditions:
                h = norm(W(h))
            elif self.norm_z:
                h = norm(add(W(h), self.conditions[i](z)))
            else:
                h = add(norm(W(h)), self.conditions[i](z))
            h = F.leaky_relu(h, 0.2)
        return h.flatten(1)


def toy_layers(n_in: int, width: int, depth: int) -> nn.Sequential:
    """ALI's toy G (depth 4) and E (depth 2) up to their last layers: linear to `width` units (400), BN, ReLU."""
    return nn.Sequential(
        *(
            layer
            for n in [n_in] + [width] * (depth - 1)
            for layer in (nn.Linear(n, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        )
    )


class ToyPairs(nn.Module):
    """ALI's toy D up to its last layer: (x, z) -> three maxout layers of width/2 units (200), 5 pieces each."""

    def __init__(self, n_in: int, width: int, pieces: int = 5):
        super().__init__()
        self.dim, self.pieces = width // 2, pieces
        self.layers = nn.ModuleList(
            nn.Linear(n, pieces * self.dim) for n in (n_in, self.dim, self.dim)
        )

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = x if z is None else torch.cat([x, z], 1)
        for layer in self.layers:
            h = layer(h).unflatten(1, (self.pieces, self.dim)).amax(1)
        return h


# --- The three players --------------------------------------------------------------------------------------


class Generator(nn.Module):
    """G: z (B, N_z) -> x.  h₁ = ReLU(BN(W₁z)),  h_l = ReLU(BN(W_l·h_{l−1} + C_l·z)),  x = 2·sigmoid(W·h) − 1.

    mlp: N_z-1024-1024-784. conv: W₁z are 4x4 maps, then 4/2/1 transposed convolutions. toy: no C_l, x linear.
    """

    def __init__(self, arch="mlp", z_dim=50, size=28, channels=1, width=64):
        super().__init__()
        self.arch, self.shape = arch, (channels, size, size)
        if arch == "toy":
            self.layers = nn.Sequential(toy_layers(z_dim, width, 4), nn.Linear(width, 2))
        elif arch == "mlp":
            widths = [z_dim, 16 * width, 16 * width, channels * size * size]
            self.layers = nn.ModuleList(
                nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])
            )
            self.norms = nn.ModuleList(nn.BatchNorm1d(n, affine=False) for n in widths[1:-1])
            self.conditions = nn.ModuleList(nn.Linear(z_dim, n, bias=False) for n in widths[2:-1])
        else:
            widths = conv_widths(size, channels, width)[::-1]
            self.layers = nn.ModuleList(
                [nn.Linear(z_dim, widths[0] * 16, bias=False)]
                + [
                    nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)
                    for a, b in zip(widths, widths[1:])
                ]
            )
            self.norms = nn.ModuleList(
                [nn.BatchNorm1d(widths[0] * 16)] + [nn.BatchNorm2d(n) for n in widths[1:-1]]
            )
            self.conditions = nn.ModuleList(nn.Linear(z_dim, n, bias=False) for n in widths[1:-1])
        self.apply(init)

    def forward(self, z: Tensor) -> Tensor:
        if self.arch == "toy":
            return self.layers(z)
        h = F.relu(self.norms[0](self.layers[0](z)))
        h = h.unflatten(1, (-1, 4, 4)) if self.arch == "conv" else h
        for W, C, norm in zip(self.layers[1:-1], self.conditions, self.norms[1:]):
            h = F.relu(norm(add(W(h), C(z))))
        return (2 * torch.sigmoid(self.layers[-1](h)) - 1).view(-1, *self.shape)


class Encoder(nn.Module):
    """E: x -> z. With a uniform prior its logits a are squashed to the prior's support: E(x) = 2·sigmoid(a) − 1 (code).

    stochastic (ALI §2): a = μ(x) + σ(x)·ε with ε (B, N_z) ~ N(0, 1); toy: a = f(x, ε), ε an input. Without eps ε = 0.
    `features`: the layer before.
    """

    def __init__(
        self, arch="mlp", z_dim=50, size=28, channels=1, width=64, prior="uniform", stochastic=False
    ):
        super().__init__()
        self.prior, self.stochastic, toy = prior, stochastic, arch == "toy"
        self.n_noise = z_dim if toy and stochastic else 0
        self.features = (
            toy_layers(2 + self.n_noise, width, 2) if toy else Features(arch, size, channels, width)
        )
        self.head = (
            nn.Linear(width, z_dim)
            if toy
            else nn.Linear(self.features.dim, z_dim * (2 if stochastic else 1), bias=False)
        )
        self.apply(init)

    def logits(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        if self.n_noise:
            eps = x.new_zeros(len(x), self.n_noise) if eps is None else eps
            return self.head(self.features(torch.cat([x, eps], 1)))
        a = self.head(self.features(x)).float()
        if self.stochastic:
            mu, log_sigma = a.chunk(2, 1)
            a = mu if eps is None else mu + log_sigma.exp() * eps
        return a

    def forward(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        a = self.logits(x, eps)
        return 2 * torch.sigmoid(a) - 1 if self.prior == "uniform" else a


class Discriminator(nn.Module):
    """D: pairs (x, z) -> logits (B,), at first 0. pairs=False: x alone, the plain GAN of the latent regressors.

    prior: with "normal", E(x) can be of any size, and z stays out of BatchNorm (ours).
    """

    def __init__(
        self, arch="mlp", z_dim=50, size=28, channels=1, width=64, prior="uniform", pairs=True
    ):
        super().__init__()
        self.pairs, z_dim = pairs, z_dim if pairs else 0
        self.net = (
            ToyPairs(2 + z_dim, width)
            if arch == "toy"
            else Features(arch, size, channels, width, z_dim, norm_z=prior == "uniform")
        )
        self.head = nn.Linear(self.net.dim, 1, bias=False)
        self.apply(init)
        nn.init.zeros_(self.head.weight)
        if arch == "conv":  # code: as large as what they are added to, a sum over a kernel
            for C in self.net.conditions:
                nn.init.normal_(C.weight, std=0.02 * 16)

    def features(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.net(x, z if self.pairs else None)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        return self.head(self.features(x, z)).squeeze(1)


def init(m: nn.Module) -> None:
    """N(0, 0.02²) on weights (code; ALI's toys too), zero biases."""
    if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(m.weight, std=0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


@torch.no_grad()
def recompute_statistics(G, E, D, batches) -> None:
    """BatchNorm's running statistics := their means over `batches` of (x, z, ε) (the code's "deploy" steps).

    z None: G gets E(x), as in an autoencoder. Training uses batch statistics, so this changes nothing there.
    Leaves the networks in eval mode.
    """
    norms = [
        m
        for net in (G, E, D)
        for m in net.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch: a plain average over all batches since the reset
    for net in (G, E, D):
        net.train()
    for x, z, eps in batches:
        code = E(x, eps)
        D(x, code)
        z = code if z is None else z
        D(G(z), z)
    for m, momentum in zip(norms, momenta):
        m.momentum = momentum
    for net in (G, E, D):
        net.eval()


# --- Objectives ---------------------------------------------------------------------------------------------


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D = −½ E log D(x, E(x)) − ½ E log(1 − D(G(z), z)) = −V(D, E, G) / 2, eq. 3. ln 2 where D = ½.

    real, fake: (B,) logits of D on (x, E(x)) and on (G(z), z). Returns a scalar.
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def encoder_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_GE = −½ E log(1 − D(x, E(x))) − ½ E log D(G(z), z), §3.4: L_D with the labels swapped, non-saturating."""
    return (F.softplus(real).mean() + F.softplus(-fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """L_G = −E log D(G(z)): the plain GAN below the latent regressors (§4.1). fake: (B,) logits. Returns a scalar."""
    return F.softplus(-fake).mean()


def latent_loss(logits: Tensor, z: Tensor, prior: str = "uniform") -> Tensor:
    """L(z, E(G(z))), §4.1: cross-entropy of sigmoid(a) and (z + 1)/2 (uniform prior), ½|a − z|² (normal; code), means.

    logits: a (B, N_z), E's logits at G(z). Returns a scalar.
    """
    if prior == "uniform":
        return F.binary_cross_entropy_with_logits(logits, (z + 1) / 2)
    return (logits - z).square().mean() / 2


def reconstruction_loss(x: Tensor, reconstruction: Tensor, p: int = 1) -> Tensor:
    """mean|x − G(E(x))|^p: the autoencoders of §4.2 (p = 1, 2), and ALICE's cycle term (p = 1). Returns a scalar."""
    return (x.float() - reconstruction.float()).abs().pow(p).mean()


def anomaly_score(
    x: Tensor, reconstruction: Tensor, f: Tensor, f_rec: Tensor, alpha: float = 0.9
) -> Tensor:
    """A(x) = α‖x − G(E(x))‖₁ + (1 − α)‖f_D(x, E(x)) − f_D(G(E(x)), E(x))‖₁, Zenati et al. 2018 (arXiv:1802.06222) §3.

    x, reconstruction: (B, …); f, f_rec: D's features (B, F). Returns (B,), the larger the stranger.
    """
    return alpha * (x - reconstruction).flatten(1).abs().sum(1) + (1 - alpha) * (
        f - f_rec
    ).abs().sum(1)
