"""The thesis' figures and table, and the numbers that it leaves to the eye. From the repository's root:

  python -m began.eval                                   the newest run under runs/began
  python -m began.eval --ckpt DIR --n 10000              a run or a checkpoint; FID from 10,000 samples
  python -m began.eval --ckpt … --samples 64 --grid-out grid.png    only draw samples
  python -m began.eval --ckpt … --n 50000 --export DIR    only write samples, as DIR/samples.npz and PNGs
  python -m began.eval --gammas 0.3 0.5 0.7              the newest run of each γ side by side, from --runs

Writes eval_<step>.json and figures beside the checkpoint. Samples are drawn with G in eval mode (running BatchNorm
statistics); D reconstructs in train mode (batch statistics), as it does all through training.
"""

import argparse
import glob
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common import plots
from common.cli import add_device_args, add_eval_args, file_path, new_parser, run_main
from common.data import load_images
from common.device import autocast, choose_device, import_torchvision
from common.errors import UserError
from common.evaluate import (checkpoint_path, image_scores, named_outputs, output_dir, print_metrics, reference,
                             say_written, write_eval)
from common.metrics import pick
from common.runs import load_checkpoint, load_state, read_log, write_json

from .train import EPOCH, THESIS_LOG, THESIS_POINTS, build, sample_z


def parse_args(argv=None):
    parser = new_parser(__doc__)
    add_eval_args(parser, "began")
    parser.add_argument("--gammas", type=float, nargs="+", metavar="γ", help="only compare the newest run of each γ")
    parser.add_argument("--runs", type=file_path, default="runs/began/*", metavar="GLOB",
                        help="where --gammas looks for runs")
    add_device_args(parser.add_argument_group("run"))
    return parser.parse_args(argv)


def load(path, device):
    """(G, D, training args, checkpoint) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "began")
    trained = argparse.Namespace(**checkpoint["args"])
    if trained.encoder == "resnet18":
        import_torchvision()
    G, D = build(trained, trained.channels)
    for name, net in (("G", G), ("D", D)):
        load_state(net, checkpoint["state"][name], f"{name} in {path}")
    return G.to(device).eval(), D.to(device), trained, checkpoint


def load_data(trained, split):
    """Real images to compare with."""
    return load_images(trained.dataset, trained.data_dir, split, trained.size, trained.channels)


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250, amp="off"):
    """Yield n images (B, C, H, W) in [-1, 1]: clamped, since Berthelot's generator is not squashed."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        z = sample_z(min(batch_size, n - start), trained, rng).to(device)
        with autocast(device, amp):
            images = G(z)
        yield images.float().clamp(-1, 1)


def slerp(z0, z1, t):
    """Spherical interpolation (Shoemake 1985) between rows of z0 and z1 (B, N); t in [0, 1].

    Keeps the norm of normal z where a straight line would pass through untypically short ones. Rows that point
    the same way are interpolated linearly, the limit of the formula.
    """
    cosine = torch.nn.functional.cosine_similarity(z0, z1, dim=1).clamp(-1, 1)[:, None]
    angle = torch.acos(cosine)
    curved = (torch.sin((1 - t) * angle) * z0 + torch.sin(t * angle) * z1) / torch.sin(angle).clamp(min=1e-12)
    return torch.where(angle.sin() < 1e-4, torch.lerp(z0, z1, t), curved)


@torch.no_grad()
def reconstruct(D, images):
    D.train()
    return D(images).float().clamp(-1, 1)


def thesis_table(log):
    """[(epoch, our mean M over the last 100 steps up to step 900 of that epoch, the thesis' M there), …]."""
    rows = []
    for epoch, printed in enumerate(THESIS_LOG):
        end = 900 + EPOCH * epoch
        ours = [line["M"] for line in log if end - 100 < line["step"] <= end]
        if ours and log[-1]["step"] >= end:
            rows.append({"epoch": epoch + 1, "M_ours": float(np.mean(ours)), "M_thesis": printed[3]})
    return rows


def gamma_sweep(args, device):
    """The newest run of each γ: a row of samples, FID, recall and class entropy. -> gammas.png beside the runs."""
    found = {}
    for path in sorted(map(Path, glob.glob(f"{args.runs}/last.pt")), key=lambda p: p.stat().st_mtime):
        found[load_checkpoint(path, "began")["args"]["gamma"]] = path
    if missing := [g for g in args.gammas if g not in found]:
        raise UserError(f"--gammas: no run in {args.runs} with γ = {missing}. There are: {sorted(found)}. "
                        "Train one with --gamma, or name others with --runs")
    rows, results = [], []
    for gamma in args.gammas:
        G, _, trained, checkpoint = load(found[gamma], device)
        rows.append(torch.cat(list(sample(G, 12, trained, device, args.seed))).cpu())
        metrics = measure(G, trained, args, device, *reference(load_data, trained, args, device))
        results.append({"gamma": gamma, "step": checkpoint["step"], "checkpoint": str(found[gamma]), **metrics})
    figure, axes = plots.plt.subplots(len(rows), 1, figsize=(9, 1.1 * len(rows)), squeeze=False)
    for axis, images, result in zip(axes[:, 0], rows, results):
        axis.imshow(plots.grid(images, 12).squeeze(), cmap="gray")
        axis.set_title(f"γ = {result['gamma']}: FID {pick(result, 'fid'):.1f}, recall {pick(result, 'recall'):.2f}, "
                       f"class entropy {pick(result, 'class_entropy'):.2f}, step {result['step']}", fontsize=8)
        axis.axis("off")
    beside = found[args.gammas[0]].parent.parent
    plots.save_figure(figure, beside / "gammas.png")
    write_json(beside / "gammas.json", results)
    print(json.dumps(results, indent=1))
    return results


def measure(G, trained, args, device, real_set, extractor):
    """FID, KID, IS, precision and recall of samples, and how the classifier sees their classes."""
    batches = sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp)
    return image_scores(extractor, real_set, batches, args.n, device, trained.data_dir)[0]


def draw(G, D, trained, args, device, real_set, log, where):
    """Samples, reconstructions, interpolations, curves in `where`. -> thesis_table"""
    images = torch.cat(list(sample(G, 64, trained, device, args.seed)))
    plots.save_grid(images, where / "samples.png", zoom=max(1, 64 // trained.size))

    real = real_set.images_at(torch.arange(min(64, len(real_set))), device)
    shown = min(16, len(real))
    rows = [part[:shown] for part in (real, reconstruct(D, real), images, reconstruct(D, images))]
    plots.save_grid(torch.cat(rows), where / "reconstructions.png", nrow=shown)

    z = sample_z(8, trained, torch.Generator().manual_seed(args.seed)).to(device)
    t = torch.linspace(0, 1, 11).tolist()
    with torch.no_grad():
        rows = [torch.stack([G(path(z[:4], z[4:], s)).float() for s in t], 1).flatten(0, 1)
                for path in (torch.lerp, slerp)]
    plots.save_grid(torch.cat(rows), where / "interpolation.png", nrow=11)

    as_thesis = trained.arch == "thesis" and trained.batch_size == 64
    if log:
        plots.curves(log, [["L_x", "L_G"], ["L_D"], ["k"], ["M"]], where / "curves.png", smooth=10,
                     points=THESIS_POINTS if as_thesis else None)
    return thesis_table(log) if log and as_thesis else []


def draw_classes(metrics, classes, path):
    """The class histogram: what the classifier sees in the samples, against the data's equal shares."""
    counts, entropy = (np.array(pick(metrics, f"class_{key}")) for key in ("counts", "entropy"))
    figure, axis = plots.plt.subplots(figsize=(7, 2.4))
    axis.bar(range(len(counts)), 100 * counts / counts.sum())
    axis.axhline(100 / len(counts), color="k", lw=1, ls="--")
    names = classes if len(classes) == len(counts) else range(len(counts))
    axis.set_xticks(range(len(counts)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("% of samples")
    axis.set_title(f"{counts.sum():,} samples: entropy {entropy:.2f} of {math.log(len(counts)):.2f} nats, "
                   f"{(counts * 100 >= counts.sum()).sum()} of {len(counts)} classes hold 1 % or more", fontsize=9)
    plots.save_figure(figure, path)


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.device)
    if args.gammas:
        return gamma_sweep(args, device)
    path = checkpoint_path(args.ckpt, "began")
    G, D, trained, checkpoint = load(path, device)
    if args.samples:
        images = torch.cat(list(sample(G, args.samples, trained, device, args.seed, args.batch_size)))
        plots.save_grid(images, args.grid_out, nrow=max(1, round(math.sqrt(args.samples))))
        return say_written(args.grid_out)
    if args.export:
        return plots.export_samples(sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp),
                                    args.export)

    print(f"{path}: BEGAN, step {checkpoint['step']}, {trained.dataset} at {trained.size}x{trained.size}")
    real_set, extractor = reference(load_data, trained, args, device)
    where = output_dir(path, "began")
    with named_outputs(where):
        table = draw(G, D, trained, args, device, real_set, read_log(path.with_name("log.jsonl")), where)
        write_eval(where, path, checkpoint, {}, device, thesis_table=table)
        metrics = measure(G, trained, args, device, real_set, extractor)
        write_eval(where, path, checkpoint, metrics, device, thesis_table=table)
        if pick(metrics, "class_counts", None):
            draw_classes(metrics, real_set.classes, where / "classes.png")
    print_metrics(metrics)
    for row in table:
        print(f"epoch {row['epoch']}: M {row['M_ours']:.4f}, thesis {row['M_thesis']:.4f}")
    return metrics


if __name__ == "__main__":
    run_main(main)
