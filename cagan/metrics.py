"""Scores of a class-conditional generator, its samples, and the curves of a run.

The scores are FID in two forms, and whether samples show what was asked for.
"""

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from common.device import autocast
from common.errors import UserError
from common.metrics import count_tag
from common.metrics.distances import class_histogram, frechet_distance, moments
from common.metrics.extractors import load_extractor
from common.metrics.images import collect, real_features
from common.plots import curves
from common.runs import read_log


def refuse_unlabelled(image_set, remedy):
    """UserError where ConditionalScores has nothing to measure by. remedy: besides labels."""
    if image_set.labels is None:
        raise UserError(
            f"the {image_set.split} images of {image_set.name} have no classes, and scores are "
            f"by class: put them into the classes' folders, or {remedy}"
        )


class ConditionalScores:
    """Measures generated images against the labelled `image_set`, whose features are taken once.

    extractor: of common.metrics.extractors.load_extractor; none: the LeNet of the data set.
    """

    def __init__(self, image_set, device, data_dir, extractor=None):
        self.split = image_set.split
        self.extractor = extractor or load_extractor("lenet", image_set.name, device, data_dir)
        self.real = real_features(
            self.extractor, image_set, device=device, cache_dir=Path(data_dir) / "cache"
        )
        self.moments = moments(self.real[0])
        classes = max(len(image_set.classes), int(image_set.labels.max()) + 1)
        counts = [int((image_set.labels == c).sum()) for c in range(classes)]
        self.class_moments = [
            moments(self.real[0][image_set.labels == c]) if count > 1 else None
            for c, count in enumerate(counts)
        ]
        names = image_set.classes or [str(c) for c in range(classes)]
        if few := [name for name, count in zip(names, counts) if count < 2]:
            print(
                f"warning: fid_per_class leaves out {', '.join(few)}: it needs two "
                f"{self.split} images of a class",
                file=sys.stderr,
            )
        if max(counts) > 2 * min(counts):
            print(
                f"warning: fid compares equal shares of all classes with {self.split} images of "
                f"which {names[counts.index(min(counts))]} has {min(counts):,} and "
                f"{names[counts.index(max(counts))]} {max(counts):,}, so it measures this, too; "
                "fid_per_class does not",
                file=sys.stderr,
            )

    def collect(self, batches, n):
        """(features, logits) of n images."""
        return collect(self.extractor, batches, n)

    def __call__(self, features, logits, asked):
        """asked (n,): the class that each image should show. Keys name extractor, count and split.

        fid: of all images (asked in equal shares) against all real ones. fid_per_class: the mean
        over classes of the Fréchet distance between the images of one class, the paper's form: it
        also sees when a class is not what was asked for, and has more bias. conditional_accuracy:
        the share that the classifier (lenet) sees as asked.
        """
        tag = f"{self.extractor.name}_{count_tag(len(features))}"
        scores = {f"fid_{tag}_{self.split}": frechet_distance(*self.moments, *moments(features))}
        per_class = [
            frechet_distance(*real, *moments(features[asked == c]))
            for c, real in enumerate(self.class_moments)
            if real is not None
        ]
        if per_class:
            scores[f"fid_per_class_{tag}_{self.split}"] = sum(per_class) / len(per_class)
        if self.extractor.kind == "lenet":
            scores[f"conditional_accuracy_{tag}"] = (
                (logits.argmax(1) == asked).double().mean().item()
            )
        return scores

    def details(self, logits, asked):
        """Lists: accuracy per class, the classes' histogram, counts (row: asked, column: seen)."""
        S = len(self.class_moments)
        tag = f"{self.extractor.name}_{count_tag(len(logits))}"
        confusion = torch.bincount(asked * S + logits[:, :S].argmax(1), minlength=S * S).view(S, S)
        return {
            f"conditional_accuracies_{tag}": (confusion.diag() / confusion.sum(1)).tolist(),
            f"confusion_{tag}": confusion.tolist(),
            **{f"class_{key}_{tag}": value for key, value in class_histogram(logits).items()},
        }


# --- samples of a run


@torch.no_grad()
def sample(G, cnd, args, device, seed=0, batch_size=250):
    """Yield images (B, C, H, W) asked to have the conditions in the rows of cnd (n, S)."""
    rng = torch.Generator().manual_seed(seed)
    for part in cnd.split(batch_size):
        z = torch.randn(len(part), args.z_dim, generator=rng)
        with autocast(device, args.amp):
            images = G(z.to(device), part.to(device))
        yield images.float()


def score(scores, G, n, args, device, check=iter):
    """The ConditionalScores of n samples, the classes asked for in turn.

    check: passes the batches of samples on, and may stop the run.
    """
    classes = len(scores.class_moments)
    asked = torch.arange(n) % classes
    batches = sample(G, F.one_hot(asked, classes).float(), args, device)
    features, logits = scores.collect(check(batches), n)
    return scores(features, logits, asked)


def draw_curves(folder):
    """curves.png of the run in a directory: losses, D's outputs, and each score in its log."""
    log = read_log(folder / "log.jsonl")
    keys = {key for line in log for key in line if key.startswith(("fid", "conditional"))}
    panels = [["L_d", "L_g"], ["D_real", "D_fake"], *([key] for key in sorted(keys))]
    curves(log, panels, folder / "curves.png")
