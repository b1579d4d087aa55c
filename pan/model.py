"""PAN: a discriminator whose hidden layers measure what an image transformation still gets wrong.

C. Wang, C. Xu, C. Wang, D. Tao, "Perceptual Adversarial Networks for Image-to-Image
Transformation", IEEE Trans. Image Processing 27(8), 2018, arXiv:1706.09138.

T turns an image x into T(x), which shall be its ground truth y. D tells y from T(x), and features
F_j of four of D's layers give the two a distance P: T lessens it, D raises it up to a margin m.
Layers, λ_j and m are those of the authors' code.

  x, y, T(x)   (B, C, H, W) in [-1, 1]        D(·)   (B,), the sigmoid of D's logits
  F_1 … F_4    Discriminator's features       P_j    (4,) distances, P = Σ_j λ_j P_j
  λ_j, m       LAMBDAS, MARGIN
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAMBDAS = (5.0, 1.5, 1.5, 1.0)
MARGIN = 3.0

# --- the paper's objectives


def perceptual_distances(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """P_j = mean |F_j(y) − F_j(T(x))| over batch, channels and places.

    real, fake: F_1 … F_n of y and of T(x), each (B, C_j, H_j, W_j). Returns (n,), in [0, ∞).
    """
    distances = [(a.float() - b.float()).abs().mean() for a, b in zip(real, fake)]  # departure 3
    return torch.stack(distances)


def perceptual_loss(P_j: Tensor, lambdas: tuple[float, ...] = LAMBDAS) -> Tensor:
    """P = Σ_j λ_j P_j. P_j: (n,), n weights. Returns a scalar in [0, ∞)."""
    return (P_j * P_j.new_tensor(lambdas)).sum()


def hinge(P: Tensor, m: float = MARGIN) -> Tensor:
    """[m − P]⁺: D makes P larger until it is m. Its gradient is exactly 0 where P > m."""
    return F.relu(m - P)


def discriminator_loss(
    real: Tensor, fake: Tensor, P: Tensor | None = None, m: float = MARGIN, label: float = 0.9
) -> Tensor:
    """L_D = −E log D(y) − E log(1 − D(T(x))) + [m − P]⁺, to be minimised.

    real, fake: logits (B,) of y and of T(x). P: scalar, or None for a plain GAN. label: what D(y)
    shall be; 1 is the formula above, 0.9 the authors' one-sided smoothing. Returns a scalar.
    """
    wanted = torch.full_like(real, label)  # departure 4
    real_loss = F.binary_cross_entropy_with_logits(real, wanted)
    fake_loss = F.softplus(fake).mean()
    gan_loss = real_loss + fake_loss  # departure 1
    if P is None:
        return gan_loss
    return gan_loss + hinge(P, m)


def transformation_loss(fake: Tensor, P: Tensor | None = None, saturating: bool = True) -> Tensor:
    """L_T = E log(1 − D(T(x))) + P, or with −E log D(T(x)) where it must not saturate.

    fake: logits (B,) of T(x). P: scalar, or None for the GAN's part alone, to which train.py, where
    each part has a weight, adds P itself. Returns a scalar.
    """
    gan_loss = -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()  # departure 2
    if P is None:
        return gan_loss
    return gan_loss + P


# --- what the paper compares with


def pixel_loss(fake: Tensor, y: Tensor, p: int = 2) -> Tensor:
    """E |T(x) − y|^p, the mean over pixels and channels, too: L1 or L2. A scalar in [0, ∞)."""
    return (fake - y).abs().pow(p).mean()


def pair(x: Tensor, y: Tensor) -> Tensor:
    """What a conditional GAN's D sees: x and y, or x and T(x), (B, C, H, W) -> (B, 2C, H, W)."""
    return torch.cat([x, y], dim=1)


def overlap_weights(size: int, overlap: int, weight: float = 10.0) -> Tensor:
    """w (size, size) of the Context-Encoder's L2: `weight` on a rim of `overlap` pixels, else 1."""
    weights = torch.full((size, size), weight)
    weights[overlap : size - overlap, overlap : size - overlap] = 1.0
    return weights


def context_encoder_loss(
    fake: Tensor,
    y: Tensor,
    logits: Tensor,
    overlap: int,
    lambda_rec: float = 0.999,
    lambda_adv: float = 0.001,
) -> Tensor:
    """λ_rec E w ⊙ (T(x) − y)² − λ_adv E log D(T(x)), Pathak et al. 2016 (arXiv:1604.07379), eq. 3.

    w: the rim that T(x) shares with x counts tenfold. fake, y: (B, C, S, S), the hole with its rim;
    logits: (B,) of T(x). Returns a scalar. D's loss is discriminator_loss without P, label 1.
    """
    weights = overlap_weights(y.shape[-1], overlap).to(y.device)
    reconstruction = (weights * (fake - y).square()).mean()
    return lambda_rec * reconstruction + lambda_adv * transformation_loss(logits, saturating=False)


# --- layers


def initialise(layer, std):
    """Weights N(0, std²), biases 0."""
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def batch_norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1)  # departure 7


def conv(c_in, c_out, kernel=3, stride=1, padding=1, bias=True, std=0.02):
    return initialise(nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=bias), std)


def deconv(c_in, c_out, kernel=4, stride=2, padding=1, bias=True, std=0.02):
    return initialise(nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, bias=bias), std)


def conv_bn(c_in, c_out, *args, bias=False, **kwargs):
    """Convolution and BatchNorm. Some of the authors' layers keep a bias before BatchNorm."""
    return nn.Sequential(conv(c_in, c_out, *args, bias=bias, **kwargs), batch_norm(c_out))


def deconv_bn(c_in, c_out, *args, bias=False, **kwargs):
    return nn.Sequential(deconv(c_in, c_out, *args, bias=bias, **kwargs), batch_norm(c_out))


# --- D


class Discriminator(nn.Module):
    """D: images (B, C, size, size) -> logits (B,) and F_1 … F_4, of layers 1, 4, 6, 8 of nine.

    F_1 is tanh of one convolution with N(0, 0.5²) weights: near to pixels. channels: 2C for pairs.
    centre: the authors' D for in-painting: layer 1 without padding, layer 9 without stride.
    """

    def __init__(self, size: int = 256, channels: int = 3, width: int = 64, centre: bool = False):
        super().__init__()
        if not 32 <= size <= 1024:
            raise ValueError(f"D can't judge images of {size}x{size}: give a size from 32 to 1024")

        def same(c_in, c_out):
            return nn.Sequential(conv_bn(c_in, c_out, 3, 1), nn.LeakyReLU(0.2))

        def halve(c_in, c_out, bias=False):
            return nn.Sequential(conv_bn(c_in, c_out, 3, 2, bias=bias), nn.LeakyReLU(0.2))

        w = width
        first = conv(channels, w, padding=0 if centre else 1, std=0.5)
        F_1 = nn.Sequential(first, nn.Tanh())  # (B, w, H, W)
        F_2 = nn.Sequential(
            halve(w, 2 * w),
            same(2 * w, 2 * w),
            halve(2 * w, 4 * w, bias=True),
        )  # (B, 4w, H/4, W/4)
        F_3 = nn.Sequential(same(4 * w, 4 * w), halve(4 * w, 8 * w, bias=True))  # H/8
        F_4 = nn.Sequential(same(8 * w, 8 * w), halve(8 * w, 8 * w, bias=True))  # H/16
        self.stages = nn.ModuleList([F_1, F_2, F_3, F_4])
        last = conv(8 * w, 8, stride=1 if centre else 2)
        side = size - 2 if centre else size
        for _ in range(4 if centre else 5):
            side = (side + 1) // 2  # departure 5
        dense = initialise(nn.Linear(8 * side * side, 1), 0.02)
        self.head = nn.Sequential(last, nn.Flatten(), dense, nn.Flatten(0))

    def forward(self, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        h = y
        for stage in self.stages:
            h = stage(h)
            features.append(h)
        return self.head(h), features


# --- T


class UNet(nn.Module):
    """T: (B, C, H, W) -> (B, C, H, W), H and W multiples of 2^depth; depth 8 (the default) or 6.

    A skip is the mirrored convolution's raw output; of 6 + 6 layers the last deconvolution gets
    none, as in the authors' code. dropout: after the first three deconvolutions.
    """

    def __init__(self, depth: int = 8, channels: int = 3, width: int = 64, dropout: float = 0.0):
        super().__init__()
        if depth not in (6, 8):
            raise ValueError(f"a U-Net has 6 + 6 or 8 + 8 layers, not {depth} + {depth}")
        self.multiple = 2**depth
        self.skips = 7 if depth == 8 else 4
        w = width
        down = [w, 2 * w, 4 * w] + [8 * w] * (depth - 3)
        up = [8 * w] * (depth - 4) + [4 * w, 2 * w, w]
        self.convs = nn.ModuleList()
        self.after = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(zip([channels, *down], down)):
            self.convs.append(conv(c_in, c_out, stride=2, std=0.02 if i else 0.05))
            self.after.append(nn.Sequential(batch_norm(c_out), nn.LeakyReLU(0.2)))
        if depth == 8:
            self.after[-1] = nn.ReLU()
        self.deconvs = nn.ModuleList()
        c_in = down[-1]
        for i, c_out in enumerate(up):
            drop = nn.Dropout(dropout if i < 3 else 0.0)
            self.deconvs.append(nn.Sequential(deconv_bn(c_in, c_out, bias=i < self.skips), drop))
            c_in = c_out + down[depth - 2 - i] if i < self.skips else c_out
        self.last = deconv(c_in, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"{width}x{height} pixels are not multiples of {self.multiple}")
        h = x
        raw = []
        for convolution, after in zip(self.convs, self.after):
            raw.append(convolution(h))
            h = after(raw[-1])
        for i, deconvolution in enumerate(self.deconvs):
            h = deconvolution(h)
            if i < self.skips:
                h = torch.cat([h, raw[-2 - i]], dim=1)
            h = F.relu(h)
        return torch.tanh(self.last(h))


class DerainingNet(nn.Module):
    """T: (B, C, H, W) -> (B, C, H, W) of any size, at full resolution, with skips by sum."""

    multiple = 1

    def __init__(self, channels: int = 3, width: int = 64):
        super().__init__()
        w = width
        same = dict(kernel=3, stride=1, padding=1, std=0.05)
        self.conv1 = conv(channels, w, **same)
        self.conv2 = conv_bn(w, w, bias=True, **same)
        self.conv3 = conv_bn(w, w, **same)
        self.conv4 = conv_bn(w, w, bias=True, **same)
        self.conv5 = conv_bn(w, w // 2, **same)
        self.conv6 = conv_bn(w // 2, 1, **same)
        self.deconv1 = deconv_bn(1, w // 2, **same)
        self.deconv2 = deconv_bn(w // 2, w, bias=True, **same)
        self.deconv3 = deconv_bn(w, w, **same)
        self.deconv4 = deconv_bn(w, w, bias=True, **same)
        self.deconv5 = deconv_bn(w, w, **same)
        self.deconv6 = deconv(w, channels, **same)

    def forward(self, x: Tensor) -> Tensor:
        leaky = nn.LeakyReLU(0.2)
        skip2 = self.conv2(leaky(self.conv1(x)))
        skip4 = self.conv4(leaky(self.conv3(leaky(skip2))))
        h = leaky(self.conv6(leaky(self.conv5(leaky(skip4)))))
        h = F.relu(self.deconv2(F.relu(self.deconv1(h))) + skip4)
        h = F.relu(self.deconv4(F.relu(self.deconv3(h))) + skip2)
        return torch.tanh(self.deconv6(F.relu(self.deconv5(h))))


class InpaintingNet(nn.Sequential):
    """T: x (B, C, size, size) with a hole in its middle -> that middle (B, C, size/2, size/2).

    size: the authors' 128, or 64, 256 with a stage less or more. bottleneck: channels at 1x1.
    """

    def __init__(self, size: int = 128, channels: int = 3, width: int = 64, bottleneck: int = 4000):
        if size not in (64, 128, 256):
            raise ValueError(f"in-painting can't take images of {size}x{size}: give 64, 128 or 256")
        w = width
        halvings = {64: 4, 128: 5, 256: 6}[size]  # to 4x4
        down = [w] * (halvings - 4) + [w, 2 * w, 4 * w, 8 * w]  # departure 6
        up = [8 * w, 4 * w, 2 * w, w, w][: halvings - 1]
        layers = [conv(channels, down[0], stride=2), nn.LeakyReLU(0.2)]
        for c_in, c_out in zip(down, down[1:]):
            layers += [conv_bn(c_in, c_out, stride=2), nn.LeakyReLU(0.2)]
        layers += [conv_bn(down[-1], bottleneck, 4, 1, 0), nn.LeakyReLU(0.2)]
        layers += [deconv_bn(bottleneck, up[0], 4, 1, 0), nn.ReLU()]
        for c_in, c_out in zip(up, up[1:]):
            layers += [deconv_bn(c_in, c_out), nn.ReLU()]
        super().__init__(*layers, deconv(up[-1], channels), nn.Tanh())
