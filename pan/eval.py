"""Measure and draw one checkpoint of PAN. From the repository's root:

  python -m pan.eval                            the newest run under runs/pan
  python -m pan.eval --ckpt DIR --n 10000       a run or a checkpoint; 10,000 held-out pairs
  python -m pan.eval --ckpt … --transform DIR --out NEW        T of your own images
  python -m pan.eval --ckpt … --samples 12 --grid-out grid.png      only draw x, T(x), y
  python -m pan.eval --ckpt … --n 1000 --export DIR                 only write x, T(x), y

Writes eval_<step>.json (with --split train eval_<step>_train.json) and figures beside the
checkpoint: PSNR, SSIM, UQI and VIF of T(x) against y, and input_… of x, untouched; FID where there
is an extractor, but not of pairs of files. T runs in eval mode (running BatchNorm statistics). In
in-painting whole images are compared; T paints a quarter of each.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m pan.eval", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.arguments import EvalArgs, FilePath
from common.cli import run_main
from common.device import autocast, choose_device
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    say_written,
    set_data_dir,
    write_eval,
    write_slim,
)
from common.metrics.extractors import load_extractor
from common.metrics.images import grey_levels
from common.metrics.pairs import pair_metrics
from common.runs import load_checkpoint, load_state, read_log

from .pairs import TaskPairs
from .pictures import draw_curves, in_rows, whole
from .train import build, load_data
from .transform import transform_folder, write_graph


@dataclass
class Args(EvalArgs):
    # --- one checkpoint
    n: int = 1000  # held-out pairs to measure, or all if there are fewer
    split: Literal["train", "test"] = "test"  # pairs to measure
    # only write T of this folder's images into --out. They are x: with rain, outlines, …; for
    # super-resolution enlarged four times, bicubically, since T keeps the size
    transform: FilePath | None = None
    out: FilePath = "transformed"  # where --transform writes
    batch_size: int = 50  # images per forward pass; of --transform fewer if they are large


def load(path, device):
    """(T in eval mode, training args, checkpoint) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "pan")
    trained = argparse.Namespace(**checkpoint["args"])
    trained.no_jitter = True  # pairs are measured whole; real images then have T's size
    T, _ = build(trained)
    load_state(T, checkpoint["state"]["T"], f"T in {path}")
    return T.to(device).eval(), trained, checkpoint


@torch.no_grad()
def transform_pairs(T, pairs, n, trained, args, device):
    """Yield x, T(x), y of the first n pairs, whole images (B, C, H, W) in [-1, 1]."""
    for indices in torch.arange(n).split(args.batch_size):
        x, y = pairs.pairs_at(indices, device, args.seed)
        with autocast(device, args.amp):
            fake = T(x)
        yield x, whole(trained.task, x, fake.float()), whole(trained.task, x, y)


def measure(T, pairs, trained, args, device):
    """Scores of T(x) against y and, as input_…, of x against y."""
    n = min(args.n, len(pairs))
    batches = transform_pairs(T, pairs, n, trained, args, device)
    on_cpu = ([part.cpu() for part in batch] for batch in batches)
    x, fake, y = (torch.cat(part) for part in zip(*on_cpu))
    extractor = None
    if isinstance(pairs, TaskPairs) and n >= 4:  # precision looks at three neighbours
        extractor = load_extractor(
            args.extractor,
            trained.dataset,
            device,
            trained.data_dir,
            args.inception_weights,
            labelled=pairs.images.labels is not None,
        )
    metrics = {}
    for prefix, images in (("", fake), ("input_", x)):
        scores = pair_metrics(images, y)
        if extractor is not None:
            batches = images.split(args.batch_size)  # image_scores moves each to the device
            scores |= image_scores(extractor, pairs.images, batches, n, device, trained.data_dir)[0]
        metrics |= {prefix + key: value for key, value in scores.items()}
    return metrics


def draw(T, pairs, n, trained, args, device, path):
    """x, T(x), y of n pairs, four pairs a row."""
    n = min(n, len(pairs))
    parts = transform_pairs(T, pairs, n, trained, args, device)
    x, fake, y = (torch.cat(part) for part in zip(*parts))
    columns = ["x", "T(x)", "y"] * min(4, n)
    plots.save_grid(in_rows(x, fake, y), path, nrow=len(columns), columns=columns)


def export(T, pairs, trained, args, device):
    """T(x) as PNGs and as `images` of samples.npz, which has x and y, too."""
    n = min(args.n, len(pairs))
    x, fake, y = [], [], []
    for batch in transform_pairs(T, pairs, n, trained, args, device):
        for part, images in zip((x, fake, y), batch):
            part.append(images.cpu())
    plots.export_samples(fake, args.export, x=pixels(x), y=pixels(y))


def pixels(batches):
    """uint8 (N, H, W, C), as export_samples writes."""
    return grey_levels(torch.cat(batches)).byte().permute(0, 2, 3, 1).numpy()


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "pan")
    T, trained, checkpoint = load(path, device)
    if args.slim:
        return write_slim(args.slim, checkpoint, T=T)
    if args.onnx:
        return write_graph(T, trained, args.onnx)
    if args.transform:
        return transform_folder(T, trained, args, device)
    set_data_dir(trained, args)
    pairs = load_data(trained, args.split).to(device)
    if args.samples:
        draw(T, pairs, args.samples, trained, args, device, args.grid_out)
        return say_written(args.grid_out)
    if args.export:
        return export(T, pairs, trained, args, device)

    print(f"{path}: {trained.loss}, step {checkpoint['step']}, {trained.task} on {trained.dataset}")
    where = output_dir(path, "pan")
    with named_outputs(where):
        draw(T, pairs, 24, trained, args, device, where / "samples.png")
        if log := read_log(path.with_name("log.jsonl")):
            draw_curves(log, where / "curves.png")
        metrics = measure(T, pairs, trained, args, device)
        part = "" if args.split == "test" else args.split
        write_eval(where, path, checkpoint, metrics, device, part, split=args.split)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
