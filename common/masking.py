"""Masks for sets of varying size that are padded to one length.

A mask is (B, N), True where an element is real. What stands in masked places changes nothing, bit
for bit, in values and gradients, even if it is inf or NaN: it is replaced before any arithmetic.
"""

import torch
from torch import Tensor


def lengths_to_mask(lengths: Tensor, max_length: int | None = None) -> Tensor:
    """Counts (B,) -> mask (B, N), true in the first lengths[i] places; N: max_length or largest."""
    n = int(lengths.max()) if max_length is None else max_length
    if int(lengths.max()) > n:
        raise ValueError(f"a set of {int(lengths.max())} elements doesn't fit in max_length {n}")
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Σ over real elements: x (B, N, F), mask (B, N) -> (B, F). An empty set sums to 0."""
    return x.masked_fill(~mask[..., None], 0).sum(dim=1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over real elements: x (B, N, F), mask (B, N) -> (B, F). An empty set gives 0."""
    return masked_sum(x, mask) / mask.sum(dim=1, keepdim=True).clamp(min=1)
