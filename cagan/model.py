"""CA-GAN: a conditional GAN as the sum of one GAN a condition; AC-GAN and its variants beside it; mixed batches.

Paper
  J. Cho, K. Yoon, "Conditional Activation GAN: Improved Auxiliary Classifier GAN", IEEE Access 8:216729, 2020.
    "§" below means this text; "authors' code": github.com/jeongik-jo/CAGAN-MNIST at commit 27391f8.
  A. Odena, C. Olah, J. Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs", ICML 2017: (1)-(6).

Each condition c has a GAN of its own, and all share every layer but D's last. GAN c sees only real images that have
c, and generated ones that were asked to have it; what has not activates it, it does not care about. So the one
conditional activation loss replaces AC-GAN's sum of an adversarial and a classification loss, and its weight λ_cls.
Mixed batch training keeps a BatchNorm discriminator from telling real and generated batches by their conditions.

Symbols
  x, cnd          real images (B, C, H, W) in [-1, 1], their conditions (B, S) in {0, 1}
  x', cnd'        generated images, the conditions that they were asked to have
  S_cnd           the S conditions: exclusive groups one after the other, e.g. 3 hair colours and 2 sexes: (3, 2)
  D_c, D_adv, D_cls       columns of D's output: (B, S) for CA-GAN; (B, 1 + S), D_adv first, for AC-GAN
  f_r^d, f_g^d, f_g^g     ADVERSARIAL[name]
  L_d, L_g        ca_…, ac_…, modified_ac_…           λ_cls       lambda_cls

Departures from the paper
  1. L_cls^r in the generator's loss (2) is left out: it has no gradient there, as the paper says.
  2. D_cls answers by a softmax over each exclusive group, as the authors' code on MNIST; the text speaks of one binary
     node a condition.
  3. (5), (6) are one choice of adversarial loss, "minimax". Every loss takes any of ADVERSARIAL; §5 uses LSGAN.
  4. "wgan-gp", only named in §3, penalises D_c between real images and images generated for the same conditions.
  5. The text numbers figures 15 and 16 twice: samples after 100 epochs, and the comparison and samples of mixing.
Where the paper is silent
  - The expectations of (13) run over all images, those without c counting 0: so (11) equals (17). Hence condition c
    weighs P(c) among the real and P'(c) among the generated, and where both look alike LSGAN's best D_c is not ½
    but P(c) / (P(c) + P'(c)).
  - Networks, as in the authors' code: 3x3 convolutions without bias, LeakyReLU, then the normalisation, no strides.
    Weights are Keras' default, Glorot-uniform; but ε is torch's (1e-5 in the normalisations, 1e-8 in Adam; there
    1e-3 and 1e-7), and losses are means over the batch, there sums. With D normalised throughout, G long stays at
    saturated noise (README, failure modes); `inner`, ours, shortens that.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- networks (§5) ------------------------------------------------------------------------------------------


def halvings(size: int) -> int:
    """How often `size` is halved: while it is even and above 8. 28 -> 7, 32 -> 8, 64 -> 8."""
    n = 0
    while size % 2 == 0 and size > 8:
        size, n = size // 2, n + 1
    if n == 0 or size > 16:
        raise ValueError(f"image size {size << n} has no factors of 2 to go down to 16 or less")
    return n


def block(c_in: int, c_out: int, convs: int, norm: str = "instance") -> list[nn.Module]:
    """`convs` times: 3x3 convolution without bias, LeakyReLU(0.2), normalisation."""
    norm_layer = {"instance": lambda: nn.InstanceNorm2d(c_out, affine=True), "batch": lambda: nn.BatchNorm2d(c_out),
                  "none": nn.Identity}[norm]
    layers = []
    for i in range(convs):
        layers.append(nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, 1, 1, bias=False))
        layers.append(nn.LeakyReLU(0.2, True))
        layers.append(norm_layer())
    return layers


class Generator(nn.Module):
    """G: z (B, z_dim), cnd' (B, S) -> images (B, C, size, size) in (-1, 1). No state: train and eval mode are one."""

    def __init__(self, conditions=10, z_dim=256, size=28, channels=1, width=64, convs=3):
        super().__init__()
        n = halvings(size)
        c, low = width << n, size >> n                                             # 256, 7 at size 28
        layers = [nn.Linear(conditions + z_dim, c * low * low, bias=False), nn.Unflatten(1, (c, low, low)),
                  nn.LeakyReLU(0.2, True), nn.InstanceNorm2d(c, affine=True)]
        for _ in range(n):
            layers += [nn.Upsample(scale_factor=2), *block(c, c // 2, convs)]      # (B, C, H, W) -> (B, C/2, 2H, 2W)
            c //= 2
        self.net = nn.Sequential(*layers, nn.Conv2d(c, channels, 1), nn.Tanh())
        self.apply(glorot_init)

    def forward(self, z: Tensor, cnd: Tensor) -> Tensor:
        return self.net(torch.cat([cnd, z], 1))


class Discriminator(nn.Module):
    """D: images (B, C, size, size) -> (B, heads), without squashing. heads: S for CA-GAN, 1 + S for AC-GAN.

    norm: "instance" (§5), "batch" (§6.3), "none". inner: normalise neither the first convolution nor the last one.
    """

    def __init__(self, heads=10, size=28, channels=1, width=64, convs=3, norm="instance", inner=False):
        super().__init__()
        n, c = halvings(size), width
        layers = block(channels, c, 1, "none" if inner else norm)
        for _ in range(n):
            layers += [nn.AvgPool2d(2), *block(c, 2 * c, convs, norm)]             # (B, C, H, W) -> (B, 2C, H/2, W/2)
            c *= 2
        if inner:
            layers[-1] = nn.Identity()
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


# --- the adversarial losses: (f_r^d, f_g^d, f_g^g), each of an output d of D, entry by entry -----------------

ADVERSARIAL = {
    "lsgan": (lambda d: (d - 1) ** 2, lambda d: d**2, lambda d: (d - 1) ** 2),     # (15), (16)
    "minimax": (lambda d: F.softplus(-d), F.softplus, lambda d: -F.softplus(d)),   # (5), (6), D = sigmoid(d)
    "vanilla": (lambda d: F.softplus(-d), F.softplus, lambda d: F.softplus(-d)),   # (5), G: −log D, non-saturating
    "hinge": (lambda d: F.relu(1 - d), lambda d: F.relu(1 + d), lambda d: -d),
    "wgan-gp": (lambda d: -d, lambda d: d, lambda d: -d),                          # with gradient_penalty
}

# --- AC-GAN, §2: D's output is (B, 1 + S) ---------------------------------------------------------------------


def ac_discriminator_loss(real: Tensor, cnd: Tensor, fake: Tensor, cnd_fake: Tensor, groups=None, adv="minimax"):
    """L_d = L_adv^d + L_cls^r + L_cls^g, (1). real = D(x), fake = D(x'): (B, 1 + S). Returns a scalar."""
    return (adversarial_discriminator_loss(real[:, 0], fake[:, 0], adv)
            + classification_loss(real[:, 1:], cnd, groups) + classification_loss(fake[:, 1:], cnd_fake, groups))


def ac_generator_loss(fake: Tensor, cnd_fake: Tensor, groups=None, adv="minimax"):
    """L_g = L_adv^g + L_cls^g, (2) without L_cls^r (departure 1). fake = D(x'): (B, 1 + S). Returns a scalar."""
    return adversarial_generator_loss(fake[:, 0], adv) + classification_loss(fake[:, 1:], cnd_fake, groups)


def classification_loss(logits: Tensor, cnd: Tensor, groups=None) -> Tensor:
    """L_cls = E[−log D_cls(cnd | x)], (3), (4), (9), (10).

    logits, cnd: (B, S). groups: sizes of the exclusive groups of conditions, None: one of all S. Summed over groups.
    """
    groups = list(groups or [logits.shape[1]])
    return sum(-(c * l.log_softmax(1)).sum(1).mean() for l, c in zip(logits.split(groups, 1), cnd.split(groups, 1)))


def adversarial_discriminator_loss(real: Tensor, fake: Tensor, adv="minimax") -> Tensor:
    """L_adv^d = E[−log D_adv(x)] + E[−log(1 − D_adv(x'))], (5), or another of ADVERSARIAL. real, fake: (B,)."""
    f_r_d, f_g_d, _ = ADVERSARIAL[adv]
    return f_r_d(real).mean() + f_g_d(fake).mean()


def adversarial_generator_loss(fake: Tensor, adv="minimax") -> Tensor:
    """L_adv^g = E[log(1 − D_adv(x'))], (6), or another of ADVERSARIAL. fake: (B,). Returns a scalar."""
    return ADVERSARIAL[adv][2](fake).mean()


def modified_ac_discriminator_loss(real: Tensor, cnd: Tensor, fake: Tensor, lambda_cls: float, groups=None,
                                   adv="lsgan") -> Tensor:
    """L_d = L_adv^d + λ_cls L_cls^r, (7), (9): what x' was asked to be plays no part. real, fake: (B, 1 + S)."""
    return (adversarial_discriminator_loss(real[:, 0], fake[:, 0], adv)
            + lambda_cls * classification_loss(real[:, 1:], cnd, groups))


def modified_ac_generator_loss(fake: Tensor, cnd_fake: Tensor, lambda_cls: float, groups=None, adv="lsgan") -> Tensor:
    """L_g = L_adv^g + λ_cls L_cls^g, (8), (10). fake = D(x'): (B, 1 + S). Returns a scalar."""
    return (adversarial_generator_loss(fake[:, 0], adv)
            + lambda_cls * classification_loss(fake[:, 1:], cnd_fake, groups))


# --- CA-GAN, §3: D's output is (B, S) -------------------------------------------------------------------------


def gan_c_losses(real_c: Tensor, cnd_c: Tensor, fake_c: Tensor, cnd_fake_c: Tensor, adv="lsgan"):
    """L_{d_c} = E[f_r^d(D_c(x))] + E[f_g^d(D_c(x'))], (13), (15), and L_{g_c} = E[f_g^g(D_c(x'))], (14), (16).

    The one GAN of condition c: it looks only at the images that have, or were asked to have, c; the others count 0 in
    the expectations, which are over the whole batch.
    real_c, fake_c: (B,), D_c of the batch; cnd_c, cnd_fake_c: (B,), 1 where c is asked for. Returns two scalars. All
    conditions' sums (11), (12) are `ca_discriminator_loss` and `ca_generator_loss`.
    """
    f_r_d, f_g_d, f_g_g = ADVERSARIAL[adv]
    has_c, asked_c = real_c[cnd_c == 1], fake_c[cnd_fake_c == 1]
    L_d_c = f_r_d(has_c).sum() / len(real_c) + f_g_d(asked_c).sum() / len(fake_c)
    return L_d_c, f_g_g(asked_c).sum() / len(fake_c)


def ca_discriminator_loss(real: Tensor, cnd: Tensor, fake: Tensor, cnd_fake: Tensor, adv="lsgan") -> Tensor:
    """L_d = E[f_r^d(D(x)) · cnd] + E[f_g^d(D(x')) · cnd'], (17), (19). All (B, S). Returns a scalar."""
    f_r_d, f_g_d, _ = ADVERSARIAL[adv]
    return (f_r_d(real) * cnd).sum(1).mean() + (f_g_d(fake) * cnd_fake).sum(1).mean()


def ca_generator_loss(fake: Tensor, cnd_fake: Tensor, adv="lsgan") -> Tensor:
    """L_g = E[f_g^g(D(x')) · cnd'], (18), (20). fake = D(x'), cnd_fake: (B, S). Returns a scalar."""
    return (ADVERSARIAL[adv][2](fake) * cnd_fake).sum(1).mean()


def gradient_penalty(D, x: Tensor, fake: Tensor, active: Tensor, eps: Tensor) -> Tensor:
    """Σ_c E[active_c (‖∇_x̂ D_c(x̂)‖₂ − 1)²], x̂ = ε x + (1 − ε) x': WGAN-GP's penalty on each active critic.

    x, fake: (B, C, H, W), images of the same conditions. active: (B, heads) in {0, 1}; CA-GAN: cnd; AC-GAN: 1 for
    D_adv, 0 for D_cls. An image without an active head counts 0. eps: (B,) in [0, 1], one per sample. Returns a
    scalar, in fp32, differentiable in D's weights (a bare 0.0 for a batch without any active head).
    """
    eps = eps.view(-1, 1, 1, 1)
    x_hat = (eps * x.float() + (1 - eps) * fake.detach().float()).requires_grad_()
    out = D(x_hat)
    penalty = out.new_zeros(())
    most = int(active.sum(1).max())                          # active heads of the image that has most of them
    places = active.argsort(1, descending=True)
    for place in places[:, :most].T.unsqueeze(2):            # each (B, 1); none where nothing is active
        grad, = torch.autograd.grad(out.gather(1, place).sum(), x_hat, create_graph=True)
        penalty = penalty + (active.gather(1, place)[:, 0] * (grad.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


# --- mixed batch training, §4 -----------------------------------------------------------------------------------


def mix(real: Tensor, fake: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Two batches of real and generated images (B, …) with `share` of them exchanged; ½: both hold half of each."""
    s = round(share * len(real))
    return torch.cat([real[s:], fake[:s]]), torch.cat([fake[s:], real[:s]])


def unmix(a: Tensor, b: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The inverse of `mix`, on D's outputs (B, …) of its two batches -> those of the real and of the generated."""
    k = len(a) - round(share * len(a))
    return torch.cat([b[k:], a[:k]]), torch.cat([a[k:], b[:k]])


def discriminate(D, real: Tensor, fake: Tensor, share: float = 0.0) -> tuple[Tensor, Tensor]:
    """D(x), D(x') with D called on the two mixed batches, §4. share 0: on the real, then on the generated ones."""
    a, b = mix(real, fake, share)
    return unmix(D(a), D(b), share)
