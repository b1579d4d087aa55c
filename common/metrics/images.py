"""Scores of generated images: Fréchet distance, KID, Inception score, precision and recall, class coverage.

A number means nothing without its feature extractor, sample count and split, so every key of
`image_metrics` names the three: `fid_lenet_10k_test`. Three extractors: `InceptionTF`, whose FID
compares with published ones; `LeNet` (lenet.py), a classifier of the data set itself; and
EfficientNet-Lite0 (efficientnet.py), for photographs where Inception's weights can't be had. The
last two compare only with themselves.

Images are scored as 8-bit ones (`quantise`), generated and real ones alike, as in the field: the
scores of exported PNGs are those that eval prints.

    extractor = load_extractor("lenet", "fashion-mnist", device)
    real = real_features(extractor, test_set, device=device, cache_dir="data/features")
    fake = collect(extractor, batches_of_samples, n=10_000)
    image_metrics(real, fake, extractor.name, "test")
"""

import contextlib
import functools
import hashlib
import http.client
import math
import os
import pickle
import re
import socket
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..runs import save_atomic
from . import count_tag, efficientnet, lenet
from .lenet import LeNet, match_channels

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
# The full sum as torch-fidelity pins it; its first digits are in the file's name.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


# --- 8-bit images


def grey_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> whole numbers from 0 to 255, float32, as in a PNG. NaN stays NaN."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255)


def quantise(images: Tensor) -> Tensor:
    """Images in [-1, 1] as they are after they were written to 8-bit files and read back."""
    return grey_levels(images) / 127.5 - 1


# --- distances between two sets of features


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), both float64. Warns when N <= D."""
    n, dim = features.shape
    if n < 2:
        raise ValueError(f"a covariance needs two samples or more, not {n}")
    if n <= dim:
        warnings.warn(f"{n} samples of {dim} features give a singular covariance: "
                      f"the Fréchet distance is strongly biased upwards; use more than {dim} samples",
                      stacklevel=2)
    mu = features.mean(0, dtype=torch.float64)
    sigma = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
    for block in features.split(4096):  # blockwise, so that no float64 copy of all features is made
        centred = block.double() - mu
        sigma += centred.T @ centred
    return mu, sigma / (n - 1)


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """|μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), Heusel et al. 2017 (arXiv:1706.08500), eq. 6.

    mu (D,), sigma (D, D) symmetric, >= 0. Computed in float64; in [0, ∞).
    Σ₁Σ₂ is similar to the symmetric Σ₁^½ Σ₂ Σ₁^½, so the trace is a sum of roots of real eigenvalues, and no
    matrix square root with an imaginary part to throw away is needed.
    """
    mu1, sigma1, mu2, sigma2 = (torch.as_tensor(x, dtype=torch.float64) for x in (mu1, sigma1, mu2, sigma2))
    if not all(x.isfinite().all() for x in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("the features are not finite, so they have no Fréchet distance")
    values, vectors = torch.linalg.eigh(sigma1)
    root1 = vectors * values.clamp(min=0).sqrt() @ vectors.T  # Σ₁^½
    product = root1 @ sigma2 @ root1
    trace_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * trace_root
    return max(distance.item(), 0.0)


def kernel_inception_distance(f1: Tensor, f2: Tensor, subsets: int = 100, subset_size: int = 1000,
                              seed: int = 0) -> tuple[float, float]:
    """Unbiased MMD² under k(x, y) = (x·y/D + 1)³, Bińkowski et al. 2018 (arXiv:1801.01401), §4.

    f1 (N, D), f2 (M, D). Mean and standard deviation over `subsets` pairs of random subsets, in
    float64. The mean can be slightly negative. A subset has `subset_size` samples, but at most half
    of the smaller set: subsets of (nearly) the whole set are all alike, and their spread says
    nothing. With halves it is the standard deviation of the whole set's KID (of sets that hardly
    differ, up to √3 times that). Of fewer than four samples there are no such subsets: all are
    used, and the deviation is nan.
    """
    smaller = min(len(f1), len(f2))
    if smaller < 2:
        raise ValueError(f"KID needs two samples or more of each kind, got {len(f1)} and {len(f2)}")
    size = min(subset_size, smaller // 2) if smaller >= 4 else smaller
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x = f1[torch.randperm(len(f1), generator=generator)[:size]].double()
        y = f2[torch.randperm(len(f2), generator=generator)[:size]].double()
        k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        within = (k_xx.sum() - k_xx.trace() + k_yy.sum() - k_yy.trace()) / (size * (size - 1))
        values.append(within - 2 * k_xy.mean())
    values = torch.stack(values)
    return values.mean().item(), values.std(correction=0).item() if size < smaller else math.nan


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision: share of fakes inside the manifold of reals; recall: share of reals inside the fakes'.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), eq. 1-2: the manifold of a set is the union of the balls
    around its points, each as large as the distance to its k-th nearest neighbour.
    real (N, D), fake (M, D); N, M > k.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"precision and recall need more than k = {k} samples, "
                         f"got {len(real)} and {len(fake)}")
    centre = real.mean(0, dtype=torch.float64)  # a common shift keeps distances, and saves digits below
    real, fake = real.double() - centre, fake.double() - centre
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _squared_distances(points: Tensor, others: Tensor, block: int = 1024):
    """Blocks (start, |a|² + |b|² − 2ab (block, M), its rounding error): never all pairs in memory at once."""
    norms = others.square().sum(1)
    for start in range(0, len(points), block):
        a = points[start:start + block]
        sums = a.square().sum(1, keepdim=True) + norms
        yield start, torch.addmm(sums, a, others.T, alpha=-2), 1e-13 * sums


def _share_inside(points: Tensor, manifold: Tensor, k: int) -> float:
    radii = []
    for start, squares, _ in _squared_distances(manifold, manifold):
        rows = torch.arange(len(squares), device=squares.device)
        squares[rows, start + rows] = math.inf  # a point is not its own neighbour
        radii.append(squares.topk(k, largest=False).values[:, -1].clamp(min=0))
    radii = torch.cat(radii)
    # The slack: rounding must not push a twin out of a ball of radius 0 (repeated images).
    blocks = _squared_distances(points, manifold)
    inside = sum((squares <= radii + slack).any(1).sum() for _, squares, slack in blocks)
    return inside.item() / len(points)


# --- scores of a classifier's answers


def inception_score(logits: Tensor, splits: int = 1) -> tuple[float, float]:
    """exp E_x KL(p(y|x) ‖ p(y)), Salimans et al. 2016 (arXiv:1606.03498), §4. In [1, classes].

    logits (N, classes). Mean and standard deviation over `splits` consecutive parts. Splits of sorted samples
    give a different number; one split (sd 0) does not depend on the order.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits must be in 1..{len(logits)} (the number of samples), not {splits}")
    scores = []
    for part in logits.double().softmax(1).tensor_split(splits):
        # E KL(p(y|x) ‖ p(y)) = H(E p(y|x)) − E H(p(y|x)): entropies need no care at p = 0
        mean_entropy = torch.special.entr(part).sum(1).mean()
        scores.append((torch.special.entr(part.mean(0)).sum() - mean_entropy).exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


def class_histogram(logits: Tensor) -> dict:
    """How the classes that the classifier sees (argmax) are filled by samples with logits (N, classes).

    counts: list of `classes` ints; entropy: of the shares, in nats, at most log(classes);
    coverage: share of classes that hold at least 1 % of the samples, in [0, 1].
    """
    counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
    shares = counts.double() / len(logits)
    return {"counts": counts.tolist(), "entropy": torch.special.entr(shares).sum().item(),
            "coverage": (counts * 100 >= len(logits)).double().mean().item()}


# --- Inception v3 as TensorFlow's FID has it


class InceptionTF(nn.Module):
    """The Inception v3 of the original FID code, ported to torch; reads pytorch-fid's weights file.

    `forward` takes images (B, 1 or 3, H, W) in [-1, 1] of any size; they are resized to 299 x 299 (bilinear,
    no antialias, as pytorch-fid does). Returns the pool features (B, 2048) and 1008 logits without the bias,
    because the original Inception score leaves it out (improved-gan, torch-fidelity's logits_unbiased).
    Architecture: Szegedy et al. 2015 (arXiv:1512.00567), but average pools do not count the padding, and the
    last block pools by maximum.
    """

    kind = "inception"

    def __init__(self, name: str = "inception_tf"):
        super().__init__()
        self.name, self.dim = name, 2048
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average_pool)
        self.Mixed_7c = _block_e(2048, _max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(match_channels(images, 3), (299, 299), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x)))  # (B, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halve(x))))  # (B, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (B, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight)


class _Conv(nn.Module):
    """Convolution, BatchNorm, ReLU; the attributes' names are the weights file's."""

    def __init__(self, c_in, c_out, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Parallel branches on one input, concatenated by channel.

    branches: dict from the branch's name to its layers (suffix, channels, kernel); a kernel "s2" is a 3x3 of
    stride 2 without padding, all others keep the image's size. A list in place of a layer forks the branch.
    pool: what the last branch pools with; pool_channels: of the convolution after it, None for none.
    """

    def __init__(self, c_in, branches, pool, pool_channels=None):
        super().__init__()
        self.pool, self.chains = pool, []
        for name, layers in branches.items():
            chain, c = [], c_in
            for layer in layers:
                fork = layer if isinstance(layer, list) else [layer]
                chain.append([name + suffix for suffix, _, _ in fork])
                for suffix, c_out, kernel in fork:
                    self.add_module(name + suffix, _same(c, c_out, kernel))
                c = sum(c_out for _, c_out, _ in fork)
            self.chains.append(chain)
        self.branch_pool = _Conv(c_in, pool_channels, 1) if pool_channels else nn.Identity()

    def forward(self, x):
        outputs = []
        for chain in self.chains:
            y = x
            for fork in chain:
                y = torch.cat([getattr(self, name)(y) for name in fork], 1)
            outputs.append(y)
        return torch.cat([*outputs, self.branch_pool(self.pool(x))], 1)


def _same(c_in, c_out, kernel):
    if kernel == "s2":
        return _Conv(c_in, c_out, 3, stride=2)
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return _Conv(c_in, c_out, (height, width), padding=(height // 2, width // 2))


def _average_pool(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x):
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halve(x):
    return F.max_pool2d(x, 3, stride=2)


def _block_a(c_in, pool_channels):
    return _Mixed(c_in, {
        "branch1x1": [("", 64, 1)],
        "branch5x5": [("_1", 48, 1), ("_2", 64, 5)],
        "branch3x3dbl": [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)],
    }, _average_pool, pool_channels)


def _block_b(c_in):
    return _Mixed(c_in, {
        "branch3x3": [("", 384, "s2")],
        "branch3x3dbl": [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, "s2")],
    }, _halve)


def _block_c(c_in, c):
    return _Mixed(c_in, {
        "branch1x1": [("", 192, 1)],
        "branch7x7": [("_1", c, 1), ("_2", c, (1, 7)), ("_3", 192, (7, 1))],
        "branch7x7dbl": [("_1", c, 1), ("_2", c, (7, 1)), ("_3", c, (1, 7)),
                         ("_4", c, (7, 1)), ("_5", 192, (1, 7))],
    }, _average_pool, 192)


def _block_d(c_in):
    return _Mixed(c_in, {
        "branch3x3": [("_1", 192, 1), ("_2", 320, "s2")],
        "branch7x7x3": [("_1", 192, 1), ("_2", 192, (1, 7)), ("_3", 192, (7, 1)), ("_4", 192, "s2")],
    }, _halve)


def _block_e(c_in, pool):
    return _Mixed(c_in, {
        "branch1x1": [("", 320, 1)],
        "branch3x3": [("_1", 384, 1), [("_2a", 384, (1, 3)), ("_2b", 384, (3, 1))]],
        "branch3x3dbl": [("_1", 448, 1), ("_2", 384, 3), [("_3a", 384, (1, 3)), ("_3b", 384, (3, 1))]],
    }, pool, 192)


# --- extractors


KINDS = ("auto", "lenet", "inception", "efficientnet")


def load_extractor(kind: str, dataset: str, device="cpu", data_dir="data", inception_weights=None,
                   download: bool = True, labelled: bool = True) -> nn.Module | None:
    """The frozen feature extractor `kind`, one of KINDS, in eval mode on `device`.

    It has `.kind`, `.name` (for metric keys), `.dim`, and maps images (B, 1 or 3, H, W) in [-1, 1]
    to features (B, dim) and logits (B, classes). A LeNet belongs to a data set;
    `dataset="synthetic"` gives one of fixed random weights, for smoke tests. Draws nothing from the
    global random generators. Raises UserError if the weights are missing or damaged, or a LeNet is
    too inaccurate to be trusted.

    "auto" takes the first that can be had: a LeNet of this data set at hand; one trained at once,
    if the data set is `labelled`; Inception; EfficientNet. Where there is none it says so in a line
    and returns None.
    """
    data_dir = Path(data_dir).expanduser()
    if kind == "auto" and inception_weights is not None:
        kind = "inception"
    if kind == "auto":
        net = _first_at_hand(dataset, data_dir, download, labelled)
    elif kind == "lenet":
        net = _random_lenet() if dataset == "synthetic" else _trained_lenet(dataset, data_dir)
    elif kind == "inception":
        net = _inception(data_dir, inception_weights, download)
    elif kind == "efficientnet":
        net = _efficientnet()
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return None if net is None else net.eval().requires_grad_(False).to(device)


def _first_at_hand(dataset, data_dir, download, labelled):
    """What "auto" finds. A damaged file is an error all the same: it can be deleted, or named."""
    if dataset == "synthetic":
        return _random_lenet()
    missing = []
    try:
        if labelled and _lenet_file(dataset, data_dir) is None:
            return _lenet_trained_now(dataset, data_dir)
        if labelled:
            return _trained_lenet(dataset, data_dir)
        missing.append(f"{dataset} has no class labels to train a LeNet on")
    except lenet.Unfit as e:
        missing.append(str(e))
    if (data_dir / INCEPTION_FILE).is_file():
        return _inception(data_dir, None, download)
    try:
        net = _inception(data_dir, None, download and _answers(INCEPTION_URL))
    except UserError:
        missing.append("Inception's weights can't be downloaded")
        try:
            net = _efficientnet()
        except UserError:
            print(f"warning: no feature extractor: {'; '.join(missing)}. Only what needs none is "
                  f"measured. For FID and its like: {efficientnet.INSTALL}; or --inception-weights "
                  f"FILE, the file from {INCEPTION_URL}", file=sys.stderr)
            return None
    print(f"features are {net.name}'s: {'; '.join(missing)}", file=sys.stderr)
    return net


def _build(make, state_dict=None, path=None):
    """A module without the initialisation, which would draw from the run's random generator."""
    with torch.device("meta"):
        net = make()
    net.to_empty(device="cpu")
    if state_dict is not None:
        try:
            net.load_state_dict(state_dict)
        except (RuntimeError, AttributeError, TypeError) as e:
            raise UserError(f"{path} holds no weights of {type(net).__name__}. "
                            "Delete it or name another file") from e
    return net


def _random_lenet():
    net = _build(lambda: LeNet(name="lenet_random"))
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _lenet_file(dataset, data_dir):
    """A data set's LeNet: the shipped weights, else those in the data directory, else None."""
    shipped = Path(__file__).parent / "weights" / f"lenet_{dataset}.pt"
    places = [shipped, lenet.weights_file(dataset, data_dir)]
    return next((place for place in places if place.is_file()), None)


def _trained_lenet(dataset, data_dir):
    train_it = f"python -m {__package__}.lenet --dataset {dataset} --data-dir {data_dir}"
    path = _lenet_file(dataset, data_dir)
    if path is None:
        path = lenet.weights_file(dataset, data_dir)
        raise UserError(f"no LeNet weights for {dataset}: looked for {path}. Train it with: {train_it}")
    saved = _load(path)
    try:
        state_dict, meta = saved["state_dict"], saved["meta"]
        shipped = path.parent == Path(__file__).parent / "weights"
        name = "lenet" if shipped else f"lenet_{_sha256(path)[:8]}"  # two networks, two keys
        shape = {key: meta[key] for key in ("channels", "size", "classes")} | {"name": name}
        accuracy = meta["accuracy"]
    except (KeyError, TypeError) as e:
        raise UserError(f"{path} is not a weights file of this LeNet. Delete it. "
                        f"Train it with: {train_it}") from e
    lenet.check_accuracy(accuracy, meta["classes"], f"the LeNet in {path}",
                         f"Train it longer: {train_it} --epochs {2 * meta.get('epochs', 7)}")
    return _build(lambda: LeNet(**shape), state_dict, path)


def _lenet_trained_now(dataset, data_dir):
    """A LeNet of a labelled data set that has none, kept in the data directory if it can be."""
    path = lenet.weights_file(dataset, data_dir)
    net, meta = lenet.fit(dataset, data_dir, why=f"there is no {path} yet: ")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomic({"state_dict": net.state_dict(), "meta": meta}, path)
    except (OSError, UserError) as e:
        print(f"warning: the LeNet of {dataset} can't be kept ({_cause(e)}) "
              "and is trained anew each time", file=sys.stderr)
        lenet.check_accuracy(meta["accuracy"], meta["classes"], f"the LeNet of {dataset}")
        weights = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        net.name = f"lenet_{hashlib.sha256(weights).hexdigest()[:8]}"
        return net
    return _trained_lenet(dataset, data_dir)


def _efficientnet():
    state_dict, path = efficientnet.load_weights()
    return _build(efficientnet.EfficientNetLite0, state_dict, path)


def _cause(error):
    return getattr(error, "strerror", None) or str(error)


def _inception(data_dir, weights, download):
    name = "inception_tf"
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"--inception-weights {path}: no such file. It can be had from {INCEPTION_URL}")
        digest = _sha256(path)
        if digest != INCEPTION_SHA256:
            name = f"inception_{digest[:8]}"
            warnings.warn(f"{path} is not the FID weights file ({INCEPTION_FILE}): its numbers compare with "
                          f"no published FID, and their keys say {name}", stacklevel=3)
    else:
        path = data_dir / INCEPTION_FILE
        if not path.is_file():
            _download_inception(path, download)
        elif _sha256(path) != INCEPTION_SHA256:
            raise UserError(f"{path} is damaged (its sha256 is not {INCEPTION_SHA256[:8]}…). Delete it, then "
                            f"run again or put the file from {INCEPTION_URL} there")
    return _build(lambda: InceptionTF(name), _load(path), path)


def _answers(url, seconds=5):
    """Whether a server can be reached in so many seconds, even if its name's look-up hangs."""
    if urllib.request.getproxies():          # the way there isn't a direct one
        return True
    connected = []

    def connect():
        with contextlib.suppress(OSError):
            host = urllib.parse.urlsplit(url).hostname
            socket.create_connection((host, 443), timeout=seconds).close()
            connected.append(host)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(connected)


def _download_inception(path, download, timeout=10):
    """Fetch the weights to a temporary file, check, rename. Without a network it fails within seconds."""
    by_hand = (f"Download {INCEPTION_URL} by hand and put it at {path}, or name it with "
               "--inception-weights FILE; --extractor auto goes on without it")
    if not download:
        raise UserError(f"no Inception weights at {path}. {by_hand}")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(INCEPTION_URL, timeout=timeout) as response, temporary.open("wb") as file:
            while chunk := response.read(1 << 20):
                file.write(chunk)
        if _sha256(temporary) != INCEPTION_SHA256:
            raise ValueError("what came is not the file (its sha256 differs)")
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise UserError(f"the Inception weights could not be downloaded ({e}). {by_hand}") from e
    finally:
        temporary.unlink(missing_ok=True)


def _load(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load has no common error class for damaged files
        raise UserError(f"{path} cannot be read as weights ({type(e).__name__}): it is damaged or foreign. "
                        "Delete it or name another file") from e


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- images -> features


@torch.no_grad()
def collect(extractor: nn.Module, batches: Iterable[Tensor], n: int | None = None,
            amp: bool = False) -> tuple[Tensor, Tensor]:
    """Features (N, dim) and logits (N, classes), float32 on the CPU, of image batches in [-1, 1].

    Images are read as they come, quantised and dropped, so `batches` may be a generator of 50,000
    samples. Takes the first `n` images and asks for no batch beyond them; ValueError if there are
    fewer. amp: bfloat16 autocast.
    """
    extractor.eval()
    device = next(extractor.parameters()).device
    features, logits, count = [], [], 0
    for images in batches:
        images = quantise(images[: None if n is None else n - count].to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            f, l = extractor(images)
        features.append(f.float().cpu())
        logits.append(l.float().cpu())
        count += len(images)
        if n is not None and count >= n:
            break
    if count == 0 or (n is not None and count < n):
        raise ValueError(f"{'some' if n is None else n} images are needed, but the batches held {count}")
    return torch.cat(features), torch.cat(logits)


def real_features(extractor: nn.Module, image_set, n: int | None = None, seed: int = 0, batch_size: int = 256,
                  device="cpu", cache_dir=None) -> tuple[Tensor, Tensor]:
    """Features (N, dim) and logits of `n` random images of `image_set` (all, in order, if None or too many).

    image_set: has `len`, .name .split .size .channels, images_at(index, device) -> (B, C, H, W) in
    [-1, 1] and fingerprint() -> str, which sees every image. Take it at the model's own resolution,
    or the distance also measures the resizing. With cache_dir the result is kept there, if that can
    be written; the file's name holds everything it depends on, and a damaged file is computed
    again.
    """
    total = len(image_set)
    n = total if n is None else min(n, total)
    index = torch.arange(total)
    if n < total:
        index = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n]
    path = None
    if cache_dir is not None:
        path = Path(cache_dir).expanduser() / _cache_name(extractor, image_set, n, seed)
        if (saved := _read_cache(path, n)) is not None:
            return saved
    features, logits = collect(extractor, (image_set.images_at(i, device) for i in index.split(batch_size)))
    if path is not None:
        _write_cache({"features": features, "logits": logits}, path)
    return features, logits


def _write_cache(value, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomic(value, path)
    except (OSError, UserError) as e:
        _warn_once(f"features of real images can't be kept in {path.parent} ({_cause(e)}) "
                   "and are computed each time")


@functools.cache
def _warn_once(line):
    print(f"warning: {line}", file=sys.stderr)


def _cache_name(extractor, image_set, n, seed):
    weights = hashlib.sha256()
    for key, value in sorted(extractor.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            weights.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    shape = f"{image_set.channels}x{image_set.size}-8bit"
    name = (f"{extractor.name}-{weights.hexdigest()[:10]}_{image_set.name}-{image_set.split}-"
            f"{shape}-{image_set.fingerprint()[:16]}_n{n}_seed{seed}.pt")
    return re.sub(r"[^\w.-]", "-", name)


def _read_cache(path, n):
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if len(saved["features"]) == len(saved["logits"]) == n:
            return saved["features"], saved["logits"]
        cause = "it holds another number of samples"
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as e:
        cause = type(e).__name__
    warnings.warn(f"{path} is damaged ({cause}); its features are computed again", stacklevel=3)
    return None


# --- all scores


def image_metrics(real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], extractor_name: str, split: str,
                  kid_subsets: int = 100, seed: int = 0, max_neighbours: int = 10_000) -> dict[str, float]:
    """All scores of `fake` against `real`, each a (features, logits) pair of `collect` or `real_features`.

    Keys name extractor, number of fakes and the reals' split: {"fid_lenet_10k_test": 1.5, "is_lenet_10k": …}.
    Precision and recall compare all pairs, so they use a random `max_neighbours` of either set at most.
    """
    (real_f, _), (fake_f, fake_logits) = real, fake
    if min(len(real_f), len(fake_f)) < 4:
        raise UserError(f"{len(fake_f)} samples, {len(real_f)} real images: precision and recall look at three "
                        "neighbours of each. Give --n 4 or more")
    generator = torch.Generator().manual_seed(seed)
    near = [f[torch.randperm(len(f), generator=generator)[:max_neighbours]] for f in (real_f, fake_f)]
    precision, recall = precision_recall(*near)
    kid, kid_std = kernel_inception_distance(real_f, fake_f, subsets=kid_subsets, seed=seed)
    tag, near_tag = (f"{extractor_name}_{count_tag(len(f))}" for f in (fake_f, near[1]))
    return {
        f"fid_{tag}_{split}": frechet_distance(*moments(real_f), *moments(fake_f)),
        f"kid_{tag}_{split}": kid,
        f"kid_std_{tag}_{split}": kid_std,
        f"is_{tag}": inception_score(fake_logits)[0],
        f"precision_{near_tag}_{split}": precision,
        f"recall_{near_tag}_{split}": recall,
    }


class Tracker:
    """FID and Inception score of a generator in training; the real images are measured once.

    kind, dataset, data_dir: see load_extractor. image_set: see real_features; its split is named in
    the keys. Where "auto" finds no extractor nothing is measured.
    """

    def __init__(self, image_set, dataset: str, device="cpu", data_dir="data", kind: str = "lenet"):
        self.split = image_set.split
        if len(image_set) < 2:
            raise UserError(f"{dataset} has {len(image_set)} {self.split} image, and FID needs two. "
                            "Give --fid-samples 0")
        self.extractor = load_extractor(kind, dataset, device, data_dir,
                                        labelled=image_set.labels is not None)
        if self.extractor is not None:
            features, _ = real_features(self.extractor, image_set, device=device,
                                        cache_dir=Path(data_dir) / "cache")
            self.real = moments(features)

    def __call__(self, batches: Iterable[Tensor], n: int) -> dict[str, float]:
        """Scores of the first n images of batches in [-1, 1]: {"fid_lenet_5k_test": …, "is_lenet_5k": …}."""
        if self.extractor is None:
            return {}
        features, logits = collect(self.extractor, batches, n)
        tag = f"{self.extractor.name}_{count_tag(n)}"
        return {f"fid_{tag}_{self.split}": frechet_distance(*self.real, *moments(features)),
                f"is_{tag}": inception_score(logits)[0]}
