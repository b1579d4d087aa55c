"""§4 in the plane, in a few minutes: BatchNorm in D, rare conditions, and what mixing batches does.

    python -m cagan.toy                      writes toy.png, toy.json, toy.md under runs/cagan
    python -m cagan.toy --norm none          the same without BatchNorm: mixing changes nothing

Four clusters, of which real data have 85, 5, 5 and 5 %, while G is asked for all four equally
often. A point's label is that of the nearest cluster; the conditional accuracy of a label is the
share of points asked for it that lie there. The spread of a label is the standard deviation of the
points asked for it, 0.3 in the data; near is the share of them within 3 sd of their cluster's
centre, .989 in the data.
"""

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m cagan.toy", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.cli import run_main
from common.device import choose_device, fused_adam
from common.errors import UserError
from common.evaluate import markdown_table
from common.rng import seed_all
from common.runs import environment, replace_file, write_json

from .model import (
    ca_discriminator_loss,
    ca_generator_loss,
    discriminate,
    modified_ac_discriminator_loss,
    modified_ac_generator_loss,
)

CENTRES = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
SD = 0.3
SHARES = (0.85, 0.05, 0.05, 0.05)
LOSSES = {"ca": "CA-GAN", "modified_ac": "modified AC-GAN"}  # and what the figure calls them
MIXED_FROM = {"never mixed": 1.0, "mixed late": 2 / 3, "mixed from the start": 0.0}  # of the steps


@dataclass
class Args:
    # --- toy
    steps: int = 3000  # of each run
    seeds: int = 3  # runs per loss and schedule
    norm: Literal["batch", "none"] = "batch"  # of D
    # none: runs/cagan/toy-<norm>-<steps>-<seeds>seeds
    out: arguments.FilePath | None = None


def mlp(c_in, c_out, norm, width=128):
    """Two hidden layers: linear, LeakyReLU, normalisation."""
    layers = []
    for c in (c_in, width):
        normalised = nn.BatchNorm1d(width) if norm == "batch" else nn.Identity()
        layers += [nn.Linear(c, width), nn.LeakyReLU(0.2), normalised]
    return nn.Sequential(*layers, nn.Linear(width, c_out))


@torch.no_grad()
def label_accuracies(G, z_dim, n=1000):
    """(4,) conditional accuracy of each label, and the points (4, n, 2)."""
    cnd = torch.eye(4).repeat_interleave(n, 0)
    z = torch.randn(len(cnd), z_dim, generator=torch.Generator().manual_seed(0))
    points = G(torch.cat([cnd, z], 1))
    right = torch.cdist(points, CENTRES).argmin(1) == cnd.argmax(1)
    return right.view(4, n).double().mean(1), points.view(4, n, 2)


def train_toy(
    loss,
    schedule,
    seed,
    steps=3000,
    norm="batch",
    batch=128,
    z_dim=8,
    lr=1e-3,
    lambda_cls=0.1,
    every=100,
):
    """One run. Returns ([(step, accuracies)], points (4, n, 2))."""
    seed_all(seed)
    G = mlp(z_dim + 4, 2, "none")
    D = mlp(2, 4 if loss == "ca" else 5, norm)
    adam = dict(lr=lr, betas=(0.5, 0.999))
    opt_G = fused_adam(G.parameters(), torch.device("cpu"), **adam)
    opt_D = fused_adam(D.parameters(), torch.device("cpu"), **adam)
    mixed_from = int(steps * MIXED_FROM[schedule])
    history = []
    for step in range(1, steps + 1):
        y = torch.multinomial(torch.tensor(SHARES), batch, replacement=True)
        cnd = F.one_hot(y, 4).float()
        cnd_fake = F.one_hot(torch.randint(4, (batch,)), 4).float()
        x = CENTRES[y] + SD * torch.randn(batch, 2)
        fake = G(torch.cat([cnd_fake, torch.randn(batch, z_dim)], 1))
        share = 0.5 if step > mixed_from else 0.0
        real_out, fake_out = discriminate(D, x, fake, share)
        if loss == "ca":
            L_d = ca_discriminator_loss(real_out, cnd, fake_out, cnd_fake)
            L_g = ca_generator_loss(fake_out, cnd_fake)
        else:
            L_d = modified_ac_discriminator_loss(real_out, cnd, fake_out, lambda_cls)
            L_g = modified_ac_generator_loss(fake_out, cnd_fake, lambda_cls)
        opt_D.zero_grad()
        L_d.backward(inputs=list(D.parameters()), retain_graph=True)
        opt_G.zero_grad()
        L_g.backward(inputs=list(G.parameters()))
        opt_D.step()
        opt_G.step()
        if step % every == 0 or step == steps:
            history.append((step, label_accuracies(G, z_dim, 250)[0].tolist()))
    return history, label_accuracies(G, z_dim)[1]


# --- numbers, table, figure


def numbers(loss, schedule, seed, history, points):
    """What toy.json says of one run; and its points, which only the figure shows."""
    inside = (points - CENTRES[:, None]).norm(dim=2) < 3 * SD
    return {
        "loss": loss,
        "schedule": schedule,
        "seed": seed,
        "history": history,
        "spread": points.std(1).mean(1).tolist(),
        "points": points,
        "near": inside.double().mean(1).tolist(),
    }


def runs_of(results, loss, schedule):
    return [r for r in results if r["loss"] == loss and r["schedule"] == schedule]


def spaced(values):
    return " ".join(f"{value:.2f}" for value in values)


def table(results):
    """Accuracies after the last step, spread and near; label 0 is the common one."""
    columns = ["loss", "batches", "accuracy: common label", "rare labels, each seed", "rare, mean"]
    columns += ["spread, rare labels", "near, rare labels"]
    rows = []
    for loss, schedule in itertools.product(LOSSES, MIXED_FROM):
        runs = runs_of(results, loss, schedule)
        accuracies = np.array([run["history"][-1][1] for run in runs])
        common, rare = accuracies[:, 0], accuracies[:, 1:]
        spread = [np.mean(run["spread"][1:]) for run in runs]
        near = [np.mean(run["near"][1:]) for run in runs]
        each = "; ".join(map(spaced, rare))
        mean = f"**{rare.mean():.2f}**"
        row = [loss, schedule, f"{common.mean():.2f}", each, mean, spaced(spread), spaced(near)]
        rows.append(row)
    return markdown_table(columns, rows)


def draw_toy(results, path):
    """Points by the label asked for, and the rare labels' mean accuracy over the steps."""
    columns = len(MIXED_FROM) + 1
    figure, axes = plots.plt.subplots(2, columns, figsize=(14, 7.4), layout="constrained")
    for row, (loss, name) in zip(axes, LOSSES.items()):
        for i, (axis, schedule) in enumerate(zip(row, MIXED_FROM)):
            runs = runs_of(results, loss, schedule)
            draw_points(axis, runs[0]["points"])
            axis.set_title(f"{name}, {schedule}, seed {runs[0]['seed']}", fontsize=10)
            for run in runs:
                steps, accuracies = zip(*run["history"])
                rare = np.array(accuracies)[:, 1:].mean(1)
                label = schedule if run is runs[0] else None
                row[-1].plot(steps, rare, color=f"C{i + 4}", lw=1, label=label)
        row[-1].set(ylim=(-0.05, 1.05), xlabel="step of training", ylabel="share of points")
        row[-1].set_title(f"{name}: accuracy of the rare labels, each seed", fontsize=10)
    points, lines = (axis.get_legend_handles_labels() for axis in axes[0, -2:])
    handles, labels = (a + b for a, b in zip(points, lines))
    figure.legend(handles, labels, loc="outside lower center", ncols=4, markerscale=2)
    plots.save_figure(figure, path)


def draw_points(axis, points):
    """points (4, n, 2): 250 of each label asked for, and the clusters' centres."""
    for label, share in enumerate(SHARES):
        name = f"asked for {label} ({100 * share:.0f} % of data)"
        axis.plot(*points[label, :250].T, ".", ms=2, label=name)
    axis.plot(*CENTRES.T, "k+", ms=7, label="centres of the data")
    axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", xticks=(-1, 1), yticks=(-1, 1))
    outside = (points[:, :250].abs() > 2.2).any(2).sum()
    axis.set_xlabel(f"{outside} of {4 * min(250, points.shape[1]):,} points lie outside")


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    default = f"runs/cagan/toy-{args.norm}-{args.steps}-{args.seeds}seeds"
    folder = Path(args.out or default)
    settings = {"norm": args.norm, "steps": args.steps, "seeds": args.seeds}
    if (folder / "toy.json").exists():
        saved = json.loads((folder / "toy.json").read_text())
        if {name: saved.get(name) for name in settings} != settings:
            raise UserError(f"{folder} holds a toy with other settings: choose another --out")
        print(f"{folder} is there already:\n{(folder / 'toy.md').read_text()}")
        return saved["runs"]
    todo = list(itertools.product(LOSSES, MIXED_FROM, range(args.seeds)))
    results = []
    for loss, schedule, seed in tqdm(todo, unit="run", disable=None):
        history, points = train_toy(loss, schedule, seed, args.steps, args.norm)
        results.append(numbers(loss, schedule, seed, history, points))
    folder.mkdir(parents=True, exist_ok=True)
    draw_toy(results, folder / "toy.png")
    text = table(results)
    replace_file(folder / "toy.md", text.encode())
    runs = [{k: v for k, v in result.items() if k != "points"} for result in results]
    env = environment(choose_device("cpu"))
    write_json(folder / "toy.json", {**settings, "env": env, "runs": runs})
    print(text, end="")
    return runs


if __name__ == "__main__":
    run_main(main)
