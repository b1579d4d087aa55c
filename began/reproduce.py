"""γ: diversity against quality (§2.3; arXiv §4.2). Trains runs that differ in γ and measures them.
From the repository's root:

  python -m began.reproduce                          the thesis' settings (a GPU's work)
  python -m began.reproduce --reduced                --quick: under two hours of one CPU core
  python -m began.reproduce --reduced --gammas 0.4 0.6 --seeds 1

Trains --jobs runs at a time under --out; started again, it goes on. Writes gammas.md, gammas.json
and gammas.png there.
"""

import argparse
import shlex
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
from common.device import bf16_if_fast, choose_device
from common.evaluate import format_mean_sd, markdown_table, reference
from common.metrics import find_metric
from common.runs import last_tenth, read_log, replace_file, write_json
from common.sweep import by_row, end_sweep, runs_with, sweep

from . import train
from .eval import load, load_data, measure, sample

COLUMNS = {  # heading: (metric, digits)
    "FID": ("fid", ".1f"),
    "KID": ("kid", ".1f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "smallest class, %": ("smallest_class", ".1f"),
    "class entropy": ("class_entropy", ".2f"),
    "M": ("M", ".4f"),
    "L(G(z)) / L(x)": ("error_ratio", ".2f"),
}


@dataclass
class Args(arguments.SweepArgs):
    # --- γ
    gammas: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.8])  # each γ in [0, 1]
    reduced: bool = False  # runs with --quick
    seeds: int = 3  # runs of each γ
    out: FilePath | None = None  # none: runs/began/gammas or gammas-reduced

    # --- measuring
    n: int = 10_000  # samples for the metrics
    split: Literal["train", "test"] = "test"  # real images to compare with
    # features for FID; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    batch_size: int = 250  # samples per forward pass


def measure_run(where, _, args):
    """The scores of eval.py, and what the log says of the run's last tenth."""
    device = choose_device(args.device)
    G, _, trained, checkpoint = load(where / "last.pt", device)
    args.ckpt = where
    scores = measure(G, trained, args, device, *reference(load_data, trained, args, device))
    return scores | balance(read_log(where / "log.jsonl"), checkpoint["step"])


def balance(log, steps):
    """M and the ratio L(G(z)) / L(x), which k holds at γ: means over the last tenth of `steps`."""
    last = last_tenth(log, steps)
    L_x, L_G, M = (sum(line[key] for line in last) / len(last) for key in ("L_x", "L_G", "M"))
    over = f"{steps - int(0.9 * steps)}_steps"
    return {f"M_{over}": M, f"error_ratio_{over}": L_G / L_x}


def values(results, metric):
    """A score of each seed; NaN where no classifier of the data set could be had."""
    if metric == "smallest_class":
        counts = [find_metric(r["metrics"], "class_counts", [float("nan")]) for r in results]
        return [100 * min(of_seed) / sum(of_seed) for of_seed in counts]
    return [find_metric(r["metrics"], metric, float("nan")) for r in results]


def gamma_table(found):
    """{γ: results} -> Markdown."""
    rows = [
        [gamma, len(results)]
        + [format_mean_sd(values(results, metric), digits) for metric, digits in COLUMNS.values()]
        for gamma, results in found.items()
    ]
    return markdown_table(["γ", "seeds", *COLUMNS], rows)


def draw(found, folder, args):
    """A row of samples of each γ's first run, under the means over its seeds."""
    if not found:
        return
    device = choose_device(args.device)
    figure, axes = plots.plt.subplots(len(found), 1, figsize=(9, 1.1 * len(found)), squeeze=False)
    for axis, (gamma, results) in zip(axes[:, 0], found.items()):
        G, _, trained, _ = load(folder / results[0]["name"] / "last.pt", device)
        images = torch.cat(list(sample(G, 12, trained, device, args.seed)))
        axis.imshow(plots.grid(images, 12).squeeze(), cmap="gray")
        axis.axis("off")
        scores = (
            f"{name} {format_mean_sd(values(results, metric), digits)}"
            for name, (metric, digits) in COLUMNS.items()
            if name in ("FID", "recall", "class entropy")
        )
        axis.set_title(f"γ = {gamma}: {', '.join(scores)}", fontsize=8)
    plots.save_figure(figure, folder / "gammas.png")


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    folder = Path(args.out or f"runs/began/gammas{'-reduced' * args.reduced}")
    cells = [
        {
            "name": f"gamma{gamma}-{seed}",
            "row": gamma,
            "seed": seed,
            "flags": ["--gamma", str(gamma)],
        }
        for seed in range(args.seeds)
        for gamma in dict.fromkeys(args.gammas)  # a γ given twice is one run
    ]
    shared = ["--quick"] * args.reduced + shlex.split(args.train_flags)
    measuring = argparse.Namespace(**vars(args), amp="off")
    if args.reduced:
        measuring.train_amp = bf16_if_fast(args.device)
    results = sweep(cells, train.main, measure_run, measuring, folder, shared)
    end_sweep(args.part, results)
    found = by_row(results, args.gammas)
    text = gamma_table(found)
    replace_file(folder / "gammas.md", text.encode())
    write_json(folder / "gammas.json", results)
    print(text, end="")
    draw(runs_with("last.pt", found, folder), folder, args)
    return found


if __name__ == "__main__":
    run_main(main)
