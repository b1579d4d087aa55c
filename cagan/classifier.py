"""Do generated images of rare classes help a classifier more than oversampling, flips and shifts?

Users ask this, not the paper; the classifier is trained on §6.3's unbalanced set. Each arm of
`training_places` is a training set for the same LeNet, which takes STEPS equal steps on it and is
then measured on the balanced test set. reproduce.py --figures classifier trains the generators, and
calls `measure` with each.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import plots
from common.data import ImageSet
from common.device import autocast
from common.evaluate import format_mean_sd, markdown_table
from common.metrics.images import grey_levels
from common.metrics.lenet import LeNet, shifted

from .conditions import unbalance
from .metrics import sample
from .train import load_data

# of each arm's classifier: updates, images per update, AdamW's highest rate
STEPS, BATCH_SIZE, LR = 1000, 64, 6e-3
AUGMENTED = "oversampled, flips and shifts", "half generated, flips and shifts"
OVERSAMPLED = "oversampled"


def training_places(labels: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """{arm: places in the pool}, where the pool is the real images, then the generated ones.

    labels: (N,) of the real images; asked: (M,), the classes that G was asked for. Rare is a class
    with fewer images than the largest one has, and every arm but the first fills it up to as many.
    """
    counts = labels.bincount()
    largest = int(counts.max())
    half = largest // 2
    repeated, filled, mixed = [], [], []
    for c, count in enumerate(counts.tolist()):
        real = (labels == c).nonzero()[:, 0]
        made = (asked == c).nonzero()[:, 0] + len(labels)
        repeated.append(cycle(real, largest))
        if count == largest:
            filled.append(real)
            mixed.append(real)
        else:
            filled += [real, cycle(made, largest - count)]
            mixed += [cycle(real, largest - half), cycle(made, half)]
    repeated, filled, mixed = torch.cat(repeated), torch.cat(filled), torch.cat(mixed)
    return {
        "as it is": torch.arange(len(labels)),
        OVERSAMPLED: repeated,
        AUGMENTED[0]: repeated,
        "filled up with generated": filled,
        "half oversampled, half generated": mixed,
        AUGMENTED[1]: mixed,
    }


def cycle(places: Tensor, n: int) -> Tensor:
    """n of the places (m,): all in turn, again and again."""
    return places.repeat(-(-n // len(places)))[:n]


def flipped_and_shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image (B, C, H, W) mirrored with probability ½ and moved by up to two pixels."""
    mirror = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
    return shifted(torch.where(mirror, images.flip(3), images), rng, most=2)


def train_classifier(data: ImageSet, augmented: bool, seed: int, device, amp="off") -> LeNet:
    """STEPS steps of AdamW under a one-cycle schedule, whatever the size of `data`."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LeNet(data.channels, data.size, len(data.classes))
    net = net.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=STEPS, pct_start=0.2)
    for step in range(STEPS):
        images, labels = data.batch(step, BATCH_SIZE, seed)
        if augmented:
            images = flipped_and_shifted(images, rng)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        with autocast(device, amp):
            logits = net(images)[1]
        loss = F.cross_entropy(logits.float(), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def recalls(net: LeNet, data: ImageSet, device) -> list[float]:
    """Of each class the share of its images that the classifier sees as this class."""
    right = []
    for places in torch.arange(len(data)).split(1000):
        seen = net(data.images_at(places, device))[1].argmax(1).cpu()
        right.append(seen == data.labels[places])
    right = torch.cat(right).double()
    return [right[data.labels == c].mean().item() for c in range(len(data.classes))]


def measure(G, trained, device) -> dict[str, list[float]]:
    """{arm: `recalls` on the test set} of classifiers with the seed of G's training.

    trained: the arguments of that training, whose unbalanced set the classifiers get, too.
    """
    data = load_data(trained)
    unbalance(data, *trained.unbalanced)
    test = load_data(trained, "test")
    counts = data.labels.bincount()
    asked = torch.arange(len(counts)).repeat_interleave(counts.max() - counts)
    pool, labels = pool_with_generated(G, data, asked, trained, device)
    found = {}
    for arm, places in training_places(data.labels, asked).items():
        chosen = ImageSet(
            data.name,
            "train",
            data.size,
            data.channels,
            data.classes,
            images=pool[places],
            labels=labels[places],
        )
        net = train_classifier(chosen, arm in AUGMENTED, trained.seed, device, trained.amp)
        found[arm] = recalls(net, test, device)
    return found


def pool_with_generated(G, data, asked, trained, device) -> tuple[Tensor, Tensor]:
    """The images and labels of `data`, and behind them G's of the classes asked for.

    asked: (M,). Returns uint8 (N + M, C, H, W) and int64 (N + M,).
    """
    parts = [data.images_at(places) for places in torch.arange(len(data)).split(1000)]
    parts += sample(G, F.one_hot(asked, len(data.classes)).float(), trained, device, trained.seed)
    pool = torch.cat([grey_levels(part).byte().cpu() for part in parts])
    return pool, torch.cat([data.labels, asked])


# --- numbers, table, figure


def numbers(label, results):
    """A row per arm of the results of one unbalanced set: lists with a value per seed.

    results: of `sweep`, whose metrics have {arm: recalls} under "classifier".
    """
    rows = []
    for arm in results[0]["metrics"]["classifier"]:
        each = np.array([result["metrics"]["classifier"][arm] for result in results])
        plain = np.array([result["metrics"]["classifier"][OVERSAMPLED] for result in results])
        row = {"label": label, "arm": arm, "accuracy": each.mean(1).tolist()}
        row["rare_recall"] = each[:, 1:].mean(1).tolist()
        row["common_recall"] = each[:, 0].tolist()
        row["gain"] = (each - plain)[:, 1:].mean(1).tolist()
        row["recalls"] = each.tolist()
        rows.append(row)
    return rows


def table(rows):
    """The rows of `numbers` in Markdown, in per cent."""
    columns = {
        "accuracy": "accuracy",
        "of the rare classes": "rare_recall",
        "of class 0": "common_recall",
        "rare classes, more than oversampled": "gain",
    }
    cells = [
        [row["label"], row["arm"], *(format_mean_sd(row[c], ".1f", 100) for c in columns.values())]
        for row in rows
    ]
    seeds = max(len(row["accuracy"]) for row in rows)
    title = f"LeNet on the balanced test set, {STEPS} steps each, %; mean ± sd over {seeds} seeds"
    return f"{title}\n\n{markdown_table(['training set', 'arm', *columns], cells)}"


def draw(rows, path):
    """A panel per unbalanced set and score: a dot per seed, a line at their mean."""
    sets = list(dict.fromkeys(row["label"] for row in rows))
    scores = {"rare_recall": "accuracy of the rare classes, %", "accuracy": "accuracy, %"}
    shape = dict(figsize=(12, 0.6 + 2.3 * len(sets)), sharey=True, squeeze=False)
    figure, axes = plots.plt.subplots(len(sets), len(scores), layout="constrained", **shape)
    for line, label in zip(axes, sets):
        mine = [row for row in rows if row["label"] == label]
        for axis, (score, title) in zip(line, scores.items()):
            for place, row in enumerate(mine):
                values = 100 * np.array(row[score])
                color = "C1" if "generated" in row["arm"] else "C0"
                axis.plot(values, [place] * len(values), "o", color=color, alpha=0.6)
                axis.plot(values.mean(), place, "k|", ms=13)
            axis.set_title(f"{label}: {title}", fontsize=10)
            axis.grid(axis="x", alpha=0.3)
        line[0].set_yticks(range(len(mine)), [row["arm"] for row in mine])
        line[0].set_ylim(len(mine) - 0.5, -0.5)
    figure.suptitle("A dot per seed, a line at their mean; orange: with generated", fontsize=10)
    plots.save_figure(figure, path)
