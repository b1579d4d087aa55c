"""A small classifier whose penultimate layer is the feature space for Fréchet distances offline.

Inception's weights cannot be had without a network, and are far from 28 x 28 grey images. A
LeNet-type classifier of the data set itself gives a usable scale instead. Its numbers compare only
with numbers of the same weights: `common/metrics/weights/lenet_fashion-mnist.pt` is shipped for
that reason, and was made by

    python -m common.metrics.lenet --dataset fashion-mnist --data-dir data --out FILE

(about two minutes on one CPU core; the test accuracy is printed, and stored in the file).

A classifier that has learnt nothing gives small distances to anything. So a LeNet is refused as an
extractor unless its accuracy on images that it was not trained on, averaged over classes, lies at
least half way between guessing and perfect (`least_accuracy`).
"""

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import arguments
from ..arguments import FilePath
from ..cli import run_main
from ..errors import UserError
from ..runs import save_atomic

FOLDER_SIZE = 32  # image side of a folder's LeNet: a folder has no size of its own
FEWEST = 64  # training images
FEWEST_STEPS = 10  # of which a schedule can rise and fall


class Unfit(UserError):
    """No LeNet of this data set can be trusted: no labels, few images, or a low accuracy."""


class LeNet(nn.Module):
    """LeCun et al. 1998 with BatchNorm and ReLU: three pooled convolutions, 64 features, classes.

    channels, size: of the images it was trained on; others are averaged / repeated and resized to
    these. `forward` takes images (B, C, H, W) in [-1, 1] and returns features (B, 64) >= 0 (after
    the ReLU) and logits (B, classes).
    """

    kind = "lenet"

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10, name: str = "lenet"):
        super().__init__()
        self.channels, self.size, self.classes = channels, size, classes
        self.name, self.dim = name, 64
        self.conv1 = nn.Conv2d(channels, 8, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 24, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 96, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(96)
        self.features = nn.Linear(96 * (size // 8) ** 2, self.dim)
        self.classify = nn.Linear(self.dim, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = match_channels(images, self.channels)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
            )
        x = F.relu(self.bn1(F.max_pool2d(self.conv1(x), 2)))  # (B, 8, size/2, size/2)
        x = F.relu(self.bn2(F.max_pool2d(self.conv2(x), 2)))  # (B, 24, size/4, size/4)
        x = F.relu(self.bn3(F.max_pool2d(self.conv3(x), 2)))  # (B, 96, size/8, size/8)
        features = F.relu(self.features(x.flatten(1)))  # (B, 64)
        return features, self.classify(features)


def match_channels(images: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) -> (B, channels, H, W): colour is averaged to grey, grey repeated to colour."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images of 1 or 3 channels, shape (B, C, H, W), are needed, not {tuple(images.shape)}"
        )
    if images.shape[1] == channels:
        return images
    return images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)


def shifted(images: Tensor, generator: torch.Generator, most: int = 1) -> Tensor:
    """Each image moved by up to `most` pixels both ways; background (-1) enters at the border."""
    batch, _, height, width = images.shape
    # (B, H)
    rows = torch.arange(height) + torch.randint(2 * most + 1, (batch, 1), generator=generator)
    # (B, W)
    columns = torch.arange(width) + torch.randint(2 * most + 1, (batch, 1), generator=generator)
    padded = F.pad(images, (most,) * 4, value=-1.0).permute(0, 2, 3, 1)
    sample = torch.arange(batch)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(
    net: nn.Module, image_set, places: Tensor | None = None, batch_size: int = 1000
) -> float:
    """The share of a class that `net` labels right, in eval mode, averaged over the classes.

    Of the images at `places` (none: all). So a net that takes all for the commonest class has
    1/classes, as one that guesses.
    """
    net.eval()
    places = torch.arange(len(image_set.labels)) if places is None else places
    right = torch.zeros(len(places))
    for done, index in zip(right.split(batch_size), places.split(batch_size)):
        _, logits = net(image_set.images_at(index, "cpu"))
        done.copy_(logits.argmax(1) == image_set.labels[index])
    labels = image_set.labels[places]
    return sum(right[labels == c].mean().item() for c in labels.unique()) / len(labels.unique())


def least_accuracy(classes: int) -> float:
    """What an extractor needs: half way between guessing, 1/classes, and perfect, 1."""
    return (1 + 1 / classes) / 2


def check_accuracy(value: float, classes: int, what: str, advice: str = "") -> None:
    """Raise Unfit where a LeNet of this accuracy can't be trusted."""
    needed = least_accuracy(classes)
    if not value >= needed:
        line = f"{what} has accuracy {value:.2f}, and an extractor of {classes} classes needs "
        line += f"{needed:.2f}"
        raise Unfit(f"{line}. {advice}" if advice else line)


def train(
    image_set, epochs: int, batch_size: int, lr: float, seed: int, places: Tensor | None = None
) -> LeNet:
    """AdamW under a one-cycle schedule, on the images at `places` (none: all).

    Deterministic on one machine for one seed. Draws nothing from the global random generators.
    """
    places = torch.arange(len(image_set)) if places is None else places
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LeNet(image_set.channels, image_set.size, classes=int(image_set.labels.max()) + 1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    steps = len(places) // batch_size
    done = 0
    start = time.time()
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, lr, total_steps=epochs * steps, pct_start=0.2
    )
    net.train()
    for _ in range(epochs):
        order = places[torch.randperm(len(places), generator=generator)[: steps * batch_size]]
        for index in order.split(batch_size):
            images = shifted(image_set.images_at(index, "cpu"), generator)
            loss = F.cross_entropy(net(images)[1], image_set.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
            if done == 20:
                left = (epochs * steps - done) * (time.time() - start) / done
                print(f"LeNet: about {left:.0f} s to go", file=sys.stderr, flush=True)
    return net.eval()


def default_plan(count: int) -> tuple[int, int]:
    """(epochs, batch size) for so many training images: about two minutes of one CPU core."""
    if count >= 5120:
        return min(max(420_000 // count, 1), 40), 128
    return min(100_000 // count, 60), 32


def fit(
    dataset: str, data_dir, size=None, epochs=None, batch_size=None, lr=6e-3, seed=0, why=""
) -> tuple[LeNet, dict]:
    """A LeNet trained on the train split of a labelled data set, and its weights file's meta.

    Its accuracy is measured on the test split; where that has the training images, on a fifth of
    them that is left out. why: how the line begins that announces it. Raises Unfit without labels,
    and for too few images.
    """
    from ..data import load_images

    size = size or (FOLDER_SIZE if dataset == "folder" else None)
    options = dict(size=size, skip_bad=True)  # a run without --skip-bad stopped before
    train_set = load_images(dataset, data_dir, "train", **options)
    if train_set.labels is None or train_set.labels.max() < 1:
        raise Unfit(f"{dataset} has no class labels to train a LeNet on")
    test_set = load_images(dataset, data_dir, "test", channels=train_set.channels, **options)
    if test_set.labels is None:
        raise Unfit(f"the test images of {dataset} have no class labels to check a LeNet by")
    places, held_out = torch.arange(len(train_set)), torch.arange(len(test_set))
    if train_set.fingerprint() == test_set.fingerprint():
        shuffled = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(seed))
        places, held_out = shuffled[len(shuffled) // 5 :], shuffled[: len(shuffled) // 5]
    if len(test_set.labels[held_out].unique()) < 2:
        raise Unfit(f"the test images of {dataset} to check a LeNet by are all of one class")
    if len(places) < FEWEST:
        raise Unfit(f"{dataset} has {len(places)} images to train a LeNet on, fewer than {FEWEST}")
    planned = default_plan(len(places))
    epochs, batch_size = epochs or planned[0], batch_size or planned[1]
    if len(places) < batch_size:
        raise UserError(
            f"{dataset} has {len(places)} training images, fewer than --batch-size {batch_size}; "
            "give a smaller --batch-size"
        )
    steps = epochs * (len(places) // batch_size)
    if steps < FEWEST_STEPS:
        raise UserError(
            f"{epochs} epochs of {dataset} are {steps} steps, and the learning rate's "
            f"schedule needs {FEWEST_STEPS}; give more --epochs"
        )

    print(
        f"{why}training a LeNet on {len(places):,} images of {dataset}, {epochs} epochs",
        file=sys.stderr,
        flush=True,
    )
    start = time.time()
    net = train(train_set, epochs, batch_size, lr, seed, places)
    found = accuracy(net, test_set, held_out)
    parameters = sum(p.numel() for p in net.parameters())
    print(
        f"LeNet of {dataset}: test accuracy {found:.4f}, {parameters} parameters, "
        f"{time.time() - start:.0f} s",
        file=sys.stderr,
    )
    return net, {
        "dataset": dataset,
        "channels": net.channels,
        "size": net.size,
        "classes": net.classes,
        "accuracy": found,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "torch": str(torch.__version__),
    }


def weights_file(dataset: str, data_dir) -> Path:
    """Where the LeNet of a data set is kept: DATA_DIR/lenet_<dataset>.pt.

    Any folder of images is called "folder", so the name then has a part of a hash of its files'
    names, sizes and times too: other images need another LeNet.
    """
    data_dir = Path(data_dir).expanduser()
    if dataset != "folder":
        return data_dir / f"lenet_{dataset}.pt"
    from ..folders import list_images

    key = hashlib.sha256()
    for path in list_images(data_dir):
        status = path.lstat()
        name = os.fsencode(path.relative_to(data_dir))
        key.update(name + f" {status.st_size} {status.st_mtime_ns}\0".encode())
    return data_dir / f"lenet_folder-{key.hexdigest()[:12]}.pt"


@dataclass
class Args:
    # --- LeNet
    dataset: str = "fashion-mnist"  # a labelled data set of common/data.py
    data_dir: FilePath = "data"  # where it is looked for and put
    size: int | None = None  # of the images, in [8, 1024]; none: the set's own, a folder's 32
    out: FilePath | None = None  # weights file; none: DATA_DIR/lenet_DATASET.pt
    epochs: int | None = None  # none: about 420,000 images in all, 7 epochs of MNIST's 60,000
    # in [2, ∞), which BatchNorm needs; none: 128, for fewer than 5,120 images 32
    batch_size: int | None = None
    lr: float = 6e-3  # the highest of the schedule
    seed: int = 0  # of initial weights, order and shifts; in [0, 2^63)


def main(argv=None):
    args = arguments.parse_args(Args, __doc__.split("\n")[0], argv)
    out = Path(args.out or weights_file(args.dataset, args.data_dir))
    net, meta = fit(
        args.dataset, args.data_dir, args.size, args.epochs, args.batch_size, args.lr, args.seed
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_atomic({"state_dict": net.state_dict(), "meta": meta}, out, shared=True)
    print(f"wrote {out}: test accuracy {meta['accuracy']:.4f}")
    try:
        check_accuracy(
            meta["accuracy"],
            meta["classes"],
            "this LeNet",
            f"Train it longer, with --epochs {2 * meta['epochs']}",
        )
    except Unfit as e:
        print(f"warning: {e}", file=sys.stderr)
    return meta


if __name__ == "__main__":
    run_main(main)
