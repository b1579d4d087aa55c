"""The paper's figures and table. From the repository's root:

  python -m sagan_wgangp.eval                            the newest run under runs/sagan_wgangp
  python -m sagan_wgangp.eval --ckpt DIR --n 10000 --pixel 10 16            a run; attention of that pixel
  python -m sagan_wgangp.eval --ckpt … --samples 25 --grid-out grid.png     only draw samples
  python -m sagan_wgangp.eval --ckpt … --n 50000 --export DIR               only write samples, NPZ (images: and PNGs)
  python -m sagan_wgangp.eval --compare                  Figs. 2-4: the five methods, --quick, three seeds
  python -m sagan_wgangp.eval --ablation                 Table 1: each ingredient added to GAN, and taken from SAGAN's
  python -m sagan_wgangp.eval --surfaces                 WGAN-GP's Fig. 1a: what clipping does to a critic's values
  python -m sagan_wgangp.eval --compare --no-quick --train-flags '--dataset fashion-mnist --size 64 --steps 20000'

Writes eval_<step>.json and figures beside the checkpoint. Samples are drawn with G in eval mode (running BatchNorm
statistics). --compare and --ablation train what they need, --jobs runs at a time, under --out; started again, they go
on where they stood. --quick's steps are such that the methods' CPU times are alike (within a factor of two).
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from tqdm import tqdm

if not __package__:  # started as a file: relative imports can't work
    print(
        "error: start this as a module from the repository's root: "
        f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}",
        file=sys.stderr,
    )
    sys.exit(2)

from common import plots
from common.cli import add_device_args, add_eval_args, new_parser, positive_int, run_main
from common.device import autocast, choose_device
from common.rng import seed_all, step_rng
from common.errors import UserError
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    reference,
    say_written,
    write_eval,
)
from common.metrics import count_tag, pick
from common.toys import TOYS, toy_data
from common.metrics.toy import toy_metrics
from common.runs import environment, load_checkpoint, load_state, read_log, replace_file, write_json
from common.sweep import add_only_arg, add_sweep_args, only, sweep

from . import train
from .model import (
    SelfAttention,
    clip_weights,
    gradient_penalty,
    wasserstein_critic_loss,
    wasserstein_distance,
)
from .train import build, load_data, make_optimizer, panels

NAMES = {
    "gan": "GAN",
    "wgan": "WGAN",
    "wgan_gp": "WGAN-GP",
    "sagan": "SAGAN",
    "sagan_wgan_gp": "SAGAN + WGAN-GP",
}
COMPARE = {name: ["--method", method] for method, name in NAMES.items()}


def ablation(quick):
    """{row: flags} of Table 1, one ingredient at a time; each row has its method's steps."""
    mean, gp = (
        ("6e-4", "5e-4") if quick else ("2e-4", "1e-4")
    )  # TTUR's geometric mean; WGAN-GP's rate
    return {
        "GAN": ["--method", "gan"],
        "GAN + Wasserstein, clip": ["--method", "gan", "--loss", "wasserstein", "--clip", "0.01"],
        "GAN + Wasserstein, GP": [
            "--method",
            "gan",
            "--loss",
            "wasserstein",
            "--gp",
            "10",
            "--batch-norm",
            "g",
        ],
        "GAN + GP": ["--method", "gan", "--gp", "10", "--batch-norm", "g"],
        "GAN + SN in D": ["--method", "gan", "--spectral", "d", "--batch-norm", "g"],
        "GAN + SN in G and D": ["--method", "gan", "--spectral", "gd", "--batch-norm", "g"],
        "GAN + TTUR": ["--method", "gan", "--lr-g", "1e-4", "--lr-d", "4e-4"],
        "GAN + attention": ["--method", "gan", "--attention", "auto"],
        "SAGAN": ["--method", "sagan"],
        "SAGAN − attention": ["--method", "sagan", "--attention", "none"],
        "SAGAN − SN": ["--method", "sagan", "--spectral", "none"],
        "SAGAN − TTUR": ["--method", "sagan", "--lr-g", mean, "--lr-d", mean],
        "SAGAN + WGAN-GP": ["--method", "sagan_wgan_gp"],
        "SAGAN + WGAN-GP, SN in D": ["--method", "sagan_wgan_gp", "--spectral", "gd"],
        "SAGAN + WGAN-GP − attention": ["--method", "sagan_wgan_gp", "--attention", "none"],
        "SAGAN + WGAN-GP, 5 critic steps, equal rates": [
            "--method",
            "sagan_wgan_gp",
            "--n-critic",
            "5",
            "--lr-g",
            gp,
            "--lr-d",
            gp,
        ],
    }


def parse_args(argv=None):
    parser = new_parser(__doc__)
    add_eval_args(
        parser,
        "sagan_wgangp",
        n=None,
        n_help="samples to measure; none: 2,000 (toys), 10,000 (images)",
    )
    parser.add_argument(
        "--pixel",
        type=int,
        nargs=2,
        metavar=("ROW", "COL"),
        help="attention of it; none: the centre",
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument("--compare", action="store_true", help="Figs. 2-4")
    tables.add_argument("--ablation", action="store_true", help="Table 1")
    tables.add_argument(
        "--surfaces",
        action="store_true",
        help="WGAN-GP's Fig. 1a: 5,000 steps of the critic alone "
        "on each toy, --train-flags changes them",
    )
    add_only_arg(tables)
    tables.add_argument(
        "--no-quick", action="store_true", help="runs without --quick: at the methods' own settings"
    )
    tables.add_argument(
        "--points", type=positive_int, default=20, help="FIDs along each run, of 2,000 samples"
    )
    add_sweep_args(tables, seeds=3, out="none: runs/sagan_wgangp/compare or ablation")
    add_device_args(parser.add_argument_group("run"))
    return parser.parse_args(argv)


# --- one checkpoint


def load(path, device):
    """(G, D, training args, checkpoint) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "sagan_wgangp")
    trained = argparse.Namespace(**checkpoint["args"])
    G, D = build(trained)
    for name, net in (("G", G), ("D", D)):
        load_state(net, checkpoint["state"][name], f"{name} in {path}")
    return G.to(device).eval(), D.to(device).eval(), trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250, amp="off"):
    """Yield n samples (B, C, H, W) in [-1, 1] or (B, 2)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        z = torch.randn(min(batch_size, n - start), trained.z_dim, generator=rng).to(device)
        with autocast(device, amp):
            samples = G(z)
        yield samples.float()


def intra_batch_diversity(real, fake, batch=64):
    """Mean distance of two samples of a batch, over that of two real images; features (N, F). 1: as diverse; 0: one."""
    spread = []
    for features in (fake, real):  # shuffled: a folder's images are sorted by class
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        parts = [features[part] for part in order.split(batch) if len(part) > 1]
        spread.append(np.mean([torch.pdist(part).mean().item() for part in parts]))
    return spread[0] / spread[1]


def measure(G, trained, args, device, real_set=None, extractor=None):
    """Toys: MMD² and modes. Images: FID, KID, IS, precision, recall, classes, diversity within a
    batch.

    real_set, extractor: of common.evaluate.reference; a toy needs none.
    """
    if trained.dataset in TOYS:
        samples = torch.cat(list(sample(G, args.n or 2000, trained, device, args.seed)))
        return toy_metrics(samples, toy_data(trained.dataset))
    n = args.n or 10_000
    batches = sample(G, n, trained, device, args.seed, args.batch_size, args.amp)
    metrics, real, fake = image_scores(extractor, real_set, batches, n, device, trained.data_dir)
    if metrics:
        diversity = intra_batch_diversity(real, fake)
        metrics[f"diversity_{extractor.name}_{count_tag(n)}_{args.split}"] = diversity
    return metrics


def real_images(trained, args, device):
    """The real images of a run and the extractor, for `measure`; () for a toy."""
    return () if trained.dataset in TOYS else reference(load_data, trained, args, device)


def draw(G, D, trained, args, device, log, where):
    """samples.png (Fig. 2), curves.png (Fig. 3); attention.png, where there is attention."""
    draw_samples(
        G,
        D,
        25 if trained.dataset not in TOYS else 2000,
        trained,
        device,
        where / "samples.png",
        args.seed,
    )
    if log:
        plots.curves(log, panels(trained), where / "curves.png", smooth=max(1, len(log) // 50))
    if trained.attention != "none":
        draw_attention(G, trained, args, device, where / "attention.png")


@torch.no_grad()
def draw_samples(G, D, n, trained, device, path, seed=0):
    """A grid of images; of a toy, the critic's surface with as many real and generated points."""
    if trained.dataset in TOYS:
        z = torch.randn(n, trained.z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
        return train.draw(G, D, toy_data(trained.dataset), z, trained, path)
    images = torch.cat(list(sample(G, n, trained, device, seed)))
    plots.save_grid(images, path, nrow=max(1, round(math.sqrt(n))), zoom=max(1, 64 // trained.size))


@torch.no_grad()
def attention_maps(G, z, pixel, size):
    """(images (B, C, H, W), β_j (B, side, side)): where G's last attention looks from place j, the one of `pixel`."""
    seen = {}
    block = [layer for layer in G if isinstance(layer, SelfAttention)][-1]
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    images = G(z).float()
    hook.remove()
    side = seen["x"].shape[-1]
    row, column = (place * side // size for place in pixel)
    return images, block.beta(seen["x"].float())[:, row * side + column].unflatten(1, (side, side))


def draw_attention(G, trained, args, device, path, n=8):
    """Generated images with the query pixel, and below where it looks: brighter is more, of that image's own range."""
    pixel = args.pixel or (trained.size // 2, trained.size // 2)
    if not all(0 <= place < trained.size for place in pixel):
        raise UserError(
            f"--pixel {pixel[0]} {pixel[1]}: images are {trained.size} pixels high and wide"
        )
    z = torch.randn(n, trained.z_dim, generator=torch.Generator().manual_seed(args.seed)).to(device)
    images, maps = attention_maps(G, z, pixel, trained.size)
    figure, axes = plots.plt.subplots(2, n, figsize=(1.3 * n, 2.8))
    for (top, bottom), image, attention in zip(axes.T, images.cpu(), maps.cpu()):
        top.imshow((image.permute(1, 2, 0).squeeze(-1) + 1) / 2, cmap="gray", vmin=0, vmax=1)
        bottom.imshow(
            attention, cmap="magma", extent=(-0.5, trained.size - 0.5, trained.size - 0.5, -0.5)
        )
        for axis in (top, bottom):
            axis.plot(pixel[1], pixel[0], "c+", ms=8)
            axis.axis("off")
    plots.save_figure(figure, path)


# --- tables: many runs


def stability(log, key):
    """How quiet a loss is in the second half of a run, both over its mean there: {"noise": sd about the straight line
    through it, "drift": that line's rise}. A generator's Wasserstein loss has no zero of its own: look at L_D."""
    rows = np.array([(line["step"], line[key]) for line in log if key in line])
    rows = rows[len(rows) // 2 :]
    if len(rows) < 3:
        return {"noise": math.nan, "drift": math.nan}
    line = np.polyval(np.polyfit(*rows.T, 1), rows[:, 0])
    scale = abs(rows[:, 1].mean()) or math.nan
    return {"noise": (rows[:, 1] - line).std() / scale, "drift": (line[-1] - line[0]) / scale}


def fid_curve(log):
    """[(step, FID, IS), …] of a run."""
    return [
        (line["step"], pick(line, "fid"), pick(line, "is"))
        for line in log
        if not math.isnan(pick(line, "fid"))
    ]


def loss_versus_quality(log):
    """Spearman's rank correlation of L_D, averaged up to each FID since the last one, with that FID. Wanted: −1 for L_D
    = −W (WGAN's claim that its loss falls in size as samples get better); nan for fewer than 4 FIDs."""
    curve, losses = fid_curve(log), []
    for before, (step, _, _) in zip([0] + [step for step, _, _ in curve], curve):
        losses.append(np.mean([line["L_D"] for line in log if before < line["step"] <= step]))
    return (
        float(spearmanr(losses, [fid for _, fid, _ in curve]).statistic)
        if len(curve) > 3
        else math.nan
    )


def measure_run(where, _, args):
    """What a table needs of a finished run."""
    device = choose_device(args.device)
    G, _, trained, _ = load(where / "last.pt", device)
    log = read_log(where / "log.jsonl")
    curve = fid_curve(log)
    return measure(G, trained, args, device, *real_images(trained, args, device)) | {
        "L_D": stability(log, "L_D"),
        "L_G": stability(log, "L_G"),
        "L_D_versus_FID": loss_versus_quality(log),
        "best_FID_2k": min((fid for _, fid, _ in curve), default=math.nan),
        "train_seconds": log[-1]["seconds"],
    }


def table(args, rows, name):
    """Train every row with every seed; write table and figures into the folder."""
    rows = only(rows, args.only)
    folder = Path(args.out or f"runs/sagan_wgangp/{name}")
    shared = (
        ["--fid-samples", "2000"]
        + ["--quick"] * (not args.no_quick)
        + shlex.split(args.train_flags)
    )
    shared += ["--extractor", args.extractor] * (args.extractor != "auto")
    cells = []
    for seed in range(args.seeds):
        for row, flags in rows.items():
            steps = train.parse_args([*shared, *flags]).steps
            log_every = max(1, steps // (10 * args.points))
            sample_every = max(1, steps // args.points // log_every) * log_every
            every = ["--log-every", str(log_every), "--sample-every", str(sample_every)]
            run = (
                "-".join(row.replace("−", "without").replace("+", "with").replace(",", "").split())
                + f"-{seed}"
            )
            cells.append({"name": run, "row": row, "seed": seed, "flags": [*flags, *every]})
    results = sweep(cells, train.main, measure_run, args, folder, shared)
    failed = [f"{r['name']}: {r['error']}" for r in results if "error" in r]
    by_row = {row: [r for r in results if r["row"] == row and "metrics" in r] for row in rows}
    by_row = {row: sorted(found, key=lambda r: r["seed"]) for row, found in by_row.items() if found}
    if not by_row:
        raise UserError(f"no run came through: {'; '.join(failed)}")
    text, summaries = write_table(by_row, failed)
    replace_file(folder / f"{name}.md", text.encode())
    write_json(
        folder / f"{name}.json",
        {
            "flags": shared,
            "rows": summaries,
            "failed": failed,
            "env": next(iter(by_row.values()))[0]["env"],
        },
    )
    draw_quality(by_row, folder)
    draw_losses(by_row, folder)
    draw_grids(by_row, folder)
    print(text)
    return summaries


COLUMNS = {  # heading: (value of a run's metrics, digits)
    "FID": (lambda m: pick(m, "fid"), 1),
    "best FID (2k)": (lambda m: m["best_FID_2k"], 1),
    "IS": (lambda m: pick(m, "is"), 2),
    "recall": (lambda m: pick(m, "recall"), 2),
    "share of classes ≥ 1 %": (lambda m: pick(m, "class_coverage"), 2),
    "class entropy": (lambda m: pick(m, "class_entropy"), 2),
    "diversity": (lambda m: pick(m, "diversity"), 2),
    "L_D noise": (lambda m: m["L_D"]["noise"], 2),
    "L_D drift": (lambda m: m["L_D"]["drift"], 2),
    "L_G drift": (lambda m: m["L_G"]["drift"], 2),
    "L_D ~ FID": (lambda m: m["L_D_versus_FID"], 2),
    "s a run": (lambda m: m["train_seconds"], 0),
}


def write_table(by_row, failed):
    """(Markdown, [{row, steps, seeds, heading: {mean, sd}}, …])."""
    lines, found = (
        ["| | steps | runs | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 3) + "|"],
        [],
    )
    for row, runs in by_row.items():
        values = {
            head: np.array([value(r["metrics"]) for r in runs], float)
            for head, (value, _) in COLUMNS.items()
        }
        sd = {head: v.std(ddof=1) if len(v) > 1 else None for head, v in values.items()}
        found.append(
            {
                "row": row,
                "steps": runs[0]["step"],
                "seeds": [r["seed"] for r in runs],
                **{
                    head: {"mean": v.mean(), "sd": sd[head], "runs": v.tolist()}
                    for head, v in values.items()
                },
            }
        )
        cells = [
            f"{v.mean():.{digits}f}" + (f" ± {sd[head]:.{digits}f}" if len(v) > 1 else "")
            for (head, v), (_, digits) in zip(values.items(), COLUMNS.values())
        ]
        lines.append(f"| {row} | {runs[0]['step']} | {len(runs)} | {' | '.join(cells)} |")
    order = sorted(found, key=lambda row: row["FID"]["mean"])
    lines += ["", "By mean FID, best first: " + ", ".join(row["row"] for row in order) + "."]
    if {"GAN", "SAGAN + WGAN-GP"} <= set(by_row):
        lines.append(
            f"The paper: best is SAGAN + WGAN-GP (here {order[0]['row']}), worst is GAN (here "
            f"{order[-1]['row']})."
        )
    lines += [f"FAILED {line}" for line in failed]
    return "\n".join(lines) + "\n", found


def logs(runs, folder):
    return [read_log(folder / r["name"] / "log.jsonl") for r in runs]


def draw_quality(by_row, folder):
    """Fig. 4: FID and IS over the share of the run's steps, that is of its time; a line a seed."""
    figure, axes = plots.plt.subplots(1, 2, figsize=(11, 4))
    for i, (row, runs) in enumerate(by_row.items()):
        for j, curve in enumerate(fid_curve(log) for log in logs(runs, folder)):
            if curve:
                steps, fids, scores = np.array(curve).T
                for axis, values in zip(axes, (fids, scores)):
                    axis.plot(
                        steps / steps[-1],
                        values,
                        f"C{i % 10}",
                        lw=1,
                        ls="-" if i < 10 else "--",
                        label=row if j == 0 else None,
                    )
    axes[0].set(xlabel="share of the run", ylabel="FID, 2,000 samples", yscale="log")
    axes[1].set(xlabel="share of the run", ylabel="IS, 2,000 samples")
    axes[1].legend(fontsize=7)
    plots.save_figure(figure, folder / "quality.png")


def draw_losses(by_row, folder):
    """Fig. 3: D's and G's loss of the first seed's run of each row."""
    figure, axes = plots.plt.subplots(2, len(by_row), figsize=(2.6 * len(by_row), 4), squeeze=False)
    for column, (row, runs) in zip(axes.T, by_row.items()):
        log = logs(runs[:1], folder)[0]
        for axis, key in zip(column, ("L_D", "L_G")):
            axis.plot([line["step"] for line in log], [line[key] for line in log], lw=0.7)
            axis.set_ylabel(key)
        column[0].set_title(row, fontsize=8)
        column[1].set_xlabel("step")
    figure.tight_layout()
    plots.save_figure(figure, folder / "losses.png")


def draw_grids(by_row, folder):
    """Fig. 2: 5x5 samples of the first seed's run of each row."""
    device, columns = torch.device("cpu"), min(5, len(by_row))
    figure, axes = plots.plt.subplots(
        -(-len(by_row) // columns),
        columns,
        squeeze=False,
        figsize=(3 * columns, 3.2 * -(-len(by_row) // columns)),
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (row, runs) in zip(axes.flat, by_row.items()):
        G, _, trained, _ = load(folder / runs[0]["name"] / "last.pt", device)
        axis.imshow(
            plots.grid(torch.cat(list(sample(G, 25, trained, device))), 5).squeeze(), cmap="gray"
        )
        axis.set_title(row, fontsize=9)
    plots.save_figure(figure, folder / "grids.png")


# --- critics alone (WGAN-GP, Fig. 1a)


def distance_seen(D, x, fake, epsilon):
    """((E D(x) − E D(x̃)) / K, K), K = max ‖∇D‖ over x, x̃ and x̂ = ε x + (1 − ε) x̃: what D finds of W₁ once it is scaled
    to be 1-Lipschitz there. x, fake: (B, 2), epsilon (B,). At most W₁, but for slopes that no point met."""
    points = torch.cat([x, fake, torch.lerp(fake, x, epsilon[:, None])]).requires_grad_()
    slope = torch.autograd.grad(D(points).sum(), points)[0].norm(dim=1).max()
    with torch.no_grad():
        return float(wasserstein_distance(D(x), D(fake)) / slope), float(slope)


def noisy_pairs(data, n, rng, device):
    """x (n, 2) of a toy, x̃ (n, 2) of the toy plus N(0, I) noise, ε (n,): WGAN-GP's generator "held fixed" (§3.1)."""
    x, fake = data.sample(n, rng)[0], data.sample(n, rng)[0] + torch.randn(n, 2, generator=rng)
    return x.to(device), fake.to(device), torch.rand(n, generator=rng).to(device)


def train_critic(args, data, device):
    """D alone, against the generator of noisy_pairs."""
    seed_all(args.seed)
    D = build(args)[1].to(device)
    opt_D = make_optimizer(D, args.lr_d, args, device)
    for step in tqdm(
        range(1, args.steps + 1), desc=f"{args.dataset}, {args.method}", disable=None, leave=False
    ):
        x, fake, epsilon = noisy_pairs(data, args.batch_size, step_rng(args.seed, step), device)
        L_D = wasserstein_critic_loss(D(x), D(fake))
        if args.gp:
            L_D = L_D + args.gp * gradient_penalty(D, x, fake, epsilon)
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()
        if args.clip:
            clip_weights(D, args.clip)
    return D


def value_surfaces(args):
    """Critics of the three toys, clipped above and penalised below: their values in the plane, and how much they see
    of W₁ between the toy and the noisy toy (exact for --n points each, which is a little too large)."""
    folder, device = Path(args.out or "runs/sagan_wgangp/surfaces"), choose_device(args.device)
    figure, axes = plots.plt.subplots(2, len(TOYS), figsize=(3.2 * len(TOYS), 6.4), squeeze=False)
    n, side, found = args.n or 2000, torch.linspace(-2.5, 2.5, 128), []
    for toy, column in zip(TOYS, axes.T):
        x, fake, epsilon = noisy_pairs(toy_data(toy), n, step_rng(args.seed, 0), device)
        costs = cdist(x.cpu(), fake.cpu())
        exact = costs[linear_sum_assignment(costs)].mean()
        # The paper's λ: where D's slope is k, D gains k·W₁ − λ(k − 1)², so k = 1 + W₁/2λ, 5 for the toys' λ = 0.1.
        for axis, flags in zip(
            column, (["--method", "wgan"], ["--method", "wgan_gp", "--gp", "10"])
        ):
            trained = train.parse_args(
                [
                    "--dataset",
                    toy,
                    *flags,
                    "--steps",
                    "5000",
                    "--seed",
                    str(args.seed),
                    *shlex.split(args.train_flags),
                ]
            )
            method = trained.method
            D = train_critic(trained, toy_data(toy), device)
            seen, K = distance_seen(D, x, fake, epsilon)
            found.append(
                {
                    "toy": toy,
                    "method": method,
                    "steps": trained.steps,
                    "slope": K,
                    "W1_seen": seen,
                    f"W1_exact_{count_tag(n)}": exact,
                }
            )
            print(f"{toy:12} {NAMES[method]:8} slope {K:.2g}, sees {seen:.3f} of W1 = {exact:.3f}")
            with torch.no_grad():
                values = D(torch.cartesian_prod(side, side).to(device)).reshape(128, 128).T.cpu()
            axis.contour(side, side, values, levels=20, linewidths=0.8)
            axis.scatter(*x[:500].cpu().T, s=2, c="tab:orange")
            axis.set(title=f"{NAMES[method]}: {seen / exact:.0%} of W1", xticks=[], yticks=[])
    plots.save_figure(figure, folder / "surfaces.png")
    write_json(
        folder / "surfaces.json", {"rows": found, "seed": args.seed, "env": environment(device)}
    )
    return found


def main(argv=None):
    args = parse_args(argv)
    if args.compare:
        return table(args, COMPARE, "compare")
    if args.ablation:
        return table(args, ablation(not args.no_quick), "ablation")
    if args.surfaces:
        return value_surfaces(args)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "sagan_wgangp")
    G, D, trained, checkpoint = load(path, device)
    if args.samples:
        draw_samples(G, D, args.samples, trained, device, Path(args.grid_out), args.seed)
        return say_written(args.grid_out)
    if args.export:
        return plots.export_samples(
            sample(G, args.n or 10_000, trained, device, args.seed, args.batch_size, args.amp),
            args.export,
        )

    print(f"{path}: {NAMES[trained.method]}, step {checkpoint['step']}, {trained.dataset}")
    found = real_images(trained, args, device)
    where = output_dir(path, "sagan_wgangp")
    with named_outputs(where):
        draw(G, D, trained, args, device, read_log(path.with_name("log.jsonl")), where)
        metrics = measure(G, trained, args, device, *found)
        write_eval(where, path, checkpoint, metrics, device)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
