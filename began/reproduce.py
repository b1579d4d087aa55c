"""γ: diversity against quality (§2.3; arXiv §4.2). Runs that differ in γ side by side:

  for g in 0.3 0.5 0.8; do python -m began.train --quick --gamma $g; done
  python -m began.reproduce --gammas 0.3 0.5 0.8

Takes the newest run of each γ. Writes gammas.json and gammas.png beside the runs.
"""

import argparse
import glob
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m began.reproduce", file=sys.stderr
    )
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError
from common.evaluate import reference
from common.metrics import find_metric
from common.runs import load_checkpoint, write_json

from .eval import load, load_data, measure, sample


@dataclass
class Args:
    # --- runs to compare
    gammas: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.8])  # each γ in [0, 1]
    runs: FilePath = "runs/began/*"  # where their runs are: a pattern of directories

    # --- measuring
    n: int = 10_000  # samples for the metrics
    split: Literal["train", "test"] = "test"  # real images to compare with
    # features for FID; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    # where data sets and features are; none: where the training's were
    data_dir: FilePath | None = None
    batch_size: int = 250  # samples per forward pass
    seed: int = 0  # of the samples; in [0, 2^63)

    # --- run
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps
    amp: Literal["off", "bf16"] = "off"  # bf16 autocast


def newest_run(gammas, pattern):
    """{γ: last.pt of the run that was saved last with it}."""
    newest = {}
    for path in sorted(glob.glob(f"{pattern}/last.pt"), key=os.path.getmtime):
        newest[load_checkpoint(path, "began")["args"]["gamma"]] = Path(path)
    if missing := [gamma for gamma in gammas if gamma not in newest]:
        raise UserError(
            f"--gammas: no run in {pattern} with γ = {missing}. There are: {sorted(newest)}. "
            "Train one with --gamma, or name others with --runs"
        )
    return {gamma: newest[gamma] for gamma in gammas}


def measure_run(path, args, device):
    """(its numbers, 12 of its samples) of the run that `path` is a checkpoint of."""
    G, _, trained, checkpoint = load(path, device)
    args = argparse.Namespace(**vars(args), ckpt=path)
    metrics = measure(G, trained, args, device, *reference(load_data, trained, args, device))
    images = torch.cat(list(sample(G, 12, trained, device, args.seed))).cpu()
    gamma, step = checkpoint["args"]["gamma"], checkpoint["step"]
    return {"gamma": gamma, "step": step, "checkpoint": str(path), **metrics}, images


def draw(results, rows, path):
    """A row of samples of each run under its numbers."""
    figure, axes = plots.plt.subplots(len(rows), 1, figsize=(9, 1.1 * len(rows)), squeeze=False)
    for axis, result, images in zip(axes[:, 0], results, rows):
        axis.imshow(plots.grid(images, 12).squeeze(), cmap="gray")
        axis.axis("off")
        axis.set_title(
            f"γ = {result['gamma']}: FID {find_metric(result, 'fid'):.1f}, "
            f"recall {find_metric(result, 'recall'):.2f}, "
            f"class entropy {find_metric(result, 'class_entropy'):.2f}, step {result['step']}",
            fontsize=8,
        )
    plots.save_figure(figure, path)


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    device = choose_device(args.device)
    checkpoints = newest_run(args.gammas, args.runs)
    results, rows = [], []
    for path in checkpoints.values():
        result, images = measure_run(path, args, device)
        results.append(result)
        rows.append(images)
    beside_the_runs = checkpoints[args.gammas[0]].parent.parent
    draw(results, rows, beside_the_runs / "gammas.png")
    write_json(beside_the_runs / "gammas.json", results)
    print(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    run_main(main)
