"""How good features are (§4.2): 1NN and a linear probe; how well E inverts G; anomaly scores."""

import torch
from torch import Tensor
from tqdm import tqdm

from common.device import float64, where_float64_is
from common.errors import say_once
from common.metrics import count_tag


@torch.no_grad()
def encode(net, data, places, device, batch_size=500):
    """net(x) of the images at `places` (n,): (n, F)."""
    parts = places.split(batch_size)
    return torch.cat([net(data.images_at(part, device)).float() for part in parts])


def has_own_test_images(data, test):
    """Whether the test images are others than the training images; a line says where they aren't.

    Each would be its own nearest neighbour.
    """
    if data.files is None or data.files != test.files:
        return True
    say_once(
        "the test split is the training images, so nothing is measured that looks for the nearest "
        "training image: put other images into test/"
    )
    return False


def can_classify(data, test):
    """Whether test images can be told their class by training images (1NN, the probe)."""
    if data.labels is None or test.labels is None or not has_own_test_images(data, test):
        return False
    return bool(torch.isin(test.labels, data.labels).all())  # not so under --hold-out


@torch.no_grad()
def nearest(bank: Tensor, queries: Tensor, block: int = 500) -> Tensor:
    """argmin_b |q − b|² = argmin_b |b|² − 2q·b, of each query q: int64 (M,).

    bank (N, F), queries (M, F). Exact up to fp32 rounding. One matrix product per block of queries,
    so that never all pairs are in memory.
    """
    centre = bank.mean(0)  # a common shift keeps distances and saves digits
    bank = bank - centre
    norms = bank.square().sum(1)
    return torch.cat(
        [torch.addmm(norms, q - centre, bank.T, alpha=-2).argmin(1) for q in queries.split(block)]
    )


def one_nn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> float:
    """Share of queries whose nearest neighbour in the bank has their label. (N, F), labels (N,)."""
    return (bank_labels[nearest(bank, queries).cpu()] == labels).double().mean().item()


def linear_probe(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, ridge: float = 1e-3
) -> float:
    """Accuracy of the least-squares classifier W = (XᵀX/N + ridge·I)⁻¹ XᵀY/N on one-hot labels Y.

    X: the bank's features, each with mean 0 and variance 1 (constant ones stay 0). In float64.
    """
    bank, queries = where_float64_is(bank), where_float64_is(queries)
    mean, sd = bank.mean(0, dtype=torch.float64), bank.double().std(0).clamp(min=1e-8)
    Y = torch.nn.functional.one_hot(bank_labels).to(bank.device, torch.float64)
    gram, cross = 0, 0
    for rows, targets in zip(bank.split(4096), Y.split(4096)):
        X = (rows.double() - mean) / sd
        gram += X.T @ X
        cross += X.T @ (targets - Y.mean(0))
    eye = torch.eye(len(mean), dtype=torch.float64, device=bank.device)
    W = torch.linalg.solve(gram / len(bank) + ridge * eye, cross / len(bank))
    answers = torch.cat(
        [((rows.double() - mean) / sd @ W + Y.mean(0)).argmax(1) for rows in queries.split(4096)]
    )
    return (answers.cpu() == labels).double().mean().item()


def auroc(scores: Tensor, positive: Tensor) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal), by ranks.

    scores (N,), positive bool (N,). ValueError unless there are both.
    """
    n_pos = int(positive.sum())
    n_neg = len(scores) - n_pos
    if not n_pos or not n_neg:
        raise ValueError(f"AUROC needs positives and negatives, got {n_pos} and {n_neg}")
    # places, counts: of the sorted values
    _, places, counts = torch.unique(float64(scores), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]  # ties share their mean rank
    return ((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)).item()


def anomaly_score(
    x: Tensor, reconstruction: Tensor, f: Tensor, f_rec: Tensor, alpha: float = 0.9
) -> Tensor:
    """A(x) = α‖x − G(E(x))‖₁ + (1 − α)‖f_D(x, E(x)) − f_D(G(E(x)), E(x))‖₁, Zenati et al. 2018, §3.

    arXiv:1802.06222; α 0.9 is their code's. x, reconstruction: (B, …) in [-1, 1], on which the
    balance of the two sums depends; f, f_rec: D's features (B, F). Returns (B,), the larger the
    stranger.
    """
    L_G = (x - reconstruction).flatten(1).abs().sum(1)
    L_D = (f - f_rec).abs().sum(1)
    return alpha * L_G + (1 - alpha) * L_D


@torch.no_grad()
def pixel_novelty(data, test, bank, device):
    """Distance of each test image to the nearest of `bank` training images: (N,), in [0, ∞).

    A score that needs no training, to compare anomaly scores with. Euclidean, pixels in [0, 1].
    """
    bank = encode(lambda x: x.flatten(1) / 2, data, data.places(bank), device)
    queries = encode(lambda x: x.flatten(1) / 2, test, torch.arange(len(test)), device)
    return (queries - bank[nearest(bank, queries)]).norm(dim=1).cpu()


# --- the measurements of a run


def measure_features(E, D, untrained_E, data, test, bank, device):
    """{key: accuracy} of 1NN and the linear probe, §4.2. bank: training images to compare with.

    E(x), E's logits and the layer before, D's features, pixels, and E with its initial weights.
    D None: not trained.
    """
    spaces = {
        "E": E,
        "logits": E.logits,
        "features": E.features,
        "pixels": lambda x: x.flatten(1),
        "untrained_E": untrained_E,
        "untrained_features": untrained_E.features,
    }
    if D is not None:
        spaces["D"] = lambda x: D.features(x, E(x) if D.pairs else None)
    probed = ("E", "features", "pixels", "untrained_features")
    places, asked = data.places(bank), test.places(len(test))
    y, labels = data.labels[places], test.labels[asked]
    n, m = len(places), len(asked)
    tag = f"{count_tag(n)}_{count_tag(m)}"
    metrics = {}
    for name, net in tqdm(spaces.items(), disable=None, desc="1NN"):
        X, queries = encode(net, data, places, device), encode(net, test, asked, device)
        metrics[f"1nn_{name}_{tag}"] = one_nn_accuracy(X, y, queries, labels)
        if name in probed:
            metrics[f"probe_{name}_{tag}"] = linear_probe(X, y, queries, labels)
        if name.startswith("untrained") and n > 10_000 and m > 2000:  # where the log's curves begin
            part = X[:10_000], y[:10_000], queries[:2000], labels[:2000]
            metrics[f"1nn_{name}_10k_2k"] = one_nn_accuracy(*part)
    return metrics


@torch.no_grad()
def measure_inversion(G, E, x, z, batch_size=250, split="test"):
    """{key: value}: mean ‖x − G(E(x))‖ of test images x, the same of x = G(z), and ‖z − E(G(z))‖.

    x (N, C, H, W) in [-1, 1] of `split`, z (M, N_z). Each also for shuffled pairs, and their ratio.
    Euclidean norms, of images brought to [0, 1], as in the authors' log (EGr, EGr_b, EGg, EGg_b).
    code_sd: the standard deviation of E(x), the mean over its N_z numbers.
    """

    def batched(net, t):
        return torch.cat([net(part).float() for part in t.split(batch_size)])

    def mean_distance(a, b):
        return (a - b).flatten(1).norm(dim=1).mean().item()

    image = batched(G, z)
    code_x, code = batched(E, x), batched(E, image)
    rec_x, rec = batched(G, code_x), batched(G, code)
    n_x, n_z = f"{count_tag(len(x))}_{split}", count_tag(len(z))
    metrics = {}
    for name, tag, a, b in (
        ("recon", n_x, x / 2, rec_x / 2),
        ("regen", n_z, image / 2, rec / 2),
        ("latent", n_z, z, code),
    ):
        own, shuffled = mean_distance(a, b), mean_distance(a, b.roll(1, 0))
        metrics[f"{name}_l2_{tag}"] = own
        metrics[f"{name}_l2_shuffled_{tag}"] = shuffled
        metrics[f"{name}_ratio_{tag}"] = own / shuffled
    metrics[f"code_sd_{n_x}"] = code_x.std(0).mean().item()
    return metrics


@torch.no_grad()
def anomaly_scores(G, E, D, test, device, batch_size=500):
    """{name: scores (N,)} of all test images. D None: not trained, reconstruction alone counts."""
    scores = {}
    parts = torch.arange(len(test)).split(batch_size)
    for part in tqdm(parts, disable=None, desc="anomaly scores", leave=False):
        x = test.images_at(part, device)
        code = E(x)
        rec = G(code).float()
        if D is None:
            of_part = {"recon": (x - rec).flatten(1).abs().sum(1)}
        else:
            f, f_rec = D.features(x, code).float(), D.features(rec, code).float()
            of_part = {
                "recon": anomaly_score(x, rec, f, f_rec, alpha=1),
                "D_features": anomaly_score(x, rec, f, f_rec, alpha=0),
                "score": anomaly_score(x, rec, f, f_rec),
            }
        for name, values in of_part.items():
            scores.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in scores.items()}
