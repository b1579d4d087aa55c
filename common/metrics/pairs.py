"""Full-reference scores of an image beside its ground truth: PSNR, SSIM, UQI, VIF.

Images are (B, C, H, W) in [0, 255]; B scores come back, in float64. A colour image's score is the
mean over its channels (PSNR: of their squared errors), as in sewar: the papers define all four for
one channel, and wrong colours shall count, which luminance alone does not see. Windows lie inside
the image, as in the papers' MATLAB code: no border is padded. ValueError if the shapes differ, or
the images are smaller than SMALLEST says.

    pair_metrics(fake, real)    # images in [-1, 1] -> {"psnr_rgb8_100": …, "ssim_rgb8_100": …, …}
"""

import torch
from torch import Tensor

from .. import data
from . import count_tag
from .images import grey_levels

RANGE = 255.0
SMALLEST = {"psnr": 1, "uqi": 8, "ssim": 11, "vif": 41}  # sides of images that have a score


def psnr(fake: Tensor, real: Tensor) -> Tensor:
    """10 log10(255² / MSE) in dB, (B,). Infinite for equal images."""
    fake, real = _checked(fake, real, "psnr")
    squared_error = (fake - real).square().mean((1, 2, 3))
    return 10 * torch.log10(RANGE**2 / squared_error)


def ssim(fake: Tensor, real: Tensor) -> Tensor:
    """Wang et al. 2004, eq. 13, with Gaussian windows of 11x11, σ 1.5. (B,), in [-1, 1]."""
    fake, real = _checked(fake, real, "ssim")
    c1 = (0.01 * RANGE) ** 2
    c2 = (0.03 * RANGE) ** 2
    mean_x, mean_y, var_x, var_y, cov = _moments(fake, real, _gaussian(11, 1.5))
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast_and_structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * contrast_and_structure).mean((1, 2, 3))


def uqi(fake: Tensor, real: Tensor) -> Tensor:
    """Wang & Bovik 2002, eq. 1, on all 8x8 windows: SSIM with C1 = C2 = 0. (B,), in [-1, 1].

    As in the authors' img_qi.m, a factor 0/0 is 1: of two flat windows only the means are compared.
    """
    fake, real = _checked(fake, real, "uqi")
    window = torch.full((8,), 1 / 8, dtype=torch.float64)
    mean_x, mean_y, var_x, var_y, cov = _moments(fake, real, window)
    contrast_and_structure = _ratio(2 * cov, var_x + var_y)
    luminance = _ratio(2 * mean_x * mean_y, mean_x**2 + mean_y**2)
    return (luminance * contrast_and_structure).mean((1, 2, 3))


def vif(fake: Tensor, real: Tensor) -> Tensor:
    """Sheikh & Bovik 2006 in the pixel domain (their vifp_mscale.m), σ_n² = 2. (B,), in [0, ∞).

    1 for equal images; above 1 where `fake` is `real` with more contrast; not symmetric.
    """
    fake, real = _checked(fake, real, "vif")
    noise, tiny = 2.0, 1e-10
    # information about `real`: what `fake` lets through (seen) and all of it (there)
    seen = torch.zeros(fake.shape[:2], dtype=fake.dtype, device=fake.device)
    there = torch.zeros_like(seen)
    for size in (17, 9, 5, 3):
        window = _gaussian(size, size / 5)
        if size < 17:
            fake = _filter(fake, window)[..., ::2, ::2]
            real = _filter(real, window)[..., ::2, ::2]
        _, _, var_x, var_y, cov = _moments(real, fake, window)
        var_x = var_x.clamp(min=0)
        var_y = var_y.clamp(min=0)
        gain = cov / (var_x + tiny)
        distortion = var_y - gain * cov
        flat_x = var_x < tiny
        flat_y = var_y < tiny
        gain = gain.masked_fill(flat_x | flat_y, 0)
        distortion = torch.where(flat_x, var_y, distortion).masked_fill(flat_y, 0)
        distortion = torch.where(gain < 0, var_y, distortion).clamp(min=tiny)
        gain = gain.clamp(min=0)
        var_x = var_x.masked_fill(flat_x, 0)
        seen += torch.log10(1 + gain**2 * var_x / (distortion + noise)).sum((2, 3))
        there += torch.log10(1 + var_x / noise).sum((2, 3))
    return _ratio(seen, there).mean(1)  # a flat truth holds no information, and none is lost


SCORES = {"psnr": psnr, "ssim": ssim, "uqi": uqi, "vif": vif}


def pair_metrics(fake: Tensor, real: Tensor, luminance: bool = False, batch: int = 64) -> dict:
    """Means over (N, C, H, W) in [-1, 1] of all scores that images of this size have.

    Both are rounded to 8 bits first, as in saved files. A key says on what it was measured: rgb8
    (mean over channels), y8 (`luminance`, ITU-R 601, not rounded again) or grey8, and N. Scores for
    which the images are too small are left out. PSNR is a mean of dB: infinite if a pair is equal.
    ValueError if the shapes differ, or there is no image.
    """
    if fake.shape != real.shape or fake.dim() != 4 or not len(fake):
        raise ValueError(f"a pair has one shape (N, C, H, W), not {fake.shape}, {real.shape}")
    space = "y8" if luminance else "rgb8"
    if fake.shape[1] == 1:
        space = "grey8"
    names = [name for name in SCORES if min(fake.shape[2:]) >= SMALLEST[name]]
    parts = {name: [] for name in names}
    for a, b in zip(fake.split(batch), real.split(batch)):
        a = grey_levels(a).double()
        b = grey_levels(b).double()
        if space == "y8":
            a = data.luminance(a)
            b = data.luminance(b)
        for name in names:
            parts[name].append(SCORES[name](a, b))
    tag = f"{space}_{count_tag(len(fake))}"
    return {f"{name}_{tag}": torch.cat(parts[name]).mean().item() for name in names}


def _checked(fake, real, name):
    """Both in float64: variances are small differences of large numbers."""
    if fake.shape != real.shape or fake.dim() != 4:
        raise ValueError(f"a pair has one shape (B, C, H, W), not {fake.shape}, {real.shape}")
    if min(fake.shape[2:]) < SMALLEST[name]:
        height, width = fake.shape[2:]
        raise ValueError(
            f"{name} needs {SMALLEST[name]} pixels or more a side, not {width}x{height}"
        )
    return fake.double(), real.double()


def _gaussian(size, sigma):
    """(size,) float64, sum 1: a window is this line's product with itself."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(place**2) / (2 * sigma**2))
    return line / line.sum()


def _filter(images, line):
    """Weighted sums over all windows inside the image: (B, C, H − k + 1, W − k + 1)."""
    height, width = images.shape[-2:]
    down = _band(line.to(images.device), height)
    right = _band(line.to(images.device), width)
    return down @ images @ right.T  # as matrices: torch's convolution in float64 is slow


def _band(line, size):
    """(size − k + 1, size): row i has `line` from column i on."""
    count = size - len(line) + 1
    band = line.new_zeros(count, size)
    for i in range(count):
        band[i, i : i + len(line)] = line
    return band


def _moments(x, y, window):
    """Means, variances and covariance of x and y in each window."""
    mean_x = _filter(x, window)
    mean_y = _filter(y, window)
    var_x = _filter(x * x, window) - mean_x**2
    var_y = _filter(y * y, window) - mean_y**2
    cov = _filter(x * y, window) - mean_x * mean_y
    return mean_x, mean_y, var_x, var_y, cov


def _ratio(above, below):
    """above / below, and 1 where below is 0 but for rounding."""
    zero = below.abs() < 1e-9
    return torch.where(zero, 1.0, above / below.masked_fill(zero, 1))
