"""BEGAN: a GAN whose discriminator is an autoencoder, held at a boundary equilibrium.

"§": A. Zaika, "Structural-parametric synthesis of the BiGAN generative adversarial network",
bachelor's thesis, Kyiv Aviation Institute, 2025: BEGAN with a ResNet-18 encoder, FashionMNIST.
"arXiv §": D. Berthelot, T. Schumm, L. Metz, "BEGAN: Boundary Equilibrium Generative Adversarial
Networks", arXiv:1703.10717v4. The thesis' §2.3 is this method.

D learns to reconstruct real images well and generated ones badly; G learns to make images that D
reconstructs well. A controller moves k_t, the weight of generated images in D's loss, so that
E[L(G(z))] stays at γ E[L(x)], (4), and neither network wins.

x (B, C, H, W) in [-1, 1]; z (B, N_z), z_D in D's step and z_G in G's; L(v) D's error on v;
η target_norm; γ gamma; λ_k lambda_k; M convergence_measure; N_h code_dim.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

# --- Objectives (§2.3) ----------------------------------------------------------------------------


def autoencoder_error(v: Tensor, reconstruction: Tensor, target_norm: int = 1) -> Tensor:
    """L(v) = |v − D(v)|^η, §2.3; the mean over pixels, as in the appendix.

    v, reconstruction: (B, C, H, W); target_norm: η, 1 or 2. Returns (B,) in float32, one per image.
    """
    return (v.float() - reconstruction.float()).abs().pow(target_norm).mean(dim=(1, 2, 3))


def discriminator_loss(real_error: Tensor, fake_error: Tensor, k_t: Tensor | float) -> Tensor:
    """L_D = L(x) − k_t·L(G(z_D)), §2.3.

    real_error, fake_error: (B,), the fake images detached from G; k_t: in [0, 1]. Returns a scalar.
    """
    return real_error.mean() - k_t * fake_error.mean()


def generator_loss(fake_error: Tensor) -> Tensor:
    """L_G = L(G(z_G)), §2.3. fake_error: (B,), with gradient to G. Returns a scalar."""
    return fake_error.mean()


def update_k(k_t: Tensor, L_x: Tensor, L_G: Tensor, gamma: float, lambda_k: float) -> Tensor:
    """k_{t+1} = k_t + λ_k (γ L(x) − L(G(z_G))), §2.3.

    k_t, L_x, L_G: scalars. Returns a scalar in [0, 1] without gradient.
    """
    k = k_t + lambda_k * (gamma * L_x.detach() - L_G.detach())
    return k.clamp(0.0, 1.0)  # departure 2: §2.3 asks for it in words only


def convergence_measure(L_x: Tensor, L_G: Tensor, gamma: float) -> Tensor:
    """M = L(x) + |γ L(x) − L(G(z_G))|, §2.3. It also falls when G collapses.

    L_x, L_G: scalars. Returns a scalar without gradient.
    """
    return L_x.detach() + (gamma * L_x.detach() - L_G.detach()).abs()


# --- Thesis (§3.1, appendix) ----------------------------------------------------------------------


def halvings(size: int) -> int:
    """How often `size` halves down to 4x4. ValueError unless it is 8, 16, 32, 64, 128, …"""
    n = int(math.log2(size / 4)) if size >= 8 else 0
    if n < 1 or size != 4 * 2**n:
        raise ValueError(f"image size {size} is not 4·2^k (8, 16, 32, 64, 128, …)")
    return n


class ConvTransposeDecoder(nn.Sequential):
    """Vector (B, N) -> image: linear to 4x4, then [BN, ReLU, ConvT 4/2/1] to `size`, tanh.

    At size 64 and width 64 the maps are 512x4x4, 256x8x8, 128x16x16, 64x32x32.
    """

    def __init__(self, in_dim: int, size: int, channels: int, width: int):
        widths = [width * 2**i for i in reversed(range(halvings(size)))]
        layers = [nn.Linear(in_dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
        for c_in, c_out in zip(widths, widths[1:] + [channels]):
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(True)]
            layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
        super().__init__(*layers, nn.Tanh())
        self.apply(xavier_init)


def xavier_init(m: nn.Module) -> None:
    """Appendix, weights_init: Xavier-normal with gain 0.02, zero bias."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.xavier_normal_(m.weight, gain=0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


class ResNet18Encoder(nn.Module):
    """ResNet-18 up to its average pool, its first convolution new: (B, C, H, W) -> (B, 512).

    state_dict: torchvision's weights of ResNet-18, e.g. ImageNet's, or None.
    """

    def __init__(self, channels: int, state_dict: dict | None = None):
        super().__init__()
        self.net = ResNet18()
        if state_dict is not None:
            kept = {name: w for name, w in state_dict.items() if not name.startswith("fc.")}
            self.net.load_state_dict(kept)
        self.net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ResNet18(nn.Module):
    """(B, 3, H, W) -> (B, 512), the average pool. Names and initial weights are torchvision's."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return h.mean((2, 3))  # departure 4: no fc


class BasicBlock(nn.Module):
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))), 3x3; x by a 1x1 convolution where shapes differ."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(h + x)


class ConvEncoder(nn.Sequential):
    """Image -> code, the decoder's mirror: [conv 4/2/1, LeakyReLU(0.2)] down to 4x4, linear.

    Not in the thesis: a light stand-in for ResNet-18 that --quick uses. No BatchNorm: with it D
    tells real from generated by their batch statistics, and G collapsed within 400 steps.
    """

    def __init__(self, size: int, channels: int, width: int, code_dim: int):
        widths = [channels] + [width * 2**i for i in range(halvings(size))]
        layers = []
        for c_in, c_out in zip(widths, widths[1:]):
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, code_dim))


# --- Berthelot et al. (arXiv §3.5 "Model architecture", Fig. 1) -----------------------------------


def conv_elu(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1), nn.ELU(True))


class BerthelotEncoder(nn.Sequential):
    """(B, C, H, W) -> (B, N_h): 3x3 conv + ELU, filters n, 2n, … at sides H, H/2, … 8; linear.

    Two convolutions per side, after one from C to n; that of stride 2 keeps its side's width.
    """

    def __init__(self, size: int, channels: int, n: int, code_dim: int):
        n_sides = halvings(size)  # how many there are: 8, 16, … H
        layers = [conv_elu(channels, n)]
        c = n
        for i in range(1, n_sides + 1):
            layers += [conv_elu(c, i * n), conv_elu(i * n, i * n)]
            c = i * n
            if i < n_sides:
                layers += [conv_elu(c, c, stride=2)]  # departure 9
        super().__init__(*layers, nn.Flatten(), nn.Linear(c * 8 * 8, code_dim))


class BerthelotDecoder(nn.Sequential):
    """(B, N) -> (B, C, H, W): linear to n x 8 x 8, two [3x3 conv, ELU] of n filters per side.

    Nearest-neighbour upsampling between sides 8, 16, … H; the output is not squashed.
    """

    def __init__(self, in_dim: int, size: int, channels: int, n: int):
        n_sides = halvings(size)  # how many there are: 8, 16, … H
        layers = [nn.Linear(in_dim, n * 8 * 8), nn.Unflatten(1, (n, 8, 8))]
        for i in range(1, n_sides + 1):
            layers += [conv_elu(n, n), conv_elu(n, n)]
            if i < n_sides:
                layers += [nn.Upsample(scale_factor=2, mode="nearest")]  # departure 7
        super().__init__(*layers, nn.Conv2d(n, channels, 3, 1, 1))


# --- The two players ------------------------------------------------------------------------------


class Generator(nn.Module):
    """G: z (B, N_z) -> images (B, C, H, W). The same shape as D's decoder."""

    def __init__(self, z_dim=48, size=64, channels=1, width=64, arch="thesis"):
        super().__init__()
        decoder = {"thesis": ConvTransposeDecoder, "berthelot": BerthelotDecoder}[arch]
        self.net = decoder(z_dim, size, channels, width)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class Autoencoder(nn.Module):
    """D: images (B, C, H, W) -> their reconstructions, same shape.

    arch: "thesis", with encoder "resnet18" (N_h is 512, encoder_state its pretrained weights or
    None) or "conv"; or "berthelot", which has an encoder of its own.
    """

    def __init__(
        self,
        code_dim=512,
        size=64,
        channels=1,
        width=64,
        arch="thesis",
        encoder="resnet18",
        encoder_state=None,
    ):
        super().__init__()
        if arch == "berthelot":
            self.encoder = BerthelotEncoder(size, channels, width, code_dim)
            self.decoder = BerthelotDecoder(code_dim, size, channels, width)
        elif encoder == "resnet18":
            self.encoder = ResNet18Encoder(channels, encoder_state)
            self.decoder = ConvTransposeDecoder(512, size, channels, width)
        else:
            self.encoder = ConvEncoder(size, channels, width, code_dim)
            self.decoder = ConvTransposeDecoder(code_dim, size, channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))
