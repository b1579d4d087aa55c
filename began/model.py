"""BEGAN: a GAN whose discriminator is an autoencoder, held at a boundary equilibrium.

Papers
  A. Zaika, "Structural-parametric synthesis of the BiGAN generative adversarial network", bachelor's thesis,
    Kyiv Aviation Institute, 2025: BEGAN with a ResNet-18 autoencoder on FashionMNIST. "§" below means this text.
  D. Berthelot, T. Schumm, L. Metz, "BEGAN: Boundary Equilibrium Generative Adversarial Networks",
    arXiv:1703.10717v4: the method. The thesis takes its §2.3 and equation numbers (3), (4) from §3 there.

D reconstructs images and L(v) is its error on v. D learns to reconstruct real images well and generated ones
badly; G learns to make images that D reconstructs well. A controller keeps E[L(G(z))] / E[L(x)] at γ by
moving k_t, the weight of the generated images in D's loss, so that neither network wins.

Symbols
  x, z            x  (B, C, H, W) in [-1, 1],  z  (B, N_z)
  G, D            Generator, Autoencoder              z_D, z_G: the z of D's step and of G's step
  L(v) = |v − D(v)|^η     autoencoder_error           η       target_norm
  L_D, L_G        discriminator_loss, generator_loss  k_t     k_t in [0, 1]
  γ, λ_k          gamma, lambda_k                     M       convergence_measure
  N_h             code_dim

Departures from the thesis
  1. §3.2 writes L(x, D(G(z))) for generated images; its appendix, and we, compare G(z) with D(G(z)).
  2. §2.3's k update lacks the clamp that its text asks for (k in [0, 1]); the appendix and we clamp.
  3. N_z is 48 as in the appendix, not 64 as in §3.1. z is normal as in the appendix; §2.3 says uniform.
  4. ResNet-18's classifier `fc`, unused but handed to Adam in the appendix, is not built.
Departures from Berthelot et al.
  5. The optional skip connections ("vanishing residuals") are left out.
  6. G's step sees the D that this step's D update has made (thesis order), not the D before it.
Where both are silent: L is the mean over pixels (k has no scale invariance, so λ_k depends on this).
"""

import math

from torch import Tensor, nn

# --- Thesis preset (§3.1 and appendix) ----------------------------------------------------------------------


class ConvTransposeDecoder(nn.Sequential):
    """Vector -> image: linear to 4x4, then [BN, ReLU, ConvT 4/2/1] doubling up to `size`, tanh.

    At size 64 and width 64 the maps are 512x4x4, 256x8x8, 128x16x16, 64x32x32. Both the generator and D's decoder.
    """

    def __init__(self, in_dim: int, size: int, channels: int, width: int):
        doublings = int(math.log2(size // 4))
        if size != 4 * 2**doublings or doublings < 1:
            raise ValueError(f"image size {size} is not 4·2^k (8, 16, 32, 64, 128, …)")
        widths = [width * 2**i for i in reversed(range(doublings))]
        layers = [nn.Linear(in_dim, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]  # (B, C, 4, 4)
        for c_in, c_out in zip(widths, widths[1:] + [channels]):
            layers += [nn.BatchNorm2d(c_in), nn.ReLU(True), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
        super().__init__(*layers, nn.Tanh())
        self.apply(xavier_init)


class ResNet18Encoder(nn.Module):
    """ResNet-18 up to its average pool: (B, C, H, W) -> (B, 512). The first convolution takes C channels.

    state_dict: torchvision's ResNet-18 weights (e.g. ImageNet's), or None. conv1 is always new, as in the thesis.
    """

    def __init__(self, channels: int, state_dict: dict | None = None):
        super().__init__()
        from torchvision.models import resnet18  # here, so that this file imports with nothing but torch

        self.net = resnet18(weights=None)
        self.net.fc = nn.Identity()
        if state_dict is not None:
            self.net.load_state_dict({k: v for k, v in state_dict.items() if not k.startswith("fc.")})
        self.net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def xavier_init(m: nn.Module) -> None:
    """Appendix, weights_init: Xavier-normal with gain 0.02, zero bias, on convolutions and linear layers."""
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.xavier_normal_(m.weight, gain=0.02)
        if m.bias is not None:
            nn.init.zeros_(m.bias)


# --- Berthelot preset (arXiv:1703.10717, §3.4 "Model architecture", Fig. 1) ----------------------------------


def conv_elu(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1), nn.ELU(True))


def scales(size: int) -> int:
    """Number of resolutions from `size` down to 8x8."""
    n = int(math.log2(size // 8)) + 1 if size >= 8 else 0
    if n < 1 or size != 8 * 2 ** (n - 1):
        raise ValueError(f"image size {size} is not 8·2^k (8, 16, 32, 64, 128, …)")
    return n


class BerthelotEncoder(nn.Sequential):
    """(B, C, H, W) -> (B, N_h): 3x3 conv + ELU, filters n, 2n, 3n, … at each halving down to 8x8, linear code."""

    def __init__(self, size: int, channels: int, n: int, code_dim: int):
        R = scales(size)
        layers = [conv_elu(channels, n)]
        for i in range(1, R + 1):
            layers += [conv_elu(i * n, i * n), conv_elu(i * n, i * n)]
            if i < R:
                layers += [conv_elu(i * n, (i + 1) * n, stride=2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(R * n * 64, code_dim))


class BerthelotDecoder(nn.Sequential):
    """(B, N) -> (B, C, H, W): linear to n x 8 x 8, 3x3 conv + ELU with n filters, nearest upsampling, no squashing.

    Both the generator (N = N_z) and D's decoder (N = N_h).
    """

    def __init__(self, in_dim: int, size: int, channels: int, n: int):
        R = scales(size)
        layers = [nn.Linear(in_dim, n * 64), nn.Unflatten(1, (n, 8, 8))]
        for i in range(R):
            layers += [conv_elu(n, n), conv_elu(n, n)]
            if i < R - 1:
                layers += [nn.Upsample(scale_factor=2, mode="nearest")]
        super().__init__(*layers, nn.Conv2d(n, channels, 3, 1, 1))


# --- The two players ----------------------------------------------------------------------------------------


class Generator(nn.Module):
    """G: z (B, N_z) -> images (B, C, H, W). `arch` is "thesis" or "berthelot"; the same shape as D's decoder."""

    def __init__(self, z_dim=48, size=64, channels=1, width=64, arch="thesis"):
        super().__init__()
        decoder = ConvTransposeDecoder if arch == "thesis" else BerthelotDecoder
        self.net = decoder(z_dim, size, channels, width)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class Autoencoder(nn.Module):
    """D: images (B, C, H, W) -> their reconstructions, same shape.

    code_dim: N_h; ResNet-18's is always 512. encoder: "resnet18" (thesis) or "conv" (Berthelot's; in the thesis
    preset a light stand-in with width/2 filters). encoder_state: pretrained ResNet-18 weights or None.
    """

    def __init__(self, code_dim=512, size=64, channels=1, width=64, arch="thesis", encoder="resnet18",
                 encoder_state=None):
        super().__init__()
        if encoder == "resnet18":
            self.encoder, code_dim = ResNet18Encoder(channels, encoder_state), 512
        else:
            self.encoder = BerthelotEncoder(size, channels, width if arch == "berthelot" else width // 2, code_dim)
        decoder = ConvTransposeDecoder if arch == "thesis" else BerthelotDecoder
        self.decoder = decoder(code_dim, size, channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


# --- Objectives, §2.3 ---------------------------------------------------------------------------------------


def autoencoder_error(v: Tensor, reconstruction: Tensor, target_norm: int = 1) -> Tensor:
    """L(v) = |v − D(v)|^η, §2.3, as the mean over pixels.

    v, reconstruction: (B, C, H, W); target_norm: η, 1 or 2. Returns (B,), one error per image, in fp32.
    """
    return (v.float() - reconstruction.float()).abs().pow(target_norm).mean(dim=(1, 2, 3))


def discriminator_loss(real_error: Tensor, fake_error: Tensor, k_t: Tensor | float) -> Tensor:
    """L_D = L(x) − k_t·L(G(z_D)), §2.3.

    real_error, fake_error: (B,) from autoencoder_error, the fake images detached from G. Returns a scalar.
    """
    return real_error.mean() - k_t * fake_error.mean()


def generator_loss(fake_error: Tensor) -> Tensor:
    """L_G = L(G(z_G)), §2.3. fake_error: (B,), with gradient to G. Returns a scalar."""
    return fake_error.mean()


def update_k(k_t: Tensor, L_x: Tensor, L_G: Tensor, gamma: float, lambda_k: float) -> Tensor:
    """k_{t+1} = k_t + λ_k (γ L(x) − L(G(z_G))), §2.3, clamped to [0, 1]. Scalars in, scalar out, no gradient."""
    return (k_t + lambda_k * (gamma * L_x.detach() - L_G.detach())).clamp(0.0, 1.0)


def convergence_measure(L_x: Tensor, L_G: Tensor, gamma: float) -> Tensor:
    """M = L(x) + |γ L(x) − L(G(z_G))|, §2.3. Scalars in, scalar out, no gradient. Blind to collapse."""
    return L_x.detach() + (gamma * L_x.detach() - L_G.detach()).abs()
