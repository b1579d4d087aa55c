"""The paper's figures and table, by training many runs. From the repository's root:

  python -m sagan_wgangp.reproduce --compare       Figs. 2-4: the five methods, --quick, three seeds
  python -m sagan_wgangp.reproduce --ablation      Table 1: each ingredient added to GAN, and taken
                                                   away from SAGAN
  python -m sagan_wgangp.reproduce --compare --no-quick --train-flags '--dataset fashion-mnist …'

Trains what is missing, --jobs runs at a time, under --out; started again, it goes on where it
stood. Writes there a table in Markdown and JSON, scores.png, quality.png, losses.png and grids.png.
The steps of --quick are such that the methods' CPU times are alike (within a factor of two).
"""

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m sagan_wgangp.reproduce",
        file=sys.stderr,
    )
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError
from common.evaluate import format_mean_sd, markdown_table
from common.metrics import find_metric
from common.runs import read_log, replace_file, write_json
from common.sweep import by_row, end_sweep, failures, runs_with, select_rows, sweep

from . import train
from .convergence import fid_curve, loss_versus_quality, stability
from .eval import NAMES, load, measure, real_images, sample

TTUR = "--lr-g 1e-4 --lr-d 4e-4"
ONE_RATE = "--lr-g 2e-4 --lr-d 2e-4"  # the geometric mean of TTUR's two
EQUAL = "--lr-g 1e-4 --lr-d 1e-4"  # WGAN-GP's
QUICK_TTUR = "--lr-g 3e-4 --lr-d 1.2e-3"  # --quick alone has one rate for SAGAN and for both
QUICK_ONE_RATE = "--lr-g 6e-4 --lr-d 6e-4"
QUICK_EQUAL = "--lr-g 5e-4 --lr-d 5e-4"


def compare(quick):
    """{row: flags} of Figs. 2-4: the five methods, those with attention with TTUR, as in Ding."""
    ttur = QUICK_TTUR if quick else TTUR
    rows = {name: f"--method {method}" for method, name in NAMES.items()}
    return {row: f"{flags} {ttur}" if "sagan" in flags else flags for row, flags in rows.items()}


def ablation(quick):
    """{row: flags} of Table 1, one ingredient at a time; each row has its method's steps."""
    ttur, one_rate = (QUICK_TTUR, QUICK_ONE_RATE) if quick else (TTUR, ONE_RATE)
    equal = QUICK_EQUAL if quick else EQUAL
    sagan, both = f"--method sagan {ttur}", f"--method sagan_wgan_gp {ttur}"
    return {
        "GAN": "--method gan",
        "GAN, no BatchNorm in D": "--method gan --batch-norm g",  # as GP and SN have it
        "GAN + Wasserstein, clip": "--method gan --loss wasserstein --clip 0.01",
        "GAN + Wasserstein, GP": "--method gan --loss wasserstein --gp 10 --batch-norm g",
        "GAN + GP": "--method gan --gp 10 --batch-norm g",
        "GAN + SN in D": "--method gan --spectral d --batch-norm g",
        "GAN + SN in G and D": "--method gan --spectral gd --batch-norm g",
        "GAN + TTUR": f"--method gan {TTUR}",
        "GAN + attention": "--method gan --attention auto",
        "SAGAN": sagan,
        "SAGAN − attention": f"{sagan} --attention none",
        "SAGAN − SN": f"{sagan} --spectral none",
        "SAGAN − TTUR": f"--method sagan {one_rate}",
        "SAGAN − TTUR − attention": f"--method sagan {one_rate} --attention none",
        "SAGAN − TTUR − SN": f"--method sagan {one_rate} --spectral none",
        "SAGAN + WGAN-GP": both,
        "SAGAN + WGAN-GP, SN in D": f"{both} --spectral gd",
        "SAGAN + WGAN-GP − attention": f"{both} --attention none",
        "SAGAN + WGAN-GP − TTUR": f"--method sagan_wgan_gp {one_rate}",
        "SAGAN + WGAN-GP, 5 critic steps, equal rates": (
            f"--method sagan_wgan_gp --n-critic 5 {equal}"
        ),
    }


@dataclass
class Args(arguments.SweepArgs):
    # --- what to reproduce
    compare: bool = False  # Figs. 2-4
    ablation: bool = False  # Table 1
    only: list[str] | None = None  # only these rows of the table
    no_quick: bool = False  # runs without --quick: at the methods' own settings

    # --- runs
    seeds: int = 3  # runs per row
    points: int = 20  # FIDs along each run, of 2,000 samples
    out: FilePath | None = None  # none: runs/sagan_wgangp/compare or ablation

    # --- measuring
    n: int | None = None  # samples to measure; none: 10,000
    split: Literal["train", "test"] = "test"  # real images to compare with
    # features for FID; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    batch_size: int = 250  # samples per forward pass

    # --- run
    amp: Literal["off", "bf16"] = "off"  # bf16 autocast when samples are drawn


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    if args.compare == args.ablation:
        raise UserError("say what to reproduce: --compare (Figs. 2-4) or --ablation (Table 1)")
    return args


def measure_run(where, _, args):
    """What a table needs of a finished run."""
    args.ckpt = where  # what errors call it
    device = choose_device(args.device)
    G, _, trained, _ = load(where / "last.pt", device)
    log = read_log(where / "log.jsonl")
    curve = fid_curve(log)
    return measure(G, trained, args, device, *real_images(trained, args, device)) | {
        "L_D": stability(log, "L_D"),
        "L_G": stability(log, "L_G"),
        "L_D_versus_FID": loss_versus_quality(log),
        "best_FID_2k": min((fid for _, fid, _ in curve), default=math.nan),
        "FID_2k_by_step": [(step, fid) for step, fid, _ in curve],
        "train_seconds": log[-1]["seconds"],
    }


def train_rows(args, rows, folder, shared):
    """({row: results of its runs by seed}, what failed): see common.sweep.sweep."""
    cells = []
    for seed in range(args.seeds):
        for row, flags in rows.items():
            flags = flags.split()
            steps = train.parse_args([*shared, *flags]).steps
            log_every = max(1, steps // (10 * args.points))
            sample_every = max(1, steps // args.points // log_every) * log_every
            flags += ["--log-every", str(log_every), "--sample-every", str(sample_every)]
            words = row.replace("−", "without").replace("+", "with").replace(",", "").split()
            name = "-".join([*words, str(seed)])
            cells.append({"name": name, "row": row, "seed": seed, "flags": flags})
    results = sweep(cells, train.main, measure_run, args, folder, shared)
    end_sweep(args.part, results)
    results.sort(key=lambda result: result["seed"])
    return by_row(results, rows), failures(results)


DIGITS = {  # the table's columns
    "FID": ".1f",
    "best FID (2k)": ".1f",
    "IS": ".2f",
    "recall": ".2f",
    "share of classes ≥ 1 %": ".2f",
    "class entropy": ".2f",
    "diversity": ".2f",
    "L_D noise": ".2f",
    "L_D drift": ".2f",
    "L_G drift": ".2f",
    "L_D ~ FID": ".2f",
    "seconds per run": ".0f",
}


def columns(metrics):
    """{column: value} of a run's metrics."""
    return {
        "FID": find_metric(metrics, "fid"),
        "best FID (2k)": metrics["best_FID_2k"],
        "IS": find_metric(metrics, "is"),
        "recall": find_metric(metrics, "recall"),
        "share of classes ≥ 1 %": find_metric(metrics, "class_coverage"),
        "class entropy": find_metric(metrics, "class_entropy"),
        "diversity": find_metric(metrics, "diversity"),
        "L_D noise": metrics["L_D"]["noise"],
        "L_D drift": metrics["L_D"]["drift"],
        "L_G drift": metrics["L_G"]["drift"],
        "L_D ~ FID": metrics["L_D_versus_FID"],
        "seconds per run": metrics["train_seconds"],
    }


def summarise(runs):
    """[{row, steps, seeds, column: {mean, sd, runs}}, …]."""
    summaries = []
    for row, results in runs.items():
        summary = {"row": row, "steps": results[0]["step"], "seeds": [r["seed"] for r in results]}
        measured = [columns(result["metrics"]) for result in results]
        for column in DIGITS:
            values = np.array([values[column] for values in measured], float)
            sd = values.std(ddof=1) if len(values) > 1 else None
            summary[column] = {"mean": values.mean(), "sd": sd, "runs": values.tolist()}
        summary["FID (2k) by step"] = [r["metrics"].get("FID_2k_by_step") for r in results]
        summaries.append(summary)
    return summaries


def write_table(summaries, failed):
    """Markdown: a line per row, the order by FID, what the paper says of it, what failed."""
    lines = []
    for row in summaries:
        cells = [format_mean_sd(row[column]["runs"], DIGITS[column]) for column in DIGITS]
        lines.append([row["row"], row["steps"], len(row["seeds"]), *cells])
    text = markdown_table(["", "steps", "runs", *DIGITS], lines)
    order = [row["row"] for row in sorted(summaries, key=lambda row: row["FID"]["mean"])]
    text += f"\nBy mean FID, best first: {', '.join(order)}.\n"
    if {"GAN", "SAGAN + WGAN-GP"} <= set(order):
        text += (
            f"The paper: best is SAGAN + WGAN-GP (here {order[0]}), "
            f"worst is GAN (here {order[-1]}).\n"
        )
    return text + "".join(f"FAILED {line}\n" for line in failed)


# --- figures

SCORES = {  # columns of the table that are drawn: titles
    "FID": "FID, {n:,} samples\n(lower is better)",
    "IS": "Inception Score\n(higher is better)",
    "recall": "recall: share of test\nimages that G covers",
    "L_D noise": "noise of the loss L_D:\nsd over mean",
    "L_D ~ FID": "rank correlation L_D, FID\n(−1: as WGAN promises)",
}


def draw_scores(summaries, path, n=10_000):
    """A line per row of the table: a dot per seed, a bar at their mean. n: samples of a score."""
    height = 1.2 + 0.35 * len(summaries)
    figure, axes = plots.plt.subplots(1, len(SCORES), figsize=(13, height), sharey=True)
    for axis, (column, title) in zip(axes, SCORES.items()):
        for y, row in enumerate(summaries):
            values = row[column]["runs"]
            axis.plot(values, [y] * len(values), "o", ms=5, alpha=0.6, color=f"C{y % 10}")
            axis.plot(row[column]["mean"], y, "k|", ms=13)
        axis.set_title(title.format(n=n), fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(summaries)), [row["row"] for row in summaries])
    axes[0].invert_yaxis()
    plots.save_figure(figure, path)


def draw_quality(runs, folder):
    """Fig. 4: FID and IS over the share of the run's steps, that is of its time, per seed."""
    figure, axes = plots.plt.subplots(1, 2, figsize=(11, 4))
    for i, (row, results) in enumerate(runs.items()):
        style = dict(color=f"C{i % 10}", lw=1, ls="-" if i < 10 else "--")
        for j, result in enumerate(results):
            curve = fid_curve(read_log(folder / result["name"] / "log.jsonl"))
            if curve:
                steps, fids, scores = np.array(curve).T
                label = row if j == 0 else None
                axes[0].plot(steps / steps[-1], fids, label=label, **style)
                axes[1].plot(steps / steps[-1], scores, label=label, **style)
    axes[0].set(xlabel="share of the run", ylabel="FID, 2,000 samples", yscale="log")
    axes[0].yaxis.set_major_formatter("{x:.0f}")
    axes[0].yaxis.set_minor_formatter("{x:.0f}")
    axes[1].set(xlabel="share of the run", ylabel="IS, 2,000 samples")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.save_figure(figure, folder / "quality.png")


def draw_losses(runs, folder):
    """Fig. 3: D's and G's loss of the first seed's run of each row."""
    figure, axes = plots.plt.subplots(2, len(runs), figsize=(2.6 * len(runs), 4), squeeze=False)
    for column, (row, results) in zip(axes.T, runs.items()):
        log = read_log(folder / results[0]["name"] / "log.jsonl")
        steps = [line["step"] for line in log]
        for axis, key in zip(column, ("L_D", "L_G")):
            axis.plot(steps, [line[key] for line in log], lw=0.7)
            axis.set_ylabel(key)
        column[0].set_title(row, fontsize=8)
        column[1].set_xlabel("step")
    figure.tight_layout()
    plots.save_figure(figure, folder / "losses.png")


def draw_grids(runs, folder):
    """Fig. 2: 5x5 samples of the first seed's run of each row."""
    device = torch.device("cpu")
    columns = min(5, len(runs))
    lines = math.ceil(len(runs) / columns)
    size = (3 * columns, 3.2 * lines)
    figure, axes = plots.plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (row, results) in zip(axes.flat, runs.items()):
        G, _, trained, _ = load(folder / results[0]["name"] / "last.pt", device)
        images = torch.cat(list(sample(G, 25, trained, device)))
        axis.imshow(plots.grid(images, 5).squeeze(), cmap="gray")
        axis.set_title(row, fontsize=9)
    plots.save_figure(figure, folder / "grids.png")


def main(argv=None):
    args = parse_args(argv)
    name = "compare" if args.compare else "ablation"
    rows = select_rows((compare if args.compare else ablation)(not args.no_quick), args.only)
    folder = Path(args.out or f"runs/sagan_wgangp/{name}")
    shared = ["--fid-samples", "2000"]
    if not args.no_quick:
        shared.append("--quick")
    shared += shlex.split(args.train_flags)
    if args.extractor != "auto":
        shared += ["--extractor", args.extractor]

    runs, failed = train_rows(args, rows, folder, shared)
    summaries = summarise(runs)
    text = write_table(summaries, failed)
    replace_file(folder / f"{name}.md", text.encode())
    env = next(iter(runs.values()))[0]["env"]
    result = {"flags": shared, "rows": summaries, "failed": failed, "env": env}
    write_json(folder / f"{name}.json", result)
    print(text)
    draw_scores(summaries, folder / "scores.png", args.n or 10_000)
    if logged := runs_with("log.jsonl", runs, folder):
        draw_quality(logged, folder)
        draw_losses(logged, folder)
    if saved := runs_with("last.pt", runs, folder):
        draw_grids(saved, folder)
    return summaries


if __name__ == "__main__":
    run_main(main)
