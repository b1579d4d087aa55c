"""§4 in the plane, in a few minutes: BatchNorm in D, rare conditions, and what mixing the batches does.

    python -m cagan.toy                      writes toy.png, toy.json, toy.md under runs/cagan
    python -m cagan.toy --norm none          the same without BatchNorm: mixing changes nothing

Four clusters, of which real data have 85, 5, 5 and 5 %, while G is asked for all four equally often. A point's label
is that of the nearest cluster; the conditional accuracy of a label is the share of points asked for it that lie there.
The spread of a label is the standard deviation of the points asked for it, 0.3 in the data; near is the share of them
within 3 sd of their cluster's centre, .989 in the data.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common import plots
from common.cli import UserError, file_path, new_parser, positive_int, run_main
from common.device import choose_device, fused_adam, seed_all
from common.runs import environment, replace_file, write_json

from .model import (ca_discriminator_loss, ca_generator_loss, discriminate, modified_ac_discriminator_loss,
                    modified_ac_generator_loss)

CENTRES = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
SD, SHARES = 0.3, (0.85, 0.05, 0.05, 0.05)
SCHEDULES = ("never mixed", "mixed late", "mixed from the start")


def mlp(c_in, c_out, norm, width=128):
    normalised = {"batch": lambda: nn.BatchNorm1d(width), "none": nn.Identity}[norm]
    return nn.Sequential(nn.Linear(c_in, width), nn.LeakyReLU(0.2), normalised(), nn.Linear(width, width),
                         nn.LeakyReLU(0.2), normalised(), nn.Linear(width, c_out))


@torch.no_grad()
def label_accuracies(G, z_dim, n=1000):
    """(4,) conditional accuracy of each label, and the points (4, n, 2)."""
    cnd = torch.eye(4).repeat_interleave(n, 0)
    points = G(torch.cat([cnd, torch.randn(len(cnd), z_dim, generator=torch.Generator().manual_seed(0))], 1))
    right = torch.cdist(points, CENTRES).argmin(1) == cnd.argmax(1)
    return right.view(4, n).double().mean(1), points.view(4, n, 2)


def train_toy(loss, schedule, seed, steps=3000, norm="batch", batch=128, z_dim=8, lr=1e-3, lambda_cls=0.1, every=100):
    """One run. Returns ([(step, accuracies)], points (4, n, 2)). "mixed late": for the last third of the steps."""
    seed_all(seed)
    G, D = mlp(z_dim + 4, 2, "none"), mlp(2, 4 if loss == "ca" else 5, norm)
    opt_G, opt_D = (fused_adam(net.parameters(), torch.device("cpu"), lr=lr, betas=(0.5, 0.999)) for net in (G, D))
    mix_from = {"never mixed": steps, "mixed late": steps * 2 // 3, "mixed from the start": 0}[schedule]
    history = []
    for step in range(1, steps + 1):
        y = torch.multinomial(torch.tensor(SHARES), batch, replacement=True)
        cnd, cnd_fake = F.one_hot(y, 4).float(), F.one_hot(torch.randint(4, (batch,)), 4).float()
        x = CENTRES[y] + SD * torch.randn(batch, 2)
        fake = G(torch.cat([cnd_fake, torch.randn(batch, z_dim)], 1))
        real_out, fake_out = discriminate(D, x, fake, 0.5 if step > mix_from else 0.0)
        if loss == "ca":
            L_d, L_g = ca_discriminator_loss(real_out, cnd, fake_out, cnd_fake), ca_generator_loss(fake_out, cnd_fake)
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


def draw_toy(results, path):
    """Points by the label asked for, and the mean accuracy of the three rare labels over the steps."""
    figure, axes = plots.plt.subplots(2, len(SCHEDULES) + 1, figsize=(13, 6.2), layout="constrained")
    for row, loss in zip(axes, ("ca", "modified_ac")):
        for i, (axis, schedule) in enumerate(zip(row, SCHEDULES)):
            runs = [r for r in results if (r["loss"], r["schedule"]) == (loss, schedule)]
            for label, points in enumerate(runs[0]["points"]):
                axis.plot(*points[:250].T, ".", ms=2, label=f"asked for {label} ({100 * SHARES[label]:.0f} %)")
            axis.plot(*CENTRES.T, "k+", ms=9)
            axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[])
            axis.set_title(f"{loss}, {schedule}, seed {runs[0]['seed']}", fontsize=10)
            for r in runs:
                steps, values = zip(*r["history"])
                row[-1].plot(steps, np.array(values)[:, 1:].mean(1), color=f"C{i + 4}", lw=1,
                             label=schedule if r is runs[0] else None)
        row[-1].set(ylim=(-0.05, 1.05), xlabel="step")
        row[-1].set_title("accuracy of the rare labels, each seed", fontsize=10)
        row[-1].legend(fontsize=7, loc="center left")
    axes[0, 0].legend(fontsize=7, markerscale=4, loc="lower right")
    plots.save_figure(figure, path)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=positive_int, default=3000)
    parser.add_argument("--seeds", type=positive_int, default=3)
    parser.add_argument("--norm", choices=("batch", "none"), default="batch", help="of D")
    parser.add_argument("--out", type=file_path, help="none: runs/cagan/toy-<norm>-<steps>-<seeds>seeds")
    args = parser.parse_args(argv)
    folder, results = Path(args.out or f"runs/cagan/toy-{args.norm}-{args.steps}-{args.seeds}seeds"), []
    settings = {"norm": args.norm, "steps": args.steps, "seeds": args.seeds}
    if (folder / "toy.json").exists():
        there = json.loads((folder / "toy.json").read_text())
        if {name: there.get(name) for name in settings} != settings:
            raise UserError(f"{folder} holds a toy with other settings: choose another --out")
        print(f"{folder} is there already:\n{(folder / 'toy.md').read_text()}")
        return there["runs"]
    todo = [(loss, schedule, seed) for loss in ("ca", "modified_ac") for schedule in SCHEDULES
            for seed in range(args.seeds)]
    for loss, schedule, seed in tqdm(todo, unit="run", disable=None):
        history, points = train_toy(loss, schedule, seed, args.steps, args.norm)
        results.append({"loss": loss, "schedule": schedule, "seed": seed, "history": history,
                        "spread": points.std(1).mean(1).tolist(), "points": points,
                        "near": ((points - CENTRES[:, None]).norm(dim=2) < 3 * SD).double().mean(1).tolist()})
    lines = ["| loss | batches | accuracy: common label | rare labels, each seed | rare, mean | spread, rare labels | "
             "near, rare labels |", "|---|---|---|---|---|---|---|"]
    for loss in ("ca", "modified_ac"):
        for schedule in SCHEDULES:
            runs = [r for r in results if (r["loss"], r["schedule"]) == (loss, schedule)]
            last = [r["history"][-1][1] for r in runs]
            spreads, near = ([np.mean(r[name][1:]) for r in runs] for name in ("spread", "near"))
            each = "; ".join(" ".join(f"{a:.2f}" for a in accuracies[1:]) for accuracies in last)
            lines.append(f"| {loss} | {schedule} | {np.mean(last, 0)[0]:.2f} | {each} | "
                         f"**{np.mean([a[1:] for a in last]):.2f}** | {' '.join(f'{s:.2f}' for s in spreads)} | "
                         f"{' '.join(f'{s:.2f}' for s in near)} |")
    folder.mkdir(parents=True, exist_ok=True)
    draw_toy(results, folder / "toy.png")
    replace_file(folder / "toy.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / "toy.json", {**settings, "env": environment(choose_device("cpu")),
                                     "runs": [{k: v for k, v in r.items() if k != "points"} for r in results]})
    print("\n".join(lines))
    return results


if __name__ == "__main__":
    run_main(main)
