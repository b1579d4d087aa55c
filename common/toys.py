"""Two-dimensional toy data: mixtures of Gaussians and the Swiss roll.

As a training step uses it:

    data = mixture("8gaussians")
    x, y = data.batch(step, batch_size=64, seed=0)  # (64, 2), (64,)
"""

import math

import numpy as np
import torch
from torch import Tensor

from .errors import UserError

MIXTURES = ("8gaussians", "25gaussians")


TOYS = MIXTURES + ("swissroll",)


class Mixture:
    """Equal-weight Gaussians in the plane. centres (K, 2); sd: of each, in both directions."""

    def __init__(self, name: str, centres: Tensor, sd: float):
        self.name, self.centres, self.sd = name, centres, sd

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points float32 (n, 2) and the modes int64 (n,) that they were drawn from."""
        labels = torch.randint(len(self.centres), (n,), generator=rng)
        noise = torch.randn(n, 2, generator=rng)
        return self.centres[labels].float() + self.sd * noise, labels

    def batch(self, step: int, batch_size: int, seed: int, device="cpu") -> tuple[Tensor, Tensor]:
        """Batch number `step`: as `sample`, on `device`; the same for the same arguments."""
        # spawn_key: other noise than that of common.rng.step_rng, which a training step draws z
        # from
        entropy = np.random.SeedSequence([seed % 2**64, step], spawn_key=(2,)).generate_state(
            1, np.uint64
        )
        rng = torch.Generator().manual_seed(int(entropy[0]))
        points, labels = self.sample(batch_size, rng)
        return points.to(device), labels.to(device)


def mixture(name: str, standardised: bool = True) -> Mixture:
    """The two toy sets of the WGAN-GP paper's code (Gulrajani et al. 2017), which others took over.

    "8gaussians": a ring of radius 2, sd 0.02, all divided by 1.414. "25gaussians": a 5 x 5 grid of
    spacing 2, sd 0.05, all divided by 2.828. Both then have a standard deviation of about 1 in x
    and in y; without the division (standardised=False) the grid is that of ALI.
    """
    if name == "8gaussians":
        unit = 1.414 if standardised else 1
        angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return Mixture(name, torch.stack([angles.cos(), angles.sin()], 1) * (2 / unit), 0.02 / unit)
    if name == "25gaussians":
        unit = 2.828 if standardised else 1
        side = torch.arange(-2, 3, dtype=torch.float64) * 2
        return Mixture(name, torch.cartesian_prod(side, side) / unit, 0.05 / unit)
    raise UserError(f"unknown mixture {name!r}: choose one of {', '.join(MIXTURES)}")


class SwissRoll:
    """WGAN-GP's third toy: (t (cos t, sin t) + N(0, 0.25²)) / 7.5, t uniform in [1.5π, 4.5π]."""

    name = "swissroll"
    batch = Mixture.batch

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points float32 (n, 2) and their angles t, float32 (n,)."""
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=rng))
        noise = 0.25 * torch.randn(n, 2, generator=rng)
        return (t[:, None] * torch.stack([t.cos(), t.sin()], 1) + noise) / 7.5, t


def toy_data(name: str) -> Mixture | SwissRoll:
    """The data of one of TOYS."""
    return SwissRoll() if name == "swissroll" else mixture(name)
