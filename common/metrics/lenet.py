"""A small classifier whose penultimate layer is the feature space for Fréchet distances offline.

Inception's weights cannot be had without a network, and are far from 28 x 28 grey images. A LeNet-type
classifier of the data set itself gives a usable scale instead. Its numbers compare only with numbers of the
same weights: `common/metrics/weights/lenet_fashion-mnist.pt` is shipped for that reason, and was made by

    python -m common.metrics.lenet --dataset fashion-mnist --data-dir data --out FILE

(about two minutes on one CPU core; the test accuracy is printed, and stored in the file).
"""

import argparse
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cli import run_main
from ..errors import UserError


class LeNet(nn.Module):
    """Three convolutions, each pooled by 2, - 64 features - classes: LeCun et al. 1998, with BatchNorm, ReLU.

    channels, size: of the images it was trained on; others are averaged / repeated and resized to these.
    `forward` takes images (B, C, H, W) in [-1, 1] and returns features (B, 64) >= 0 (after the ReLU) and
    logits (B, classes).
    """

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
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        x = F.relu(self.bn1(F.max_pool2d(self.conv1(x), 2)))  # (B, 8, size/2, size/2)
        x = F.relu(self.bn2(F.max_pool2d(self.conv2(x), 2)))  # (B, 24, size/4, size/4)
        x = F.relu(self.bn3(F.max_pool2d(self.conv3(x), 2)))  # (B, 96, size/8, size/8)
        features = F.relu(self.features(x.flatten(1)))  # (B, 64)
        return features, self.classify(features)


def match_channels(images: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) -> (B, channels, H, W): colour is averaged to grey, grey is repeated to colour."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images of 1 or 3 channels, shape (B, C, H, W), are needed, "
                         f"not {tuple(images.shape)}")
    if images.shape[1] == channels:
        return images
    return images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)


def shifted(images: Tensor, generator: torch.Generator, most: int = 1) -> Tensor:
    """Each image moved by up to `most` pixels in both directions; background (-1) enters at the border."""
    batch, _, height, width = images.shape
    rows = torch.arange(height) + torch.randint(2 * most + 1, (batch, 1), generator=generator)  # (B, H)
    columns = torch.arange(width) + torch.randint(2 * most + 1, (batch, 1), generator=generator)  # (B, W)
    padded = F.pad(images, (most,) * 4, value=-1.0).permute(0, 2, 3, 1)
    sample = torch.arange(batch)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(net: nn.Module, image_set, batch_size: int = 1000) -> float:
    """Share of `image_set` that `net` labels right, in eval mode."""
    net.eval()
    right = 0
    for index in torch.arange(len(image_set.labels)).split(batch_size):
        right += (net(image_set.images_at(index, "cpu"))[1].argmax(1) == image_set.labels[index]).sum().item()
    return right / len(image_set.labels)


def train(image_set, epochs: int, batch_size: int, lr: float, seed: int) -> LeNet:
    """AdamW under a one-cycle schedule; deterministic on one machine for one seed."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    count = len(image_set)
    net = LeNet(image_set.channels, image_set.size, classes=int(image_set.labels.max()) + 1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    steps = count // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        net.train()
        total, start = 0.0, time.time()
        for index in torch.randperm(count, generator=generator)[: steps * batch_size].split(batch_size):
            images = shifted(image_set.images_at(index, "cpu"), generator)
            loss = F.cross_entropy(net(images)[1], image_set.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        seconds = time.time() - start
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  {seconds:.1f} s", flush=True)
    return net.eval()


def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--dataset", default="fashion-mnist", help="a labelled data set of common/data.py")
    p.add_argument("--data-dir", default="data")
    p.add_argument("--size", type=int, default=None, help="of the images; without it the data set's own")
    p.add_argument("--out", default=None, help="weights file; without it DATA_DIR/lenet_DATASET.pt")
    p.add_argument("--epochs", type=int, default=7)
    p.add_argument("--batch-size", type=int, default=128)
    p.add_argument("--lr", type=float, default=6e-3)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args(argv)


def main(argv=None):
    from ..data import load_images

    args = parse_args(argv)
    out = Path(args.out or Path(args.data_dir) / f"lenet_{args.dataset}.pt")
    train_set = load_images(args.dataset, args.data_dir, split="train", size=args.size)
    test_set = load_images(args.dataset, args.data_dir, split="test", size=args.size)
    if train_set.labels is None or train_set.labels.min() < 0 or train_set.labels.max() < 1:
        raise UserError(f"{args.dataset} has no class labels, so no classifier can be trained on it; "
                        "use --extractor inception, or a labelled data set")
    if len(train_set) < args.batch_size:
        raise UserError(f"{args.dataset} has {len(train_set)} training images, fewer than --batch-size "
                        f"{args.batch_size}; give a smaller --batch-size")

    start = time.time()
    net = train(train_set, args.epochs, args.batch_size, args.lr, args.seed)
    test_accuracy = accuracy(net, test_set)
    parameters = sum(p.numel() for p in net.parameters())
    seconds = time.time() - start
    print(f"{args.dataset}: test accuracy {test_accuracy:.4f}, {parameters} parameters, {seconds:.0f} s")
    meta = {"dataset": args.dataset, "channels": net.channels, "size": net.size, "classes": net.classes,
            "accuracy": test_accuracy, "seed": args.seed, "epochs": args.epochs,
            "batch_size": args.batch_size,
            "lr": args.lr, "torch": str(torch.__version__)}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    torch.save({"state_dict": net.state_dict(), "meta": meta}, temporary)
    os.replace(temporary, out)
    print(f"wrote {out}")
    return meta


if __name__ == "__main__":
    run_main(main)
