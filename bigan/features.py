"""How good features are (§4.2): 1-nearest-neighbour accuracy, a linear probe; and AUROC for anomaly scores."""

import torch
from torch import Tensor

from common.device import float64, where_float64_is


@torch.no_grad()
def encode(net, data, n, device, batch_size=500):
    """net(x) of the first n images (all, if there are fewer): (n, F)."""
    parts = torch.arange(min(n, len(data))).split(batch_size)
    return torch.cat([net(data.images_at(part, device)).float() for part in parts])


@torch.no_grad()
def nearest(bank: Tensor, queries: Tensor, block: int = 500) -> Tensor:
    """Index int64 (M,) of each query's (M, F) nearest row of bank (N, F), Euclidean. Exact up to fp32 rounding.

    argmin_b |q − b|² = argmin_b |b|² − 2q·b: one matrix product for a block of queries, never all pairs in memory.
    """
    centre = bank.mean(0)  # a common shift keeps distances and saves digits
    bank = bank - centre
    norms = bank.square().sum(1)
    return torch.cat(
        [torch.addmm(norms, q - centre, bank.T, alpha=-2).argmin(1) for q in queries.split(block)]
    )


def one_nn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Share of queries whose nearest neighbour in the bank has their label. Features (N, F), labels (N,)."""
    return (bank_labels[nearest(bank, queries).cpu()] == labels).double().mean().item()


def linear_probe(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, ridge: float = 1e-3
) -> float:
    """Accuracy of the least-squares classifier on one-hot labels, in closed form: W = (XᵀX/N + ridge·I)⁻¹ XᵀY/N.

    X: the bank's features, each with mean 0 and variance 1 (constant ones stay 0). In float64.
    """
    bank, queries = where_float64_is(bank), where_float64_is(queries)
    mean, sd = bank.mean(0, dtype=torch.float64), bank.double().std(0).clamp(min=1e-8)
    Y = torch.nn.functional.one_hot(bank_labels).to(bank.device, torch.float64)
    gram, cross = 0, 0
    for rows, targets in zip(bank.split(4096), Y.split(4096)):
        X = (rows.double() - mean) / sd
        gram, cross = gram + X.T @ X, cross + X.T @ (targets - Y.mean(0))
    eye = torch.eye(len(mean), dtype=torch.float64, device=bank.device)
    W = torch.linalg.solve(gram / len(bank) + ridge * eye, cross / len(bank))
    answers = torch.cat(
        [((rows.double() - mean) / sd @ W + Y.mean(0)).argmax(1) for rows in queries.split(4096)]
    )
    return (answers.cpu() == labels).double().mean().item()


def auroc(scores: Tensor, positive: Tensor) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal), by ranks. scores (N,), positive bool (N,)."""
    n_pos = int(positive.sum())
    n_neg = len(scores) - n_pos
    if not n_pos or not n_neg:
        raise ValueError(f"AUROC needs positives and negatives, got {n_pos} and {n_neg}")
    _, places, counts = torch.unique(
        float64(scores), return_inverse=True, return_counts=True
    )  # sorted
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]  # ties share their mean rank
    return ((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)).item()


def anomaly_score(
    x: Tensor, reconstruction: Tensor, f: Tensor, f_rec: Tensor, alpha: float = 0.9
) -> Tensor:
    """A(x) = α‖x − G(E(x))‖₁ + (1 − α)‖f_D(x, E(x)) − f_D(G(E(x)), E(x))‖₁, Zenati et al., §3.

    x, reconstruction: (B, …); f, f_rec: D's features (B, F). Returns (B,), the larger the stranger.
    """
    L_G = (x - reconstruction).flatten(1).abs().sum(1)
    L_D = (f - f_rec).abs().sum(1)
    return alpha * L_G + (1 - alpha) * L_D
