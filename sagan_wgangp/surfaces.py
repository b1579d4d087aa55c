"""What clipping does to a critic (WGAN-GP, arXiv:1704.00028, Fig. 1a): critics of toys, alone.

  python -m sagan_wgangp.surfaces                 5,000 steps of each critic
  python -m sagan_wgangp.surfaces --train-flags "--width 128 --lr-d 5e-4 --steps 3000"

The generator is held at the data plus N(0, I) noise. Draws the values of clipped critics above
those of penalised ones, and says how much they see of W₁ between the toy and the noisy toy (exact
for --n points each, which is a little too large). Writes surfaces.png and surfaces.json into --out.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from tqdm import tqdm

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m sagan_wgangp.surfaces",
        file=sys.stderr,
    )
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath
from common.cli import run_main
from common.device import choose_device
from common.metrics import count_tag
from common.rng import seed_all, step_rng
from common.runs import environment, write_json
from common.toys import TOYS, toy_data

from . import train
from .eval import NAMES
from .model import (
    clip_weights,
    gradient_penalty,
    wasserstein_discriminator_loss,
    wasserstein_distance,
)
from .pictures import values_on_square

# --gp 10 is the paper's λ, not train.py's 0.1 for toys. With slope k, D gains k·W₁ − λ(k − 1)², so
# it settles at k = 1 + W₁/2λ: near 1 with λ = 10, 4 to 5 with 0.1.
CRITICS = ("--method wgan", "--method wgan_gp --gp 10")


@dataclass
class Args:
    # --- critics alone
    n: int = 2000  # points that W₁ is measured with
    train_flags: str = ""  # more flags of train.py, in quotes: '--width 128 …'
    out: FilePath = "runs/sagan_wgangp/surfaces"  # where the picture and the numbers go

    # --- run
    seed: int = 0  # fixes initial weights, data and noise; in [0, 2^63)
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps


def parse_args(argv=None):
    return arguments.parse_args(Args, __doc__, argv)


def distance_seen(D, x, fake, epsilon):
    """((E D(x) − E D(x̃)) / K, K), K = max ‖∇D‖ over x, x̃ and x̂ = ε x + (1 − ε) x̃.

    What D finds of W₁ once it is scaled to be 1-Lipschitz there: at most W₁, but for slopes that no
    point met. x, fake: (B, 2), epsilon (B,).
    """
    points = torch.cat([x, fake, torch.lerp(fake, x, epsilon[:, None])]).requires_grad_()
    (gradient,) = torch.autograd.grad(D(points).sum(), points)
    slope = gradient.norm(dim=1).max()
    with torch.no_grad():
        return float(wasserstein_distance(D(x), D(fake)) / slope), float(slope)


def noisy_pairs(data, n, rng, device):
    """x (n, 2) of a toy, x̃ (n, 2) of the toy plus N(0, I) noise, ε (n,).

    x̃ is WGAN-GP's generator "held fixed" (its §3.1).
    """
    x = data.sample(n, rng)[0]
    fake = data.sample(n, rng)[0] + torch.randn(n, 2, generator=rng)
    epsilon = torch.rand(n, generator=rng)
    return x.to(device), fake.to(device), epsilon.to(device)


def train_critic(args, data, device):
    """D alone, against the generator of noisy_pairs. args: of train.py."""
    seed_all(args.seed)
    D = train.build(args)[1].to(device)
    opt_D = train.make_optimizer(D, args.lr_d, args, device)
    title = f"{args.dataset}, {args.method}"
    for step in tqdm(range(1, args.steps + 1), desc=title, disable=None, leave=False):
        x, fake, epsilon = noisy_pairs(data, args.batch_size, step_rng(args.seed, step), device)
        L_D = wasserstein_discriminator_loss(D(x), D(fake))
        if args.gp:
            L_D = L_D + args.gp * gradient_penalty(D, x, fake, epsilon)  # Eq. 4
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()
        if args.clip:
            clip_weights(D, args.clip)
    return D


def exact_distance(x, fake):
    """W₁ between two sets of as many points: the mean length of the best matching."""
    costs = cdist(x.cpu(), fake.cpu())
    return costs[linear_sum_assignment(costs)].mean()


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.device)
    figure, axes = plots.plt.subplots(
        len(CRITICS), len(TOYS), figsize=(3.2 * len(TOYS), 6.4), squeeze=False
    )
    rows = []
    for toy, column in zip(TOYS, axes.T):
        data = toy_data(toy)
        x, fake, epsilon = noisy_pairs(data, args.n, step_rng(args.seed, 0), device)
        exact = exact_distance(x, fake)
        for axis, flags in zip(column, CRITICS):
            words = ["--dataset", toy, *flags.split(), "--steps", "5000", "--seed", str(args.seed)]
            trained = train.parse_args([*words, *shlex.split(args.train_flags)])
            D = train_critic(trained, data, device)
            seen, slope = distance_seen(D, x, fake, epsilon)
            row = {"toy": toy, "method": trained.method, "steps": trained.steps, "slope": slope}
            rows.append(row | {"W1_seen": seen, f"W1_exact_{count_tag(args.n)}": exact})
            name = NAMES[trained.method]
            print(f"{toy:12} {name:8} slope {slope:.2g}, sees {seen:.3f} of W1 = {exact:.3f}")
            side, values = values_on_square(D, 2.5)
            axis.contour(side, side, values, levels=20, linewidths=0.8)
            axis.scatter(*x[:500].cpu().T, s=2, c="tab:orange")
            axis.set_title(f"{toy}, {name}:\nsees {seen / exact:.0%} of W₁", fontsize=9)
            axis.set(xticks=(-2, 0, 2), yticks=(-2, 0, 2), aspect="equal")
    figure.suptitle("Level lines of critics (yellow: highest D) and points of the data (orange)")
    figure.supxlabel("x₁")
    figure.supylabel("x₂")
    figure.tight_layout()
    folder = Path(args.out)
    plots.save_figure(figure, folder / "surfaces.png")
    result = {"rows": rows, "seed": args.seed, "env": environment(device)}
    write_json(folder / "surfaces.json", result)
    return rows


if __name__ == "__main__":
    run_main(main)
