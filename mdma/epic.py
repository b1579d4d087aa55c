"""EPiC-GAN: a GAN for jets whose particles share a global vector. MDMA is compared with it.

E. Buhmann, G. Kasieczka, J. Thaler, "EPiC-GAN: Equivariant Point Cloud Generation for Particle
Jets", SciPost Phys. 15 (2023) 130, arXiv:2301.08128, §2. Sizes, and whatever else the text leaves
open, are those of the authors' code, models.py of github.com/uhh-pd-ml/EPiC-GAN.

A layer first updates the global vector from mean and sum of the particles, and then each particle
with the new global vector. Its cost is linear in n, and jets of any n can be made.

Departures: padding is masked, where the authors train on jets of one n at a time. Losses, batches,
validation and sampling are MDMA's, train.py: so L_D has no factor 1/2, which Adam doesn't see, G's
step has the noise of D's, and generated jets aren't centred.

z     noise (B, 4 + N, 3), g's before p's       n     real particles of a jet
x     particles (B, N, 3), standardised         p     the same within the networks (B, N, 128)
mask  (B, N), True where a particle is real     g     global vector (B, 10)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.masking import masked_sum

HIDDEN = 128  # numbers of p, and width of the layers between
GLOBAL = 10  # numbers of g, and of its noise
SIGMA = 5.0  # standard deviation of features within the networks; 1 outside (norm_sigma)


def act(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.01. In place: x is always a sum that nothing else needs."""
    return F.leaky_relu(x, 0.01, inplace=True)


def linear(in_features: int, out_features: int) -> nn.Linear:
    """W x + b with rows γ_j v_j / ‖v_j‖: weight normalisation with gains γ, at first ‖v_j‖."""
    return nn.utils.parametrizations.weight_norm(nn.Linear(in_features, out_features))


def pooled(p: Tensor, mask: Tensor) -> Tensor:
    """[Σᵢ pᵢ / n, Σᵢ pᵢ] over real particles, (B, 2 · 128); 0 for a jet without any."""
    total = masked_sum(p, mask)
    n = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([total / n, total], dim=1)


class EPiCLayer(nn.Module):
    """g ← act(W₂ act(W₁ [pooled(p), g]) + g), then pᵢ ← act(V₂ act(V₁ [pᵢ, g]) + pᵢ), §2.

    V₁ [pᵢ, g] is computed as V_p pᵢ + V_g g, so that no g stands beside each particle.
    """

    def __init__(self):
        super().__init__()
        self.global_1 = linear(2 * HIDDEN + GLOBAL, HIDDEN)
        self.global_2 = linear(HIDDEN, GLOBAL)
        self.local_1 = linear(HIDDEN + GLOBAL, HIDDEN)
        self.local_2 = linear(HIDDEN, HIDDEN)

    def forward(self, p: Tensor, g: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """p: (B, N, 128); g: (B, 10); mask: (B, N). Returns the new p and g."""
        h = act(self.global_1(torch.cat([pooled(p, mask), g], dim=1)))
        g = act(self.global_2(h) + g)
        V_p, V_g = self.local_1.weight.split([HIDDEN, GLOBAL], dim=1)
        from_g = F.linear(g, V_g, self.local_1.bias)  # (B, 128)
        h = act(F.linear(p, V_p).add_(from_g[:, None]))
        return act(self.local_2(h).add_(p)), g


# --- the two players


class Generator(nn.Module):
    """G: noise z (B, 4 + N, 3), mask (B, N) -> particles (B, N, 3), standardised, 0 if masked.

    g's noise is the first 10 of the 12 numbers in z's first 4 rows. 424,850 parameters.
    """

    global_rows = 4

    def __init__(self, layers=6, features=3):
        super().__init__()
        self.local_in = linear(features, HIDDEN)
        self.global_in_1 = linear(GLOBAL, HIDDEN)
        self.global_in_2 = linear(HIDDEN, GLOBAL)
        self.layers = nn.ModuleList(EPiCLayer() for _ in range(layers))
        self.local_out = linear(HIDDEN, features)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        z_g = z[:, : self.global_rows].flatten(1)[:, :GLOBAL]
        z_p = z[:, self.global_rows :].masked_fill(~mask[..., None], 0)
        p = p_in = act(self.local_in(z_p))
        g = g_in = act(self.global_in_2(act(self.global_in_1(z_g))))
        for layer in self.layers:
            p, g = layer(p, g, mask)
            p = p + p_in
            g = g + g_in
        return (self.local_out(p) / SIGMA).masked_fill(~mask[..., None], 0)


class Discriminator(nn.Module):
    """D: particles x (B, N, 3), mask (B, N) -> score (B,), unbounded, and 0 (B, 1) as mean field.

    So L_match is 0: EPiC-GAN matches no mean fields. 313,170 parameters.
    """

    def __init__(self, layers=3, features=3):
        super().__init__()
        self.local_in_1 = linear(features, HIDDEN)
        self.local_in_2 = linear(HIDDEN, HIDDEN)
        self.global_in_1 = linear(2 * HIDDEN, HIDDEN)
        self.global_in_2 = linear(HIDDEN, GLOBAL)
        self.layers = nn.ModuleList(EPiCLayer() for _ in range(layers))
        self.out_1 = linear(2 * HIDDEN + GLOBAL, HIDDEN)
        self.out_2 = linear(HIDDEN, HIDDEN)
        self.out_3 = linear(HIDDEN, 1)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        p = act(self.local_in_1(SIGMA * x.masked_fill(~mask[..., None], 0)))
        p = act(self.local_in_2(p) + p)
        g = act(self.global_in_2(act(self.global_in_1(pooled(p, mask)))))
        for layer in self.layers:
            p, g = layer(p, g, mask)
        h = act(self.out_1(torch.cat([pooled(p, mask), g], dim=1)))
        h = act(self.out_2(h) + h)
        score = self.out_3(h)
        return score[:, 0], torch.zeros_like(score)
