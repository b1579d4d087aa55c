"""One checkpoint: its numbers and pictures. From the repository's root:

  python -m cagan.eval                                   the newest run under runs/cagan
  python -m cagan.eval --ckpt DIR --n 10000              a run or a checkpoint; 10,000 samples
  python -m cagan.eval --ckpt … --samples 80 --grid-out grid.png    only draw, a row per condition
  python -m cagan.eval --ckpt … --n 50000 --export DIR   only write samples and conditions

Writes eval_<step>.json and figures beside the checkpoint. G has no state that differs between train
and eval mode. The paper's figures, by many runs: reproduce.py.
"""

import argparse
import sys

import numpy as np
import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m cagan.eval", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError, say
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    progress,
    reference,
    say_written,
    write_eval,
    write_slim,
)
from common.metrics import find_metric
from common.metrics.images import image_metrics
from common.onnx import write_onnx
from common.runs import load_checkpoint, load_state

from .conditions import each_condition, from_attributes, one_of_each_group, uniform_targets
from .metrics import ConditionalScores, refuse_unlabelled, sample
from .train import Args, build, load_data


def load(path, device):
    """(G, training args, checkpoint) from a checkpoint file alone.

    The checkpoint's state has the conditions' names and the sizes of their groups.
    """
    checkpoint = load_checkpoint(path, "cagan")
    # a flag that the checkpoint is too old to have gets its default
    trained = argparse.Namespace(**(vars(Args()) | checkpoint["args"]))
    G, _ = build(trained, checkpoint["state"]["groups"])
    load_state(G, checkpoint["state"]["G"], f"G in {path}")
    return G.to(device).eval().requires_grad_(False), trained, checkpoint


# --- numbers


def asked_for(n, groups):
    """cnd' (n, S): classes in turn, so that all are asked for equally often.

    With several groups each group's condition is drawn at random, all equally often.
    """
    if len(groups) == 1:
        return torch.eye(groups[0])[torch.arange(n) % groups[0]]
    return uniform_targets(n, groups, torch.Generator().manual_seed(0))


def asked_as_real(n, conditions):
    """cnd' (n, S): the conditions (N, S) of real images in turn, in a random order."""
    order = torch.randperm(len(conditions), generator=torch.Generator().manual_seed(0))
    return conditions[order[torch.arange(n) % len(conditions)]]


def real_images(trained, groups, args, device):
    """The real images of a run, the extractor, their conditions from attributes, for `measure`."""
    if args.n < 2 * sum(groups):
        raise UserError(f"--n {args.n}: {sum(groups)} conditions need two images each at least")
    if trained.attributes and args.extractor == "lenet":
        raise UserError(
            "no LeNet knows CelebA's attributes: give --extractor inception or efficientnet"
        )
    real_set, extractor = reference(load_data, trained, args, device)
    if extractor is None:
        return real_set, None, None
    if not trained.attributes:
        refuse_unlabelled(real_set, "give --split train")
        return real_set, extractor, None
    conditions = from_attributes(real_set, trained.attributes)[2]
    count = int(one_of_each_group(conditions, groups).sum())
    if count < 4:
        raise UserError(
            f"{count} of the {len(conditions):,} {args.split} images in {trained.data_dir} have "
            "one condition of each group, and scores need four: add some, or give another --split"
        )
    if count < len(conditions):
        say(
            f"{count:,} of the {len(conditions):,} {args.split} images have one condition of each "
            "group: samples are compared with these"
        )
    return real_set, extractor, conditions


def measure(G, trained, groups, args, device, real_set, extractor, conditions):
    """FID in both forms, KID, IS, precision, recall; real_set to conditions: of `real_images`.

    With classes and their LeNet also conditional accuracies, the classes' histogram, the confusion.
    With attributes samples have the mix of the real images, else FID would measure this, too; real
    images that contradict a group can't be asked for and don't count.
    """
    if extractor is None:
        return {}
    if conditions is not None:
        keep = one_of_each_group(conditions, groups)
        cnd = asked_as_real(args.n, conditions[keep])
        images = sample(G, cnd, trained, device, args.seed, args.batch_size)
        split = real_set.split if keep.all() else f"{real_set.split}_one_of_each_group"
        more = (args.n, device, trained.data_dir, keep, split)
        return image_scores(extractor, real_set, images, *more)[0]
    cnd = asked_for(args.n, groups)
    images = sample(G, cnd, trained, device, args.seed, args.batch_size)
    scores = ConditionalScores(real_set, device, trained.data_dir, extractor)
    features, logits = scores.collect(progress(images, args.n), args.n)
    asked = cnd.argmax(1)
    metrics = image_metrics(scores.real, (features, logits), extractor.name, real_set.split)
    metrics |= scores(features, logits, asked)
    if extractor.kind == "lenet":
        metrics |= scores.details(logits, asked)
    return metrics


# --- pictures


def draw_samples(G, trained, names, groups, n, device, path, seed=0):
    """A grid with one row per condition, named at its left, and the same z down a column."""
    S = sum(groups)
    columns = max(1, -(-n // S))
    z = torch.randn(columns, trained.z_dim, generator=torch.Generator().manual_seed(seed))
    cnd = each_condition(groups).repeat_interleave(columns, 0)[:n]
    images = G(z.repeat(S, 1)[:n].to(device), cnd.to(device))
    rows, labels = names[: -(-n // columns)], [f"z {i + 1}" for i in range(columns)]
    plots.save_grid(images, path, nrow=columns, rows=rows, columns=labels)


def draw_interpolation(G, trained, names, groups, device, path, seed=0):
    """From each condition to the next at one z: G between the vectors that it was trained on."""
    start = each_condition(groups)[:10]
    end = start.roll(-1, 0)
    z = torch.randn(1, trained.z_dim, generator=torch.Generator().manual_seed(seed))
    z = z.expand(len(start), -1).to(device)
    way = torch.linspace(0, 1, 9).tolist()
    images = torch.stack([G(z, torch.lerp(start, end, t).to(device)) for t in way], 1).flatten(0, 1)
    names = names[: len(start)]
    rows = [f"{a} to {b}" for a, b in zip(names, [*names[1:], names[0]])]
    columns = [f"{t:.0%}" for t in way]
    plots.save_grid(images, path, nrow=len(way), rows=rows, columns=columns)


def draw_classes(axis, runs, names):
    """How often each class is seen in samples, and how often rightly; dashed: as often as asked.

    runs: metrics of one run or several; bars show their means, thin lines their ranges.
    """
    seen = np.array([find_metric(metrics, "class_counts") for metrics in runs])
    seen = 100 * seen / seen.sum(1, keepdims=True)
    right = np.array([find_metric(metrics, "conditional_accuracies") for metrics in runs])
    right = 100 * right / len(names)
    places = range(len(names))
    axis.bar(places, seen.mean(0), color="C0", label="seen by the classifier")
    axis.bar(places, right.mean(0), width=0.4, color="C1", label="seen as asked for")
    axis.vlines(places, seen.min(0), seen.max(0), color="k", lw=1)
    axis.axhline(100 / len(names), color="k", lw=1, ls="--", label="asked for")
    axis.set_xticks(places, names, rotation=40, ha="right", fontsize=7)


def save_classes(figure, path):
    """Save a figure of `draw_classes`, with one legend for all panels, below them."""
    first = figure.axes[0]
    first.set_ylabel("% of samples")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plots.save_figure(figure, path)


def main(argv=None):
    args = arguments.parse_args(arguments.EvalArgs, __doc__, argv)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "cagan")
    G, trained, checkpoint = load(path, device)
    trained.amp = args.amp  # of the samples, whatever the training's was
    names, groups = checkpoint["state"]["names"], checkpoint["state"]["groups"]
    if args.slim:
        return write_slim(args.slim, checkpoint, G=G, names=names, groups=groups)
    if args.onnx:
        inputs = {"z": torch.randn(2, trained.z_dim), "conditions": asked_for(2, groups)}
        about = {"z": "N(0, 1)", "conditions": ", ".join(names)}
        return write_onnx(args.onnx, G, inputs, "samples", about=about)
    if args.samples:
        draw_samples(G, trained, names, groups, args.samples, device, args.grid_out, args.seed)
        return say_written(args.grid_out)
    if args.export:
        cnd = asked_for(args.n, groups)
        images = sample(G, cnd, trained, device, args.seed, args.batch_size)
        return plots.export_samples(images, args.export, conditions=cnd.byte().numpy())

    print(
        f"{path}: {trained.loss}, step {checkpoint['step']}, "
        f"{trained.dataset} at {trained.size}x{trained.size}"
    )
    real = real_images(trained, groups, args, device)
    where = output_dir(path, "cagan")
    with named_outputs(where):
        conditioned = (G, trained, names, groups)
        draw_samples(*conditioned, 10 * sum(groups), device, where / "samples.png", args.seed)
        draw_interpolation(*conditioned, device, where / "interpolation.png", args.seed)
        metrics = measure(G, trained, groups, args, device, *real)
        write_eval(where, path, checkpoint, metrics, device, conditions=names)
        if find_metric(metrics, "class_counts", None):
            figure, axis = plots.plt.subplots(figsize=(7, 3), layout="constrained")
            draw_classes(axis, [metrics], names)
            axis.set_title(f"{args.n:,} samples, all classes asked for equally often", fontsize=9)
            save_classes(figure, where / "classes.png")
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
