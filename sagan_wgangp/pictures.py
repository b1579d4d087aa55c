"""Pictures of one generator and critic: samples, a toy critic's surface, attention maps."""

import numpy as np
import torch
from torch import nn

from common import plots
from common.rng import step_rng
from common.toys import TOYS

from .model import SelfAttention


def draw(G, D, data, z, args, path):
    """5x5 images (Fig. 2); of a toy, D's values in the plane with real and generated points."""
    if args.dataset not in TOYS:
        plots.save_grid(G(z).float(), path, nrow=5)
        return
    real = data.sample(len(z), step_rng(args.seed, 0))[0]
    surface(D, {data.name: real, "generated": G(z).cpu()}, path, limit=2)


def panels(args):
    """What curves.png shows (Fig. 3): [[key of the log, …], …]."""
    keys = [["L_D"], ["L_G"]]
    if args.loss == "wasserstein":
        keys.append(["W"])
    if args.gp:
        keys.append(["GP"])
    if args.attention != "none":
        keys.append(["gamma_G", "gamma_D"])
    return keys


@torch.no_grad()
def values_on_square(D, limit):
    """(side (128,), D's values (128, 128), rows along y) in the square [−limit, limit]²."""
    side = torch.linspace(-limit, limit, 128)
    points = torch.cartesian_prod(side, side).to(next(D.parameters()).device)
    return side, D(points).float().cpu().reshape(128, 128).T


def surface(D, points, path, limit):
    """Contours of D (None: a grey ground) in the square [−limit, limit]², and points on it.

    points: {label: (N, 2)}, drawn one over the other.
    """
    figure, axis = plots.plt.subplots(figsize=(5.5, 4.5))
    axis.set_facecolor("0.5")
    if D is not None:
        side, values = values_on_square(D, limit)
        figure.colorbar(axis.contourf(side, side, values, levels=30, cmap="viridis"), label="D(x)")
    for (label, xy), colour in zip(points.items(), ("white", "tab:red")):
        axis.scatter(*np.asarray(xy, dtype=float).T, s=2, c=colour, label=label)
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="x₁", ylabel="x₂")
    above = dict(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(points))
    axis.legend(fontsize=8, facecolor="0.5", markerscale=3, **above)
    plots.save_figure(figure, path)


@torch.no_grad()
def attention_maps(G: nn.Sequential, z, pixel, size):
    """(images (B, C, H, W), β_j (B, side, side)): where G's last attention looks from a place j.

    j is the place of `pixel`, (row, column) of an image of side `size`.
    """
    inputs = []
    block = [layer for layer in G if isinstance(layer, SelfAttention)][-1]
    hook = block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].float()))
    images = G(z).float()
    hook.remove()
    side = inputs[0].shape[-1]
    row, column = (place * side // size for place in pixel)
    beta = block.beta(inputs[0])[:, row * side + column]
    return images, beta.unflatten(1, (side, side))


def draw_attention(G, z, pixel, size, path):
    """Generated images with the query pixel, and below where it looks.

    The colour is β over what each place would have if all had the same, on one scale for all maps;
    the brightest hundredth of the places may lie above it.
    """
    images, maps = attention_maps(G, z, pixel, size)
    shares = (maps * maps[0].numel()).cpu()
    top_share = torch.quantile(shares.flatten(), 0.99).item()
    edges = (-0.5, size - 0.5, size - 0.5, -0.5)
    figure, axes = plots.plt.subplots(2, len(z), figsize=(1.3 * len(z), 2.8), squeeze=False)
    for (top, bottom), image, share in zip(axes.T, images.cpu(), shares):
        top.imshow((image.permute(1, 2, 0).squeeze(-1) + 1) / 2, cmap="gray", vmin=0, vmax=1)
        shown = bottom.imshow(share, cmap="magma", extent=edges, vmin=0, vmax=top_share)
        for axis in (top, bottom):
            axis.plot(pixel[1], pixel[0], "c+", ms=8)
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("G(z), + is\nplace j", fontsize=8)
    axes[1, 0].set_ylabel("what j\nlooks at", fontsize=8)
    bar = figure.colorbar(shown, ax=axes, extend="max", fraction=0.02, pad=0.02)
    bar.set_label("β, times an even share", fontsize=8)
    plots.save_figure(figure, path)
