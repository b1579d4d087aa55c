"""Scores of generated images: FID, KID, Inception score, precision, recall, class coverage.

A number means nothing without its feature extractor, sample count and split, so every key of
`image_metrics` names the three: `fid_lenet_10k_test`. The extractors are in extractors.py, the
distances in distances.py.

Images are scored as 8-bit ones (`quantise`), generated and real ones alike, as in the field: the
scores of exported PNGs are those that eval prints.

    extractor = load_extractor("lenet", "fashion-mnist", device)
    real = real_features(extractor, test_set, device=device, cache_dir="data/features")
    fake = collect(extractor, batches_of_samples, n=10_000)
    image_metrics(real, fake, extractor.name, "test")
"""

import functools
import hashlib
import pickle
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..runs import save_atomic
from . import count_tag
from .distances import (
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    moments,
    precision_recall,
)
from .extractors import cause, load_extractor


# --- 8-bit images


def grey_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> whole numbers from 0 to 255, float32, as in a PNG. NaN stays NaN."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255)


def quantise(images: Tensor) -> Tensor:
    """Images in [-1, 1] as they are after they were written to 8-bit files and read back."""
    return grey_levels(images) / 127.5 - 1


# --- images -> features


@torch.no_grad()
def collect(
    extractor: nn.Module, batches: Iterable[Tensor], n: int | None = None
) -> tuple[Tensor, Tensor]:
    """Features (N, dim) and logits (N, classes), float32 on the CPU, of image batches in [-1, 1].

    Images are read as they come, quantised and dropped, so `batches` may be a generator of 50,000
    samples. Takes the first `n` images and asks for no batch beyond them; ValueError if there are
    fewer.
    """
    extractor.eval()
    device = next(extractor.parameters()).device
    features, logits, count = [], [], 0
    for images in batches:
        if n is not None:
            images = images[: n - count]
        f, l = extractor(quantise(images.to(device)))
        features.append(f.float().cpu())
        logits.append(l.float().cpu())
        count += len(images)
        if n is not None and count >= n:
            break
    if count == 0 or (n is not None and count < n):
        raise ValueError(
            f"{'some' if n is None else n} images are needed, but the batches held {count}"
        )
    return torch.cat(features), torch.cat(logits)


def real_features(
    extractor: nn.Module,
    image_set,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device="cpu",
    cache_dir=None,
) -> tuple[Tensor, Tensor]:
    """Features (N, dim) and logits of `n` random images of `image_set`, of all in order if None.

    image_set: has `len`, .name .split .size .channels, images_at(index, device) -> (B, C, H, W) in
    [-1, 1] and fingerprint() -> str, which sees every image. Take it at the model's own resolution,
    or the distance also measures the resizing. All are taken if it has fewer than n. With cache_dir
    the result is kept there, if that can be written; the file's name holds everything it depends
    on, and a damaged file is computed again.
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
    features, logits = collect(
        extractor, (image_set.images_at(i, device) for i in index.split(batch_size))
    )
    if path is not None:
        _write_cache({"features": features, "logits": logits}, path)
    return features, logits


def _write_cache(value, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomic(value, path, shared=True)
    except (OSError, UserError) as e:
        _warn_once(
            f"features of real images can't be kept in {path.parent} ({cause(e)}) "
            "and are computed each time"
        )


@functools.cache
def _warn_once(line):
    print(f"warning: {line}", file=sys.stderr)


def _cache_name(extractor, image_set, n, seed):
    weights = hashlib.sha256()
    for key, value in sorted(extractor.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            weights.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    shape = f"{image_set.channels}x{image_set.size}-8bit"
    name = (
        f"{extractor.name}-{weights.hexdigest()[:10]}_{image_set.name}-{image_set.split}-"
        f"{shape}-{image_set.fingerprint()[:16]}_n{n}_seed{seed}.pt"
    )
    return re.sub(r"[^\w.-]", "-", name)


def _read_cache(path, n):
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if len(saved["features"]) == len(saved["logits"]) == n:
            return saved["features"], saved["logits"]
        why = "it holds another number of samples"
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
    ) as e:
        why = type(e).__name__
    warnings.warn(f"{path} is damaged ({why}); its features are computed again", stacklevel=3)
    return None


# --- all scores


def image_metrics(
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor, Tensor],
    extractor_name: str,
    split: str,
    kid_subsets: int = 100,
    seed: int = 0,
    max_neighbours: int = 10_000,
) -> dict[str, float]:
    """All scores of `fake` against `real`, each a pair (features, logits).

    Keys name extractor, number of fakes and the reals' split: {"fid_lenet_10k_test": 1.5,
    "is_lenet_10k": …}. Precision and recall compare all pairs, so they use a random
    `max_neighbours` of either set at most. Without logits, (N, 0), there is no Inception score.
    UserError for fewer than four of either.
    """
    (real_f, _), (fake_f, fake_logits) = real, fake
    if min(len(real_f), len(fake_f)) < 4:
        raise UserError(
            f"{len(fake_f)} samples, {len(real_f)} real images: precision and recall look at three "
            "neighbours of each, so four of both are needed: --n 4 or more, and as many real images"
        )
    generator = torch.Generator().manual_seed(seed)
    near = [
        f[torch.randperm(len(f), generator=generator)[:max_neighbours]] for f in (real_f, fake_f)
    ]
    precision, recall = precision_recall(*near)
    kid, kid_std = kernel_inception_distance(real_f, fake_f, subsets=kid_subsets, seed=seed)
    tag, near_tag = (f"{extractor_name}_{count_tag(len(f))}" for f in (fake_f, near[1]))
    scores = {
        f"fid_{tag}_{split}": frechet_distance(*moments(real_f), *moments(fake_f)),
        f"kid_{tag}_{split}": kid,
        f"kid_std_{tag}_{split}": kid_std,
    }
    if fake_logits.shape[1] > 0:
        scores[f"is_{tag}"] = inception_score(fake_logits)[0]
    scores[f"precision_{near_tag}_{split}"] = precision
    scores[f"recall_{near_tag}_{split}"] = recall
    return scores


class Tracker:
    """FID and Inception score of a generator in training; the real images are measured once.

    kind, dataset, data_dir: see load_extractor. image_set: see real_features; its split is named in
    the keys. Where "auto" finds no extractor nothing is measured.
    """

    def __init__(self, image_set, dataset: str, device="cpu", data_dir="data", kind: str = "lenet"):
        self.split = image_set.split
        if len(image_set) < 2:
            raise UserError(
                f"{dataset} has {len(image_set)} {self.split} image, and FID needs two. "
                "Give --fid-samples 0"
            )
        self.extractor = load_extractor(
            kind, dataset, device, data_dir, labelled=image_set.labels is not None
        )
        if self.extractor is not None:
            features, _ = real_features(
                self.extractor, image_set, device=device, cache_dir=Path(data_dir) / "cache"
            )
            self.real = moments(features)

    def __call__(self, batches: Iterable[Tensor], n: int) -> dict[str, float]:
        """Scores of the first n images of batches in [-1, 1]: {"fid_lenet_5k_test": …, …}."""
        if self.extractor is None:
            return {}
        features, logits = collect(self.extractor, batches, n)
        tag = f"{self.extractor.name}_{count_tag(n)}"
        return {
            f"fid_{tag}_{self.split}": frechet_distance(*self.real, *moments(features)),
            f"is_{tag}": inception_score(logits)[0],
        }
