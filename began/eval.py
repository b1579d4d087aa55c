"""Measure and draw one checkpoint of BEGAN. From the repository's root:

  python -m began.eval                              the newest run under runs/began
  python -m began.eval --ckpt DIR --n 50000         a run or a checkpoint; FID from 50,000 samples
  python -m began.eval --ckpt … --samples 64 --grid-out grid.png     only draw samples
  python -m began.eval --ckpt … --n 50000 --export DIR               only write samples: NPZ, PNGs

Writes eval_<step>.json and figures beside the checkpoint. Samples are drawn with G in eval mode
(running BatchNorm statistics); D reconstructs in train mode (batch statistics), as in training.
"""

import argparse
import math
import sys

import numpy as np
import torch
from torch import nn

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m began.eval", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.cli import run_main
from common.data import load_images
from common.device import autocast, choose_device
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    reference,
    say_written,
    write_eval,
    write_slim,
)
from common.metrics import find_metric
from common.onnx import write_onnx
from common.runs import load_checkpoint, load_state, read_log

from .thesis_log import comparable, draw_curves, thesis_table
from .train import build, sample_z


def load(path, device):
    """(G, D, training args, checkpoint) from a checkpoint file alone; D None where it has none."""
    checkpoint = load_checkpoint(path, "began")
    trained = argparse.Namespace(**checkpoint["args"])
    G, D = build(trained)
    load_state(G, checkpoint["state"]["G"], f"G in {path}")
    if "D" not in checkpoint["state"]:
        return G.to(device).eval(), None, trained, checkpoint
    load_state(D, checkpoint["state"]["D"], f"D in {path}")
    return G.to(device).eval(), D.to(device), trained, checkpoint


def load_data(trained, split):
    """Real images to compare with."""
    return load_images(
        trained.dataset,
        trained.data_dir,
        split,
        trained.size,
        trained.channels,
        skip_bad=getattr(trained, "skip_bad", False),  # older checkpoints have no such argument
    )


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250, amp="off"):
    """Yield n images (B, C, H, W), clamped to [-1, 1]: Berthelot's generator is not squashed."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        z = sample_z(min(batch_size, n - start), trained, rng).to(device)
        with autocast(device, amp):
            images = G(z)
        yield images.float().clamp(-1, 1)


def measure(G, trained, args, device, real_set, extractor):
    """FID, KID, IS, precision and recall of samples, and how the classifier sees their classes."""
    batches = sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp)
    metrics, _, _ = image_scores(extractor, real_set, batches, args.n, device, trained.data_dir)
    return metrics


# --- pictures


@torch.no_grad()
def draw_samples(G, D, trained, args, device, real_set, where):
    """64 samples; rows of real images and D's reconstructions, of generated ones and D's."""
    images = torch.cat(list(sample(G, 64, trained, device, args.seed)))
    plots.save_grid(images, where / "samples.png")
    if D is None:
        return

    real = real_set.images_at(real_set.places(64), device)
    shown = min(16, len(real))
    D.train()  # batch statistics, as all through training
    rows = [part[:shown] for part in (real, D(real), images, D(images))]
    labels = ["x", "D(x)", "G(z)", "D(G(z))"]
    plots.save_grid(torch.cat(rows), where / "reconstructions.png", shown, rows=labels)


@torch.no_grad()
def draw_interpolations(G, trained, args, device, where):
    """Between four pairs of z: straight lines, then great circles, one row each."""
    z = sample_z(8, trained, torch.Generator().manual_seed(args.seed)).to(device)
    rows = []
    for path in (torch.lerp, slerp):
        steps = [G(path(z[:4], z[4:], t)).float() for t in torch.linspace(0, 1, 11).tolist()]
        rows.append(torch.stack(steps, 1).flatten(0, 1))
    labels = ["straight"] * 4 + ["spherical"] * 4
    plots.save_grid(torch.cat(rows), where / "interpolation.png", 11, rows=labels)


def slerp(z0, z1, t):
    """Spherical interpolation (Shoemake 1985) between rows of z0 and z1 (B, N); t in [0, 1].

    Keeps the norm of normal z where a straight line would pass through untypically short ones. Rows
    that point the same way are interpolated linearly, the limit of the formula.
    """
    cosine = torch.nn.functional.cosine_similarity(z0, z1, dim=1).clamp(-1, 1)[:, None]
    angle = torch.acos(cosine)
    arc = torch.sin((1 - t) * angle) * z0 + torch.sin(t * angle) * z1
    curved = arc / torch.sin(angle).clamp(min=1e-12)
    return torch.where(angle.sin() < 1e-4, torch.lerp(z0, z1, t), curved)


def draw_classes(metrics, classes, path):
    """What the classifier sees in the samples, against the data's equal shares."""
    counts = np.array(find_metric(metrics, "class_counts"))
    entropy = find_metric(metrics, "class_entropy")
    figure, axis = plots.plt.subplots(figsize=(7, 2.4))
    axis.bar(range(len(counts)), 100 * counts / counts.sum())
    axis.axhline(100 / len(counts), color="k", lw=1, ls="--")
    names = classes if len(classes) == len(counts) else range(len(counts))
    axis.set_xticks(range(len(counts)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("% of samples")
    axis.set_title(
        f"{counts.sum():,} samples: entropy {entropy:.2f} of {math.log(len(counts)):.2f} nats, "
        f"{(counts * 100 >= counts.sum()).sum()} of {len(counts)} classes hold 1 % or more",
        fontsize=9,
    )
    plots.save_figure(figure, path)


# --- one checkpoint


def main(argv=None):
    args = arguments.parse_args(arguments.EvalArgs, __doc__, argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "began")
    G, D, trained, checkpoint = load(path, device)
    if args.slim:
        return write_slim(args.slim, checkpoint, G=G)
    if args.onnx:
        clamped = nn.Sequential(G, nn.Hardtanh())  # to [-1, 1], as in sample
        z = sample_z(2, trained, None)
        prior = "uniform on [-1, 1]" if trained.z_dist == "uniform" else "N(0, 1)"
        return write_onnx(args.onnx, clamped, {"z": z}, "samples", about={"z": prior})
    if args.samples:
        batches = sample(G, args.samples, trained, device, args.seed, args.batch_size)
        nrow = max(1, round(math.sqrt(args.samples)))
        plots.save_grid(torch.cat(list(batches)), args.grid_out, nrow=nrow)
        return say_written(args.grid_out)
    if args.export:
        batches = sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp)
        return plots.export_samples(batches, args.export)

    step, size = checkpoint["step"], trained.size
    print(f"{path}: BEGAN, step {step}, {trained.dataset} at {size}x{size}")
    real_set, extractor = reference(load_data, trained, args, device)
    where = output_dir(path, "began")
    log = read_log(path.with_name("log.jsonl"))
    table = thesis_table(log) if comparable(trained) else []
    with named_outputs(where):
        draw_samples(G, D, trained, args, device, real_set, where)
        draw_interpolations(G, trained, args, device, where)
        if log:
            draw_curves(log, trained, where / "curves.png")
        write_eval(where, path, checkpoint, {}, device, thesis_table=table)
        metrics = measure(G, trained, args, device, real_set, extractor)
        write_eval(where, path, checkpoint, metrics, device, thesis_table=table)
        if find_metric(metrics, "class_counts", None):
            draw_classes(metrics, real_set.classes, where / "classes.png")
    print_metrics(metrics)
    for row in table:
        print(f"epoch {row['epoch']}: M {row['M_ours']:.4f}, thesis {row['M_thesis']:.4f}")
    return metrics


if __name__ == "__main__":
    run_main(main)
