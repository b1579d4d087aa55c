"""Measure and draw one checkpoint of E-GAN. From the repository's root:

  python -m egan.eval                                    the newest run under runs/egan
  python -m egan.eval --ckpt DIR --n 10000               a run or a checkpoint, by 10,000 samples
  python -m egan.eval --ckpt … --samples 64 --grid-out grid.png    only draw samples
  python -m egan.eval --ckpt … --n 50000 --export DIR    only write samples, as DIR/samples.npz
                                                         (of images PNGs, too)

Writes eval_<step>.json and figures beside the checkpoint. Of a population the fittest individual of
the last generation is evaluated; --individual 1 is the next, in eval_<step>_individual1.json. No
network has train and eval modes that differ. The paper's tables, which train many runs, are made by
egan.reproduce.
"""

import argparse
import sys
from dataclasses import dataclass

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m egan.eval", file=sys.stderr)
    sys.exit(2)

from common import plots
from common import arguments
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
from common.metrics.toy import toy_metrics
from common.onnx import write_onnx
from common.runs import load_checkpoint, load_state, read_log
from common.toys import MIXTURES, mixture

from .samples import draw_samples, draw_selected, panels, sample_z
from .train import build, load_data

# of MMD; Table II does not give its own
BANDWIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)


@dataclass
class Args(EvalArgs):
    # --- one checkpoint
    n: int | None = None  # samples for the metrics; none: 2,000 of toys, 10,000 of images
    individual: int = 0  # place in the population, 0: the fittest; in [0, ∞)


def load(path, device, individual=0):
    """(G, training args, checkpoint) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "egan")
    trained = argparse.Namespace(**checkpoint["args"])
    if individual >= trained.mu:
        raise UserError(
            f"--individual {individual}: the population in {path} has places 0 to {trained.mu - 1}"
        )
    G = build(trained)[0][0]
    params = checkpoint["state"]["population"]["params"]
    weights = {name: stack[individual] for name, stack in params.items()}
    load_state(G, weights, f"a generator in {path}")
    return G.to(device).eval().requires_grad_(False), trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250, amp="off"):
    """Yield n samples (B, 2) or (B, C, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        z = sample_z((min(batch_size, n - start),), trained, rng).to(device)
        with autocast(device, amp):
            samples = G(z)
        yield samples.float()


def default_n(trained):
    """Samples for the metrics where --n does not say."""
    return 2000 if trained.dataset in MIXTURES else 10_000


def real_images(trained, args, device):
    """The real images of a run and the extractor, for `measure`; (None, None) for a toy."""
    if trained.dataset in MIXTURES:
        return None, None
    return reference(load_data, trained, args, device)


def measure(G, trained, args, device, real_set, extractor):
    """Toys: MMD², modes, high-quality share. Images: FID, KID, IS, precision, recall, classes.

    real_set, extractor: of `real_images`.
    """
    batches = sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp)
    if trained.dataset in MIXTURES:
        return toy_metrics(torch.cat(list(batches)), mixture(trained.dataset), BANDWIDTHS)
    return image_scores(extractor, real_set, batches, args.n, device, trained.data_dir)[0]


def draw(G, trained, args, device, log, where, part=""):
    """Samples, curves, selected mutations (Fig. 4, right); images: interpolation between two z.

    part: what the names of G's own pictures end in.
    """
    part = f"_{part}" if part else ""
    toy = trained.dataset in MIXTURES
    samples = sample(G, 10_000 if toy else 64, trained, device, args.seed)
    draw_samples(torch.cat(list(samples)).cpu(), trained.dataset, where / f"samples{part}.png")
    if not toy:
        draw_interpolation(G, trained, args, device, where / f"interpolation{part}.png")
    if log:
        plots.curves(log, panels(trained), where / "curves.png", smooth=max(1, len(log) // 50))
        draw_selected(log, trained.mutations, where / "selected.png")


def draw_interpolation(G, trained, args, device, path):
    """G((1 − α) z₁ + α z₂) for four pairs of z, α = 0, 0.1, …, 1."""
    z = sample_z((8,), trained, torch.Generator().manual_seed(args.seed)).to(device)
    z1, z2 = z.chunk(2)
    alphas = torch.linspace(0, 1, 11).tolist()
    images = torch.stack([G(torch.lerp(z1, z2, a)) for a in alphas], 1).flatten(0, 1)
    labels = dict(
        rows=[f"pair {i}" for i in (1, 2, 3, 4)], columns=[f"α = {a:.1f}" for a in alphas]
    )
    plots.save_grid(images, path, nrow=11, **labels)


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "egan")
    G, trained, checkpoint = load(path, device, args.individual)
    args.n = args.n or default_n(trained)
    if args.slim:
        population = {"params": {name: w[None] for name, w in G.state_dict().items()}}
        return write_slim(args.slim, checkpoint, args={"mu": 1}, population=population)
    if args.onnx:
        z = sample_z((2,), trained, None)
        return write_onnx(args.onnx, G, {"z": z}, "samples", about={"z": "uniform on [-1, 1]"})
    if args.samples:
        samples = sample(G, args.samples, trained, device, args.seed, args.batch_size, args.amp)
        draw_samples(torch.cat(list(samples)).cpu(), trained.dataset, args.grid_out)
        return say_written(args.grid_out)
    if args.export:
        samples = sample(G, args.n, trained, device, args.seed, args.batch_size, args.amp)
        return plots.export_samples(samples, args.export)

    print(f"{path}: E-GAN, μ = {trained.mu}, generation {checkpoint['step']}, {trained.dataset}")
    real_set, extractor = real_images(trained, args, device)
    where = output_dir(path, "egan")
    with named_outputs(where):
        part = f"individual{args.individual}" if args.individual else ""
        log = read_log(path.with_name("log.jsonl"))
        draw(G, trained, args, device, log, where, part)
        metrics = measure(G, trained, args, device, real_set, extractor)
        more = {"individual": args.individual, "classes": real_set.classes if real_set else []}
        write_eval(where, path, checkpoint, metrics, device, part, **more)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
