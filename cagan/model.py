"""Cho, Yoon: Conditional Activation GAN: Improved Auxiliary Classifier GAN. IEEE Access 8, 2020.

CA-GAN trains one GAN per condition and adds up their losses; all share every layer but D's last.
GAN c sees only real images that have c, and generated ones that were asked to have it, so one loss
replaces AC-GAN's adversarial and classification losses, and the weight λ_cls between them. Mixed
batches, half real and half generated, keep a D with BatchNorm from telling real batches from
generated ones by their conditions.

  x, cnd              real images (B, C, H, W) in [-1, 1], their conditions (B, S) in {0, 1}
  x', cnd'            generated images, the conditions that they were asked to have
  S_cnd               the S conditions: exclusive groups one after the other, e.g. of sizes (3, 2)
  D_c, D_adv, D_cls   columns of D's output: (B, S), CA-GAN; (B, 1 + S), D_adv first, AC-GAN
  f_r^d, f_g^d, f_g^g the fields real_d, fake_d, fake_g of ADVERSARIAL

"§": the authors' manuscript. (1)-(6): AC-GAN, Odena et al., ICML 2017. Departures: README.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- AC-GAN, §2: D's output is (B, 1 + S)


def ac_discriminator_loss(
    real: Tensor, cnd: Tensor, fake: Tensor, cnd_fake: Tensor, groups=None, adv="minimax"
) -> Tensor:
    """L_d = L_adv^d + L_cls^r + L_cls^g, (1).

    real = D(x), fake = D(x'): (B, 1 + S). cnd, cnd_fake: (B, S). Returns a scalar.
    """
    L_adv = adversarial_discriminator_loss(real[:, 0], fake[:, 0], adv)
    L_cls_r = classification_loss(real[:, 1:], cnd, groups)
    L_cls_g = classification_loss(fake[:, 1:], cnd_fake, groups)
    return L_adv + L_cls_r + L_cls_g


def ac_generator_loss(fake: Tensor, cnd_fake: Tensor, groups=None, adv="minimax") -> Tensor:
    """L_g = L_adv^g + L_cls^g, (2) without L_cls^r, which has no gradient to G.

    fake = D(x'): (B, 1 + S). Returns a scalar.
    """
    L_adv = adversarial_generator_loss(fake[:, 0], adv)
    return L_adv + classification_loss(fake[:, 1:], cnd_fake, groups)  # departure 1


def classification_loss(logits: Tensor, cnd: Tensor, groups=None) -> Tensor:
    """L_cls = E[−log D_cls(cnd | x)], (3), (4), (9), (10).

    logits, cnd: (B, S). groups: the exclusive groups' sizes, None: one of all S. Returns a scalar.
    """
    groups = list(groups or [logits.shape[1]])
    loss = 0
    for l, c in zip(logits.split(groups, 1), cnd.split(groups, 1)):
        loss = loss - (c * l.log_softmax(1)).sum(1).mean()  # departure 2: softmax per group
    return loss


def adversarial_discriminator_loss(real: Tensor, fake: Tensor, adv="minimax") -> Tensor:
    """L_adv^d = E[−log D_adv(x)] + E[−log(1 − D_adv(x'))], (5), or another of ADVERSARIAL.

    real, fake: (B,), D_adv before its sigmoid. Returns a scalar.
    """
    f = ADVERSARIAL[adv]  # departure 3
    return f.real_d(real).mean() + f.fake_d(fake).mean()


def adversarial_generator_loss(fake: Tensor, adv="minimax") -> Tensor:
    """L_adv^g = E[log(1 − D_adv(x'))], (6), or another of ADVERSARIAL. fake: (B,). A scalar."""
    return ADVERSARIAL[adv].fake_g(fake).mean()


def modified_ac_discriminator_loss(
    real: Tensor, cnd: Tensor, fake: Tensor, lambda_cls: float, groups=None, adv="lsgan"
) -> Tensor:
    """L_d = L_adv^d + λ_cls L_cls^r, (7), (9): what x' was asked to be plays no part.

    real = D(x), fake = D(x'): (B, 1 + S). cnd: (B, S). Returns a scalar.
    """
    L_adv = adversarial_discriminator_loss(real[:, 0], fake[:, 0], adv)
    return L_adv + lambda_cls * classification_loss(real[:, 1:], cnd, groups)


def modified_ac_generator_loss(
    fake: Tensor, cnd_fake: Tensor, lambda_cls: float, groups=None, adv="lsgan"
) -> Tensor:
    """L_g = L_adv^g + λ_cls L_cls^g, (8), (10). fake = D(x'): (B, 1 + S). Returns a scalar."""
    L_adv = adversarial_generator_loss(fake[:, 0], adv)
    return L_adv + lambda_cls * classification_loss(fake[:, 1:], cnd_fake, groups)


# --- CA-GAN, §3: D's output is (B, S)


class Adversarial(NamedTuple):
    """f_r^d, f_g^d, f_g^g of (13), (14): functions of an output d of D, entry by entry."""

    real_d: Callable[[Tensor], Tensor]  # f_r^d: in D's loss, of real images
    fake_d: Callable[[Tensor], Tensor]  # f_g^d: in D's loss, of generated images
    fake_g: Callable[[Tensor], Tensor]  # f_g^g: in G's loss


ADVERSARIAL = {
    "lsgan": Adversarial(  # (15), (16)
        real_d=lambda d: (d - 1) ** 2,
        fake_d=lambda d: d**2,
        fake_g=lambda d: (d - 1) ** 2,
    ),
    "minimax": Adversarial(  # (5), (6): −log σ(d), −log(1 − σ(d)), log(1 − σ(d))
        real_d=lambda d: F.softplus(-d),
        fake_d=lambda d: F.softplus(d),
        fake_g=lambda d: -F.softplus(d),
    ),
    "vanilla": Adversarial(  # (5), and −log σ(d) for G: non-saturating
        real_d=lambda d: F.softplus(-d),
        fake_d=lambda d: F.softplus(d),
        fake_g=lambda d: F.softplus(-d),
    ),
    "hinge": Adversarial(
        real_d=lambda d: F.relu(1 - d),
        fake_d=lambda d: F.relu(1 + d),
        fake_g=lambda d: -d,
    ),
    "wgan-gp": Adversarial(  # with gradient_penalty
        real_d=lambda d: -d,
        fake_d=lambda d: d,
        fake_g=lambda d: -d,
    ),
}


def gan_c_losses(
    real_c: Tensor, cnd_c: Tensor, fake_c: Tensor, cnd_fake_c: Tensor, adv="lsgan"
) -> tuple[Tensor, Tensor]:
    """L_{d_c} = E[f_r^d(D_c(x))] + E[f_g^d(D_c(x'))], L_{g_c} = E[f_g^g(D_c(x'))], (13)-(16).

    The one GAN of condition c; the sums over all c, (11) and (12), are ca_…_loss, which training
    uses. E is over the joint distribution: a sum over images with c, divided by B (departure 6).
    real_c, fake_c: (B,), D_c's outputs. cnd_c, cnd_fake_c: (B,), 1 where x has, x' was asked to
    have c. Returns two scalars.
    """
    f = ADVERSARIAL[adv]
    d_real = real_c[cnd_c == 1]  # D_c's outputs on the images that have c
    d_fake = fake_c[cnd_fake_c == 1]  # and on those that were asked to have it
    L_d_c = f.real_d(d_real).sum() / len(real_c) + f.fake_d(d_fake).sum() / len(fake_c)
    L_g_c = f.fake_g(d_fake).sum() / len(fake_c)
    return L_d_c, L_g_c


def ca_discriminator_loss(
    real: Tensor, cnd: Tensor, fake: Tensor, cnd_fake: Tensor, adv="lsgan"
) -> Tensor:
    """L_d = E[f_r^d(D(x)) · cnd] + E[f_g^d(D(x')) · cnd'], (17), (19); equal to (11).

    real = D(x), fake = D(x'), cnd, cnd_fake: (B, S). Returns a scalar.
    """
    f = ADVERSARIAL[adv]
    return (f.real_d(real) * cnd).sum(1).mean() + (f.fake_d(fake) * cnd_fake).sum(1).mean()


def ca_generator_loss(fake: Tensor, cnd_fake: Tensor, adv="lsgan") -> Tensor:
    """L_g = E[f_g^g(D(x')) · cnd'], (18), (20); equal to (12). fake = D(x'), cnd_fake: (B, S)."""
    return (ADVERSARIAL[adv].fake_g(fake) * cnd_fake).sum(1).mean()


def gradient_penalty(D, real: Tensor, fake: Tensor, epsilon: Tensor, active: Tensor) -> Tensor:
    """Σ_c E[active_c (‖∇_x̂ D_c(x̂)‖₂ − 1)²], x̂ = ε x + (1 − ε) x': WGAN-GP's, named in §1, §2.

    real, fake: (B, C, H, W), images of the same conditions. epsilon: (B,) in [0, 1]. active:
    (B, heads) in {0, 1}; CA-GAN: cnd; AC-GAN: 1 for D_adv, 0 for D_cls. Returns a scalar,
    differentiable in D's weights (a bare 0.0 for a batch without any active head). To be called
    outside of autocast, in which D would compute in bf16.
    """
    epsilon = epsilon.view(-1, 1, 1, 1)
    x_hat = epsilon * real.float() + (1 - epsilon) * fake.detach().float()  # departure 4
    x_hat.requires_grad_()
    out = D(x_hat)
    penalty = out.new_zeros(())
    order = active.argsort(1, descending=True)  # (B, heads): each image's active heads first
    for i in range(int(active.sum(1).max())):  # the most active heads that an image has
        head = order[:, i : i + 1]  # (B, 1), the i-th active head of each image, if it has one
        (grad,) = torch.autograd.grad(out.gather(1, head).sum(), x_hat, create_graph=True)
        excess = grad.flatten(1).norm(dim=1) - 1  # (B,)
        penalty = penalty + (active.gather(1, head)[:, 0] * excess**2).mean()
    return penalty


# --- mixed batch training, §4


def mix(real: Tensor, fake: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Real and generated images (B, …) with `share` of them exchanged; ½: two equal mixtures."""
    s = round(share * len(real))
    return torch.cat([real[s:], fake[:s]]), torch.cat([fake[s:], real[:s]])


def unmix(a: Tensor, b: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The inverse of `mix`: from D's outputs (B, …) on two mixed batches to those on x and x'."""
    k = len(a) - round(share * len(a))
    return torch.cat([b[k:], a[:k]]), torch.cat([a[k:], b[:k]])


def discriminate(D, real: Tensor, fake: Tensor, share: float = 0.0) -> tuple[Tensor, Tensor]:
    """D(x), D(x') with D called on the two mixed batches; with share 0 on x, then on x'."""
    a, b = mix(real, fake, share)
    return unmix(D(a), D(b), share)


# --- networks, §5


def halvings(size: int) -> int:
    """How often `size` is halved: while it is even and above 8. 28: 2 times, to 7; 64: 3, to 8.

    ValueError for odd sizes, 8 and less, and what doesn't halve to 16 or less.
    """
    low, n = size, 0
    while low % 2 == 0 and low > 8:
        low //= 2
        n += 1
    if n == 0 or low > 16:
        raise ValueError(f"image size {size} must be even, above 8, and halve to 16 or less")
    return n


def normalisation(kind: str, channels: int) -> nn.Module:
    """The layer after a convolution: kind "instance", "batch" or "none"."""
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


def block(c_in: int, c_out: int, convs: int, norm: str = "instance") -> list[nn.Module]:
    """`convs` times: 3x3 convolution, LeakyReLU(0.2), normalisation, whose shift is the bias."""
    bias = norm == "none"  # without either D would hardly see how strong a contrast is
    layers = []
    for _ in range(convs):
        layers.append(nn.Conv2d(c_in, c_out, 3, 1, 1, bias=bias))  # departure 7
        layers.append(nn.LeakyReLU(0.2, True))
        layers.append(normalisation(norm, c_out))
        c_in = c_out
    return layers


class Generator(nn.Module):
    """G: z (B, z_dim), cnd' (B, S) -> images (B, C, size, size) in (-1, 1).

    It has no state: train and eval mode are one. convs: convolutions per resolution.
    """

    def __init__(self, conditions=10, z_dim=256, size=28, channels=1, width=64, convs=3):
        super().__init__()
        n = halvings(size)
        c, low = width << n, size >> n  # 256, 7 at size 28
        layers = [
            nn.Linear(conditions + z_dim, c * low * low, bias=False),
            nn.Unflatten(1, (c, low, low)),
            nn.LeakyReLU(0.2, True),
            nn.InstanceNorm2d(c, affine=True),
        ]
        for _ in range(n):  # (B, c, H, W) -> (B, c/2, 2H, 2W)
            layers += [nn.Upsample(scale_factor=2), *block(c, c // 2, convs)]
            c //= 2
        self.net = nn.Sequential(*layers, nn.Conv2d(c, channels, 1), nn.Tanh())
        self.apply(glorot_init)

    def forward(self, z: Tensor, cnd: Tensor) -> Tensor:
        return self.net(torch.cat([cnd, z], 1))


class Discriminator(nn.Module):
    """D: images (B, C, size, size) -> (B, heads), without squashing.

    heads: S for CA-GAN, 1 + S for AC-GAN. norm: "instance" (§5), "batch" (§6.3) or "none".
    inner: normalise neither the first convolution nor the last one.
    """

    def __init__(
        self, heads=10, size=28, channels=1, width=64, convs=3, norm="instance", inner=False
    ):
        super().__init__()
        n, c = halvings(size), width
        layers = block(channels, c, 1, "none" if inner else norm)
        for _ in range(n):  # (B, c, H, W) -> (B, 2c, H/2, W/2)
            layers += [nn.AvgPool2d(2), *block(c, 2 * c, convs, norm)]
            c *= 2
        if inner:
            layers[-1] = nn.Identity()  # departure 8
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * (size >> n) ** 2, heads))
        self.apply(glorot_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def glorot_init(m: nn.Module) -> None:
    """Keras' default: Glorot-uniform weights, zero biases."""
    if isinstance(m, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(m.weight)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
