"""One checkpoint's numbers and pictures. From the repository's root:

  python -m bigan.eval                              the newest run under runs/bigan
  python -m bigan.eval --ckpt DIR                   1NN, probe, reconstructions, FID, figures
  python -m bigan.eval --ckpt … --samples 64 --grid-out grid.png    only draw samples and G(E(x))
  python -m bigan.eval --ckpt … --n 50000 --export DIR    only write samples.npz (images: PNGs, too)
  python -m bigan.eval --ckpt … --score DIR --out scores.csv        only anomaly scores of images

Writes eval_<step>.json and figures beside the checkpoint. All networks are in eval mode, after
BatchNorm's statistics were recomputed over --bn-batches, as the authors do. --samples and --export
use the statistics in the checkpoint and need no data; --samples also draws test images x above
G(E(x)), where they can be had. Of a run with --hold-out the anomaly score is measured and 1NN is
not. The tables of many runs: bigan.reproduce.

--score: a line for each image below DIR, sorted by path: its file, the anomaly score and the two
parts of it, L_G (reconstruction) and L_D (features of the discriminator), see
features.py::anomaly_score. Of a file the centred square is taken and resized to the size of the
training. BatchNorm's statistics are those in the checkpoint. Without a trained D, as in a slim
checkpoint or an autoencoder, there is L_G alone.
"""

import argparse
import sys
from dataclasses import dataclass

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m bigan.eval", file=sys.stderr)
    sys.exit(2)

from common import plots
from common.arguments import EvalArgs, FilePath, parse_args as parse_table
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    reference,
    say_written,
    set_data_dir,
    write_eval,
    write_slim,
)
from common.metrics import count_tag
from common.onnx import write_onnx
from common.rng import seed_all
from common.runs import load_checkpoint, load_state
from common.toys import MIXTURES

from .batch_norm import fixed_batches, recompute_statistics
from .data import class_index, load_data, sample_z
from .features import (
    anomaly_scores,
    auroc,
    can_classify,
    encode,
    has_own_test_images,
    measure_features,
    measure_inversion,
    pixel_novelty,
)
from .figures import draw_anomaly, draw_images, pair_rows, sample_rows, save_rows
from .progress import draw_curves
from .score import write_scores
from .toys import draw_toy, measure_toy, toy_limit
from .train import AUTOENCODERS, build


@dataclass
class Args(EvalArgs):
    # --- one checkpoint
    n: int = 10_000  # samples for the metrics (MMD: 2,000 at most)
    bank: int = 60_000  # training images for 1NN and the probe
    bn_batches: int = 1000  # for BatchNorm's statistics (code: 1000)
    score: FilePath | None = None  # only write anomaly scores of this folder's images into --out
    out: FilePath = "scores.csv"  # where --score writes


def parse_args(argv=None):
    args = parse_table(Args, __doc__, argv)
    if args.amp != "off":
        raise UserError(f"--amp {args.amp}: everything here is measured in fp32. Leave it out")
    if args.split != "test":
        raise UserError(
            f"--split {args.split}: E is measured on images that it never saw. Leave it out"
        )
    return args


def load(path, device):
    """(G, E, D, training args, checkpoint) from a checkpoint file alone, in eval mode.

    D is None where the checkpoint has none.
    """
    checkpoint = load_checkpoint(path, "bigan")
    trained = argparse.Namespace(**checkpoint["args"])
    networks = dict(zip("GED", build(trained)))
    for name, net in networks.items():
        if name == "D" and name not in checkpoint["state"]:
            networks[name] = None
            continue
        load_state(net, checkpoint["state"][name], f"{name} in {path}")
        net.to(device).eval().requires_grad_(False)
    return *networks.values(), trained, checkpoint


def load_with_data(path, args, device):
    """((G, E, D), train data, test data, extractor or None, training args, checkpoint).

    BatchNorm's statistics are fresh. Toys and autoencoders need no extractor.
    """
    G, E, D, trained, checkpoint = load(path, device)
    if D is None:
        raise UserError(f"{path} has no D: it can be sampled (--samples, --export), not measured")
    if trained.dataset in MIXTURES or trained.method in AUTOENCODERS:
        set_data_dir(trained, args)
        test, extractor = load_data(trained, "test"), None
    else:
        test, extractor = reference(load_data, trained, args, device)
    data = load_data(trained)
    recompute_statistics(G, E, D, fixed_batches(data, trained, args.bn_batches, device))
    return (G, E, D), data, test, extractor, trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250):
    """Yield n samples (B, 2) or (B, C, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        yield G(sample_z(min(batch_size, n - start), trained, rng).to(device)).float()


def samples_of(G, n, trained, device, seed=0):
    return torch.cat(list(sample(G, n, trained, device, seed)))


@torch.no_grad()
def measure(networks, data, test, extractor, trained, args, device, save=lambda metrics: None):
    """{key: value} of every measurement that this run's data set and method allow.

    save: called with what there is after each, so that an error in a later one loses nothing.
    """
    G, E, D = networks
    if trained.dataset in MIXTURES:
        samples = samples_of(G, args.n, trained, device, args.seed).cpu()
        return measure_toy(G, E, samples, data, trained, args.seed, device)

    D = None if trained.method in AUTOENCODERS else D
    held_out = None if trained.hold_out is None else class_index(test, trained.hold_out)
    metrics = {}
    if held_out is not None:
        tag = f"class{held_out}_{count_tag(len(test))}"
        for name, values in anomaly_scores(G, E, D, test, device).items():
            metrics[f"auroc_{name}_{tag}"] = auroc(values, test.labels == held_out)
        if has_own_test_images(data, test):
            novelty = pixel_novelty(data, test, args.bank, device)
            metrics[f"auroc_nearest_{tag}"] = auroc(novelty, test.labels == held_out)
    elif can_classify(data, test):
        untrained = untrained_encoder(data, trained, device)
        metrics |= measure_features(E, D, untrained, data, test, args.bank, device)
    save(metrics)

    x = encode(lambda x: x, test, test.places(args.n), device)
    z = sample_z(args.n, trained, torch.Generator().manual_seed(args.seed)).to(device)
    metrics |= measure_inversion(G, E, x, z, args.batch_size, test.split)
    save(metrics)

    if D is not None:  # autoencoders give no distribution to draw z from
        batches = sample(G, args.n, trained, device, args.seed, args.batch_size)
        keep, split = None, test.split
        if held_out is not None:  # G is not asked for what it never saw
            keep, split = test.labels != held_out, f"{test.split}_without_class{held_out}"
        place = trained.data_dir
        metrics |= image_scores(extractor, test, batches, args.n, device, place, keep, split)[0]
    return metrics


def untrained_encoder(data, trained, device):
    """E with its initial weights, and BatchNorm's statistics for them."""
    seed_all(trained.seed)
    fresh = [net.to(device) for net in build(trained)]
    recompute_statistics(*fresh, fixed_batches(data, trained, 50, device))
    return fresh[1]


@torch.no_grad()
def draw(networks, data, test, trained, args, device, where):
    """Samples, reconstructions, interpolation, neighbours, anomaly, curves: PNGs in `where`."""
    G, E, D = networks
    if (where / "log.jsonl").exists():
        draw_curves(where)
    if trained.dataset in MIXTURES:
        samples = samples_of(G, 10_000, trained, device, args.seed).cpu()
        draw_toy(G, E, samples, data, trained, args.seed, device, where)
        return
    images = samples_of(G, 64, trained, device, args.seed)
    draw_images(G, E, images, data, test, args.bank, device, where)
    if trained.hold_out is not None:
        D = None if trained.method in AUTOENCODERS else D
        held_out = class_index(test, trained.hold_out)
        scores = anomaly_scores(G, E, D, test, device)
        draw_anomaly(scores, test.labels == held_out, test.classes[held_out], where)


@torch.no_grad()
def draw_samples(G, E, trained, args, device):
    """--grid-out: G(z); for images also test images x above G(E(x)), where they can be had."""
    batches = sample(G, args.samples, trained, device, args.seed, args.batch_size)
    samples = torch.cat(list(batches))
    if trained.dataset in MIXTURES:
        limit = toy_limit(load_data(trained))
        plots.densities({"G(z)": samples.cpu()}, args.grid_out, limit=limit)
        return say_written(args.grid_out)
    rows = sample_rows(samples)
    try:
        set_data_dir(trained, args)
        test = load_data(trained, "test")
        x = test.images_at(test.places(32), device)
        rows += pair_rows(x, G(E(x)).float())
    except UserError as e:
        print(f"warning: no test images, so only samples are drawn. {e}", file=sys.stderr)
    save_rows(rows, args.grid_out)
    say_written(args.grid_out)


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "bigan")
    if args.samples or args.export or args.slim or args.onnx or args.score:
        G, E, D, trained, checkpoint = load(path, device)
        if args.score:
            return write_scores(G, E, D, trained, path, args, device)
        if args.slim:
            return write_slim(args.slim, checkpoint, G=G, E=E)
        if args.onnx:
            z = sample_z(2, trained, None)
            prior = "uniform on [-1, 1]" if trained.prior == "uniform" else "N(0, 1)"
            return write_onnx(args.onnx, G, {"z": z}, "samples", about={"z": prior})
        if args.samples:
            return draw_samples(G, E, trained, args, device)
        batches = sample(G, args.n, trained, device, args.seed, args.batch_size)
        return plots.export_samples(batches, args.export)

    networks, data, test, extractor, trained, checkpoint = load_with_data(path, args, device)
    print(f"{path}: {trained.method}, {trained.arch}, step {checkpoint['step']}, {trained.dataset}")
    where = output_dir(path, "bigan")

    def save(metrics):
        write_eval(where, path, checkpoint, metrics, device)

    with named_outputs(where):
        draw(networks, data, test, trained, args, device, where)
        metrics = measure(networks, data, test, extractor, trained, args, device, save)
        save(metrics)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
