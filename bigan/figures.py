"""Pictures of a run: samples, reconstructions, interpolation, neighbours, anomaly scores."""

import torch
from torch.nn import functional as F

from common.plots import plt, save_figure, save_grid

from .features import auroc, encode, nearest


def save_rows(rows, path):
    """A grid of rows with their labels at the left. rows: [(label, images (n, C, H, W)), …].

    Where a row is shorter than the longest, the rest of it stays white.
    """
    labels, images = zip(*rows)
    n = max(map(len, images))
    full = [F.pad(row, (0, 0, 0, 0, 0, 0, 0, n - len(row)), value=1.0) for row in images]
    save_grid(torch.cat(full), path, nrow=n, rows=labels)


def sample_rows(samples, n=16):
    """Rows of n samples, for save_rows."""
    return [("G(z)", part) for part in samples.split(n)]


def pair_rows(x, reconstructions, n=16):
    """Rows of n images, each above a row of their reconstructions, for save_rows."""
    rows = []
    for part, of_part in zip(x.split(n), reconstructions.split(n)):
        rows += [("x", part), ("G(E(x))", of_part)]
    return rows


@torch.no_grad()
def draw_images(G, E, images, data, test, bank, device, where):
    """samples, reconstructions, interpolation and neighbours, PNGs in `where`.

    images: 64 samples G(z). bank: training images among which neighbours are looked for.
    """
    save_rows(sample_rows(images, 8), where / "samples.png")

    x = test.images_at(test.places(64), device)
    code = E(x)
    rec, regen = G(code).float(), G(E(images)).float()
    rows = pair_rows(x[:32], rec[:32])
    rows += [("G(z)", images[:16]), ("G(E(G(z)))", regen[:16])]
    save_rows(rows, where / "reconstructions.png")

    if pairs := min(6, len(x) // 2):
        first, second = slice(pairs), slice(pairs, 2 * pairs)
        weights = torch.linspace(0, 1, 9).tolist()
        between = [G(torch.lerp(code[first], code[second], w)).float() for w in weights]
        rows = torch.stack([x[first], *between, x[second]], 1)  # (pairs, 11, C, H, W)
        columns = ["x", "G(E(x))", *(f"{i}/8" for i in range(1, 8)), "G(E(x'))", "x'"]
        grid = dict(nrow=len(columns), columns=columns)
        save_grid(rows.flatten(0, 1), where / "interpolation.png", **grid)

    places, rows = data.places(bank), [("G(z)", images[:16])]
    spaces = {"pixels": lambda x: x.flatten(1), "E's features": E.features}
    for name, net in spaces.items():
        index = nearest(encode(net, data, places, device), net(images[:16]).float()).cpu()
        rows.append((f"nearest real image\nin {name}", data.images_at(places[index], device)))
    save_rows(rows, where / "neighbours.png")


def draw_anomaly(scores, positive, name, where):
    """anomaly.png: histograms of scores {kind: (N,)}, the held-out class `name` over the others."""
    figure, axes = plt.subplots(1, len(scores), figsize=(4 * len(scores), 2.6), squeeze=False)
    for axis, (kind, values) in zip(axes[0], scores.items()):
        style = dict(bins=60, density=True, alpha=0.6)
        axis.hist(values[~positive].numpy(), label="other classes", **style)
        axis.hist(values[positive].numpy(), label=f"held out: {name}", **style)
        axis.set_title(f"{kind}: AUROC {auroc(values, positive):.3f}", fontsize=9)
        axis.set_xlabel("anomaly score", fontsize=8)
    axes[0, 0].set_ylabel("density of test images", fontsize=8)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, where / "anomaly.png")
