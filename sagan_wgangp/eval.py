"""One checkpoint: its numbers and pictures. From the repository's root:

  python -m sagan_wgangp.eval                            the newest run under runs/sagan_wgangp
  python -m sagan_wgangp.eval --ckpt DIR --pixel 10 16   a run; attention of that pixel
  python -m sagan_wgangp.eval --ckpt … --samples 25 --grid-out grid.png     only draw samples
  python -m sagan_wgangp.eval --ckpt … --n 50000 --export DIR               only write samples

Writes eval_<step>.json and figures beside the checkpoint. Samples are drawn with G in eval mode
(running BatchNorm statistics). The paper's tables and figures of many runs: reproduce.py.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m sagan_wgangp.eval",
        file=sys.stderr,
    )
    sys.exit(2)

from common import arguments, plots
from common.arguments import EvalArgs
from common.cli import run_main
from common.device import autocast, choose_device
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
    write_slim,
)
from common.metrics import count_tag
from common.metrics.toy import toy_metrics
from common.onnx import write_onnx
from common.runs import load_checkpoint, load_state, read_log
from common.toys import TOYS, toy_data

from . import pictures
from .train import build, load_data, sample_z

NAMES = {
    "gan": "GAN",
    "wgan": "WGAN",
    "wgan_gp": "WGAN-GP",
    "sagan": "SAGAN",
    "sagan_wgan_gp": "SAGAN + WGAN-GP",
}


@dataclass
class Args(EvalArgs):
    # --- one checkpoint
    n: int | None = None  # samples to measure; none: 2,000 (toys), 10,000 (images)
    # ROW COLUMN of the pixel whose attention is drawn, each in [0, ∞); none: the centre
    pixel: tuple[int, int] | None = None


def parse_args(argv=None):
    return arguments.parse_args(Args, __doc__, argv)


def load(path, device):
    """(G, D, training args, checkpoint) from a checkpoint file alone; D None where it has none."""
    checkpoint = load_checkpoint(path, "sagan_wgangp")
    trained = argparse.Namespace(**checkpoint["args"])
    G, D = build(trained)
    load_state(G, checkpoint["state"]["G"], f"G in {path}")
    if "D" not in checkpoint["state"]:
        return G.to(device).eval(), None, trained, checkpoint
    load_state(D, checkpoint["state"]["D"], f"D in {path}")
    return G.to(device).eval(), D.to(device).eval(), trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250, amp="off"):
    """Yield n samples (B, C, H, W) in [-1, 1] or (B, 2)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        z = sample_z(min(batch_size, n - start), trained, rng).to(device)
        with autocast(device, amp):
            samples = G(z)
        yield samples.float()


def intra_batch_diversity(real, fake, batch=64):
    """Mean distance of two samples of a batch, over that of two real images.

    real, fake: features (N, F). 1: as diverse as real images; 0: all the same.
    """
    spread = []
    for features in (fake, real):  # shuffled: a folder's images are sorted by class
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
        parts = [features[part] for part in order.split(batch) if len(part) > 1]
        spread.append(np.mean([torch.pdist(part).mean().item() for part in parts]))
    return spread[0] / spread[1]


def default_n(trained):
    """Samples for the metrics where --n does not say."""
    return 2000 if trained.dataset in TOYS else 10_000


def measure(G, trained, args, device, real_set=None, extractor=None):
    """Toys: MMD² and modes. Images: FID (Eq. 6), KID, IS (Eq. 5), precision, recall, diversity.

    real_set, extractor: of common.evaluate.reference; a toy needs none.
    """
    n = args.n or default_n(trained)
    if trained.dataset in TOYS:
        samples = torch.cat(list(sample(G, n, trained, device, args.seed)))
        return toy_metrics(samples, toy_data(trained.dataset))
    batches = sample(G, n, trained, device, args.seed, args.batch_size, args.amp)
    metrics, real, fake = image_scores(extractor, real_set, batches, n, device, trained.data_dir)
    if metrics:
        diversity = intra_batch_diversity(real, fake)
        metrics[f"diversity_{extractor.name}_{count_tag(n)}_{real_set.split}"] = diversity
    return metrics


def real_images(trained, args, device):
    """The real images of a run and the extractor, for `measure`; () for a toy."""
    return () if trained.dataset in TOYS else reference(load_data, trained, args, device)


def draw(G, D, trained, args, device, log, where):
    """samples.png (Fig. 2), curves.png (Fig. 3); attention.png, where there is attention."""
    n = 2000 if trained.dataset in TOYS else 25
    draw_samples(G, D, n, trained, device, where / "samples.png", args.seed)
    if log:
        smooth = max(1, len(log) // 50)
        plots.curves(log, pictures.panels(trained), where / "curves.png", smooth=smooth)
    if trained.attention != "none":
        pixel = args.pixel or (trained.size // 2, trained.size // 2)
        if max(pixel) >= trained.size:
            raise UserError(
                f"--pixel {pixel[0]} {pixel[1]}: images are {trained.size} pixels high and wide"
            )
        z = sample_z(8, trained, torch.Generator().manual_seed(args.seed)).to(device)
        pictures.draw_attention(G, z, pixel, trained.size, where / "attention.png")


@torch.no_grad()
def draw_samples(G, D, n, trained, device, path, seed=0):
    """A grid of images; of a toy, the critic's surface with as many real and generated points."""
    if trained.dataset in TOYS:
        z = sample_z(n, trained, torch.Generator().manual_seed(seed)).to(device)
        pictures.draw(G, D, toy_data(trained.dataset), z, trained, path)
        return
    images = torch.cat(list(sample(G, n, trained, device, seed)))
    plots.save_grid(images, path, nrow=max(1, round(math.sqrt(n))))


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "sagan_wgangp")
    G, D, trained, checkpoint = load(path, device)
    if args.slim:
        toy = trained.dataset in TOYS
        nets = {"G": G, "D": D} if toy and D is not None else {"G": G}  # a toy's pictures show D
        return write_slim(args.slim, checkpoint, **nets)
    if args.onnx:
        z = sample_z(2, trained, None)
        return write_onnx(args.onnx, G, {"z": z}, "samples", about={"z": "N(0, 1)"})
    if args.samples:
        draw_samples(G, D, args.samples, trained, device, Path(args.grid_out), args.seed)
        return say_written(args.grid_out)
    if args.export:
        n = args.n or default_n(trained)
        batches = sample(G, n, trained, device, args.seed, args.batch_size, args.amp)
        return plots.export_samples(batches, args.export)

    print(f"{path}: {NAMES[trained.method]}, step {checkpoint['step']}, {trained.dataset}")
    real = real_images(trained, args, device)
    where = output_dir(path, "sagan_wgangp")
    with named_outputs(where):
        draw(G, D, trained, args, device, read_log(path.with_name("log.jsonl")), where)
        metrics = measure(G, trained, args, device, *real)
        write_eval(where, path, checkpoint, metrics, device)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
