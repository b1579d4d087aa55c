"""Pictures of a run: samples, reconstructions, interpolation, neighbours, anomaly scores."""

import torch

from common.plots import plt, save_figure, save_grid

from .features import auroc, encode, nearest


@torch.no_grad()
def draw_images(G, E, images, data, test, bank, device, where):
    """samples, reconstructions, interpolation and neighbours, PNGs in `where`.

    images: 64 samples G(z). bank: training images among which neighbours are looked for.
    """
    zoom = max(1, 56 // images.shape[-1])
    save_grid(images, where / "samples.png", zoom=zoom)

    x = test.images_at(torch.arange(min(64, len(test))), device)
    code = E(x)
    rec, regen = G(code).float(), G(E(images)).float()
    n = min(16, len(x))  # of few images one row
    rows = [x[:n], rec[:n]]
    if 16 + n <= len(x):
        rows += [x[16 : 16 + n], rec[16 : 16 + n]]
    rows += [images[:n], regen[:n]]
    save_grid(torch.cat(rows), where / "reconstructions.png", nrow=n, zoom=zoom)

    if pairs := min(6, len(x) // 2):
        first, second = slice(pairs), slice(pairs, 2 * pairs)
        weights = torch.linspace(0, 1, 9).tolist()
        between = [G(torch.lerp(code[first], code[second], w)).float() for w in weights]
        rows = torch.stack([x[first], *between, x[second]], 1)  # (pairs, 11, C, H, W)
        save_grid(rows.flatten(0, 1), where / "interpolation.png", nrow=rows.shape[1], zoom=zoom)

    n, rows = min(bank, len(data)), [images[:16]]
    for net in (lambda x: x.flatten(1), E.features):  # the nearest in pixels, and in features
        index = nearest(encode(net, data, n, device), net(images[:16]).float())
        rows.append(data.images_at(index.cpu(), device))
    save_grid(torch.cat(rows), where / "neighbours.png", nrow=16, zoom=zoom)


def draw_anomaly(scores, positive, name, where):
    """anomaly.png: histograms of scores {kind: (N,)}, the held-out class `name` over the others."""
    figure, axes = plt.subplots(1, len(scores), figsize=(4 * len(scores), 2.6), squeeze=False)
    for axis, (kind, values) in zip(axes[0], scores.items()):
        style = dict(bins=60, density=True, alpha=0.6)
        axis.hist(values[~positive].numpy(), label="other classes", **style)
        axis.hist(values[positive].numpy(), label=f"held out: {name}", **style)
        axis.set_title(f"{kind}: AUROC {auroc(values, positive):.3f}", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    save_figure(figure, where / "anomaly.png")
