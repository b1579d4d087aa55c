"""Tasks that make their own pairs (x, y) from any clean images, as tensors.

    x, y = TASKS["deraining"].make(clean, generators)

clean: (B, C, S, S) in [-1, 1], on any device. generators: B CPU generators, one per image, so that
what is drawn for an image does not depend on its batch. x and y have as many channels as `clean`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data import luminance

FILL = (117, 104, 123)  # of the hole, RGB, as the Context-Encoder's code and the authors'
NOISE = 25.0  # standard deviation on the scale 0 … 255
SCALE = 4  # of super-resolution


def uniform(generators, low: float, high: float, like: Tensor) -> Tensor:
    """(B, 1, 1), one number per generator."""
    values = torch.stack([torch.rand(1, 1, generator=g) for g in generators])
    return (low + (high - low) * values).to(like.device)


# --- in-painting: T gives the middle of x, S/2 x S/2


def overlap(size: int) -> int:
    """Pixels of the middle's rim that x still shows: the authors' 4 at 128."""
    return size // 32


def centre(images: Tensor) -> Tensor:
    """The middle (B, C, S/2, S/2) of (B, C, S, S)."""
    quarter = images.shape[-1] // 4
    return images[..., quarter : 3 * quarter, quarter : 3 * quarter]


def paste(x: Tensor, middle: Tensor) -> Tensor:
    """x with its middle replaced by `middle`: the whole image that T(x) or y stands for."""
    quarter = x.shape[-1] // 4
    whole = x.clone()
    whole[..., quarter : 3 * quarter, quarter : 3 * quarter] = middle
    return whole


def inpainting(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: clean with a hole in its middle. y: that middle."""
    size = clean.shape[-1]
    start = size // 4 + overlap(size)
    fill = torch.tensor(FILL, dtype=torch.float32).view(1, 3, 1, 1)
    if clean.shape[1] == 1:
        fill = luminance(fill)
    x = clean.clone()
    x[..., start : size - start, start : size - start] = fill.to(clean.device) / 127.5 - 1
    return x, centre(clean)


# --- de-raining


def streaks(clean: Tensor, generators) -> Tensor:
    """Rain (B, 1, S, S) in [0, 1]: drops at random places, drawn out along one direction per image.

    Drawn for each image: how many drops, how bright each, the direction, and for a near layer and a
    far one (smaller, fainter, more of them) the length and width (blur) of the streaks.
    """
    size = clean.shape[-1]
    # pixels from a streak's middle on a torus: 0, 1, …, −1, which is fftfreq's order
    offset = torch.fft.fftfreq(size, 1 / size, device=clean.device)
    down = offset[:, None]
    right = offset[None, :]
    angle = uniform(generators, -0.5, 0.5, clean)  # from the vertical, radians
    density = uniform(generators, 0.2, 1.0, clean)
    along = down * angle.cos() + right * angle.sin()
    across = right * angle.cos() - down * angle.sin()
    rain = torch.zeros(len(clean), size, size, device=clean.device)
    for nearness, drops in ((1.0, 40), (0.7, 80)):
        length = uniform(generators, 0.12, 0.3, clean) * nearness * size
        width = uniform(generators, 0.4, 0.7, clean) * nearness * (size / 64) ** 0.5
        line = torch.exp(-((across / width) ** 2) / 2) * torch.exp(-((2 * along / length) ** 4))
        drawn = torch.stack([torch.rand(2, size, size, generator=g) for g in generators])
        drawn = drawn.to(clean.device)
        share = density * drops * (size / 64) ** 0.5 / size**2  # of pixels that hold a drop
        bright = (drawn[:, 0] < share) * (0.4 + 0.6 * drawn[:, 1])
        drawn_out = torch.fft.rfft2(bright) * torch.fft.rfft2(line)  # a convolution
        rain += nearness * torch.fft.irfft2(drawn_out, s=(size, size))
    return rain.clamp(0, 1)[:, None]


def deraining(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: clean with rain added, as bright in every channel. y: clean."""
    strength = uniform(generators, 0.3, 0.8, clean)[..., None]
    x = clean + 2 * strength * streaks(clean, generators)
    return x.clamp(-1, 1), clean


# --- others


def edges(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: black outlines on white, along the ridges of the luminance's gradient. y: clean."""
    smooth = F.pad(luminance(clean), (2, 2, 2, 2), mode="replicate")
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=clean.device) / 16
    smooth = F.conv2d(smooth, (kernel[:, None] * kernel)[None, None])
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=clean.device) / 8
    padded = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    right = F.conv2d(padded, sobel[None, None])
    down = F.conv2d(padded, sobel.T[None, None])
    strength = (right**2 + down**2).sqrt()
    around = F.pad(strength, (1, 1, 1, 1))
    horizontal = torch.maximum(around[..., 1:-1, :-2], around[..., 1:-1, 2:])
    vertical = torch.maximum(around[..., :-2, 1:-1], around[..., 2:, 1:-1])
    rival = torch.where(right.abs() > down.abs(), horizontal, vertical)
    outline = (strength >= rival) & (strength > 0.06)
    x = 1 - 2 * outline.to(clean.dtype)
    return x.expand_as(clean).contiguous(), clean


def super_resolution(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: clean made SCALE times smaller and large again, both bicubic. y: clean."""
    size = clean.shape[-1]
    small = F.interpolate(clean, (size // SCALE, size // SCALE), mode="bicubic", antialias=True)
    large = F.interpolate(small, (size, size), mode="bicubic")
    return large.clamp(-1, 1), clean


def denoising(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: clean with Gaussian noise of standard deviation NOISE / 255. y: clean."""
    noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
    x = clean + NOISE / 127.5 * noise.to(clean.device)
    return x.clamp(-1, 1), clean


def colourisation(clean: Tensor, generators) -> tuple[Tensor, Tensor]:
    """x: luminance, in all three channels. y: clean."""
    return luminance(clean).expand_as(clean).contiguous(), clean


@dataclass(frozen=True)
class Task:
    make: Callable
    multiple: int = 1  # the image size must be a multiple of it
    colour: bool = False  # whether it needs RGB


TASKS = {
    "inpainting": Task(inpainting, multiple=32),  # fill a hole in the middle
    "deraining": Task(deraining),  # take away synthetic rain
    "edges": Task(edges),  # an image from its outlines
    "super-resolution": Task(super_resolution, multiple=SCALE),
    "denoising": Task(denoising),
    "colourisation": Task(colourisation, colour=True),  # colours from luminance
}
