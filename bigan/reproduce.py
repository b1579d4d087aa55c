"""The BiGAN paper's MNIST table, and other tables of many runs. From the repository's root:

  python -m bigan.reproduce --table --dataset mnist  each method, 3 seeds, 400 epochs (a GPU's work)
  python -m bigan.reproduce --table --reduced        on FashionMNIST: hours of two CPU cores
  python -m bigan.reproduce --toy                    25 Gaussians: modes covered by ALI, GAN, ALICE
  python -m bigan.reproduce --anomaly --reduced      AUROC, each class held out once

Each trains what it needs, --jobs runs at a time, under --out; started again, it goes on.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m bigan.reproduce", file=sys.stderr
    )
    sys.exit(2)

from common import plots
from common.arguments import FilePath, SweepArgs, parse_args as parse_table
from common.cli import run_main
from common.data import CLASSES, DATASETS
from common.device import bf16_if_fast, choose_device
from common.errors import UserError
from common.evaluate import format_mean_sd, markdown_table
from common.metrics import find_metric
from common.runs import read_log, replace_file, write_json
from common.sweep import at_shared_steps, by_row, end_sweep, runs_with, select_rows, sweep
from common.toys import MIXTURES, mixture

from . import eval as evaluation
from . import train
from .toys import toy_limit

METHODS = {  # the rows of the paper's table and two more: flags of train.py
    "BiGAN": ["--method", "bigan", "--cycle", "0"],
    "LR": ["--method", "latent-regressor"],
    "JLR": ["--method", "joint-lr"],
    "AE (l2)": ["--method", "ae-l2"],
    "AE (l1)": ["--method", "ae-l1"],
    "BiGAN + cycle": ["--method", "bigan", "--cycle", "5"],
    "ALI": ["--method", "ali", "--cycle", "0"],
}
# MNIST, Table 1: 1NN accuracy, %
PAPER_1NN = {"BiGAN": 97.39, "D": 97.30, "LR": 97.44, "JLR": 97.13}
PAPER_1NN |= {"AE (l2)": 97.58, "AE (l1)": 97.63}
# The authors' log of BiGAN on MNIST (their README): 1NN accuracy, %, at these epochs
LOG_EPOCHS = [0, 1, 25, 200, 400]
LOG_1NN = {  # in E's logits; in the layer before
    "E": [91.50, 89.94, 95.41, 95.92, 92.10],
    "features": [96.84, 92.56, 96.28, 97.14, 97.35],
}
TOY_METHODS = {
    "ALI": ["--method", "ali"],
    "GAN": ["--method", "latent-regressor"],
    "ALICE": ["--method", "ali", "--cycle", "1"],
}
# modes hit; ALI §4.5: ten runs of random settings
PAPER_MODES = {"ALI": "13.4 ± 5.8", "GAN": "10.4 ± 9.2"}
SCORES = {  # nearest: what needs no training
    "score": "A(x)",
    "recon": "reconstruction",
    "D_features": "D's features",
    "nearest": "distance to the nearest training image",
}


@dataclass
class Args(SweepArgs):
    # --- tables
    table: bool = False  # every method: 1NN accuracy, over epochs and at the end
    toy: bool = False  # 25 Gaussians: modes covered by ALI, a GAN, ALICE
    anomaly: bool = False  # AUROC of the anomaly score, each class held out once
    dataset: Literal[*DATASETS, "synthetic"] = "fashion-mnist"  # of --table and --anomaly
    reduced: bool = False  # runs with --quick
    only: list[str] | None = None  # only these rows of the table
    seeds: int = 3  # runs per row
    # none: runs/bigan/table, toy, anomaly; with --reduced: …-reduced
    out: FilePath | None = None

    # --- measurements
    # features for FID and KID; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    n: int = 10_000  # samples for the metrics (MMD: 2,000 at most)
    bank: int = 60_000  # training images for 1NN and the probe
    bn_batches: int = 1000  # for BatchNorm's statistics (code: 1000)
    batch_size: int = 250  # samples per forward pass
    amp: Literal["off"] = "off"  # everything is measured in fp32


MEASURED_WITH = ("data_dir", "extractor", "inception_weights", "n", "bank", "bn_batches")
MEASURED_WITH += ("batch_size", "seed", "device")


def measure_run(where, _, args):
    """What the tables need of a finished run, and its figures."""
    args = evaluation.Args(ckpt=str(where), **{name: getattr(args, name) for name in MEASURED_WITH})
    device = choose_device(args.device)
    networks, data, test, extractor, trained, _ = evaluation.load_with_data(
        where / "last.pt", args, device
    )
    evaluation.draw(networks, data, test, trained, args, device, where)
    return evaluation.measure(networks, data, test, extractor, trained, args, device)


def run_rows(args, name, rows, dataset):
    """Train and measure rows ({row: flags}) x --seeds. -> (folder, {row: results, one per seed})"""
    rows = select_rows(rows, args.only)
    shared = ["--dataset", dataset]
    if args.reduced:
        name, shared = f"{name}-reduced", [*shared, "--quick"]
    shared += shlex.split(args.train_flags)
    folder = Path(args.out or f"runs/bigan/{name}")
    cells = [
        {"name": f"{row}-{seed}".replace(" ", "_"), "row": row, "seed": seed, "flags": flags}
        for seed in range(args.seeds)
        for row, flags in rows.items()
    ]
    measuring = argparse.Namespace(**vars(args))
    if args.reduced and dataset not in MIXTURES:  # toys stay in fp32
        measuring.train_amp = bf16_if_fast(args.device)
    results = sweep(cells, train.main, measure_run, measuring, folder, shared)
    end_sweep(args.part, results)
    return folder, by_row(results, rows)


def write_table(folder, name, results, text):
    """<name>.md, and the results as <name>.json."""
    replace_file(folder / f"{name}.md", text.encode())
    write_json(folder / f"{name}.json", [r for found in results.values() for r in found])
    print(text, end="")


def metric(results, key, digits=".1f", scale=1):
    """mean ± sd over the seeds of the metric `key`."""
    return format_mean_sd([find_metric(r["metrics"], key) for r in results], digits, scale)


def seconds(results):
    return format_mean_sd([r["seconds"] for r in results], ".0f")


# --- the MNIST table


def table(args):
    """1NN accuracy of each method in features and in E(x). -> table.md, .json, .png."""
    folder, results = run_rows(args, "table", METHODS, args.dataset)
    title = (
        f"{args.dataset}, seeds per row: {args.seeds}; 1NN and probe in %, training images as bank"
    )
    notes = "D: the discriminator's features of the plain GAN below LR. Pixels: 1NN on the images."
    text = f"{title}, all test images\n\n{one_nn_table(results)}\n{notes}\n"
    write_table(folder, "table", results, text)
    draw_table(folder, results, args.dataset)
    return results


def one_nn_table(results):
    """The paper's Table 1: a row per method, then what needs no run of its own."""
    columns = ["method", "paper (MNIST): 1NN", "1NN features", "1NN E(x)", "1NN E's logits"]
    columns += ["probe features", "recon / shuffled", "FID", "steps", "s per run"]

    def percent(found, keys):
        return [metric(found, key, ".2f", 100) if key else "–" for key in keys]

    rows = []
    for method, found in results.items():
        row = [method, PAPER_1NN.get(method, "–")]
        row += percent(found, ("1nn_features", "1nn_E", "1nn_logits", "probe_features"))
        row += [metric(found, "recon_ratio", ".3f"), metric(found, "fid")]
        rows.append([*row, found[0]["step"], seconds(found)])
    untrained = ("1nn_untrained_features", "1nn_untrained_E", None, "probe_untrained_features")
    for name, source, keys in (
        ("D", "LR", ("1nn_D", None, None, None)),
        ("untrained E", "BiGAN", untrained),
        ("pixels", "BiGAN", ("1nn_pixels", None, None, "probe_pixels")),
    ):
        if source in results:
            row = [name, PAPER_1NN.get(name, "–"), *percent(results[source], keys)]
            rows.append([*row, "–", "–", "–", "–"])
    return markdown_table(columns, rows)


def curve(log, space):
    """[{"step", "1nn", in %}, …] of a run's log in a space, "features" or "E"."""
    return [
        {"step": line["step"], "1nn": 100 * line[key]}
        for line in log
        for key in line
        if key.startswith(f"1nn_{space}_")
    ]


def untrained_accuracy(metrics, space):
    """Of the encoder with its initial weights: by the log's smaller bank, if it was measured."""
    accuracy = metrics.get(f"1nn_untrained_{space}_10k_2k")
    return find_metric(metrics, f"1nn_untrained_{space}") if accuracy is None else accuracy


def draw_table(folder, results, dataset):
    """1NN accuracy over epochs: mean and range of the seeds; dashed: the untrained encoder."""
    titles = {"features": "in the features, E's last hidden layer", "E": "in the code E(x)"}
    if dataset == "mnist":
        titles["E"] += ", the authors' in its logits"
    figure, axes = plots.plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
    for axis, (space, title) in zip(axes, titles.items()):
        for i, (method, found) in enumerate(results.items()):
            curves = [curve(read_log(folder / r["name"] / "log.jsonl"), space) for r in found]
            curves = [each for each in at_shared_steps(curves) if each]  # [] of a run that is gone
            if not curves:
                continue
            values = np.array([[line["1nn"] for line in each] for each in curves])
            epochs = np.array([line["step"] for line in curves[0]]) / train.EPOCH
            axis.plot(epochs, values.mean(0), color=f"C{i}", lw=1.2, label=method)
            axis.fill_between(epochs, values.min(0), values.max(0), color=f"C{i}", alpha=0.2, lw=0)
        start = [untrained_accuracy(r["metrics"], space) for rs in results.values() for r in rs]
        axis.axhline(100 * np.mean(start), color="k", ls="--", lw=1, label="untrained E")
        if dataset == "mnist":
            axis.plot(LOG_EPOCHS, LOG_1NN[space], "ko", ms=4, label="authors' log (BiGAN)")
        axis.set(xlabel="epoch of 60,000 images", title=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"1NN accuracy on {dataset}, %")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    plots.save_figure(figure, folder / "table.png")


# --- ALI's 25 Gaussians


def toy(args):
    """Modes that G(z) and G(E(x)) cover, beside ALI's numbers. -> toy.md, .json, .png."""
    folder, results = run_rows(args, "toy", TOY_METHODS, "25gaussians")
    text = f"25 Gaussians, seeds per row: {args.seeds}, 10,000 points each\n\n{mode_table(results)}"
    write_table(folder, "toy", results, text)
    draw_toys(folder, runs_with("samples.png", results, folder))
    return results


def mode_table(results):
    columns = ["method", "paper: modes hit", "by G(z)", "each", "by G(E(x))", "covered by G(z)"]
    columns += ["high quality", "s per run"]
    rows = []
    for method, found in results.items():
        each = ", ".join(str(find_metric(r["metrics"], "modes_hit")) for r in found)
        row = [method, PAPER_MODES.get(method, "–"), metric(found, "modes_hit"), each]
        row += [metric(found, "modes_hit_recon"), metric(found, "modes")]
        rows.append([*row, metric(found, "high_quality", ".2f"), seconds(found)])
    return markdown_table(columns, rows)


def draw_toys(folder, results):
    """toy.png: samples.png of the first seed of each row, one below the other."""
    if not results:
        return
    figure, axes = plots.plt.subplots(
        len(results), 1, figsize=(7, 2.4 * len(results)), squeeze=False, layout="constrained"
    )
    for axis, (method, found) in zip(axes[:, 0], results.items()):
        axis.imshow(np.asarray(plots.Image.open(folder / found[0]["name"] / "samples.png")))
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(method)
        axis.spines[:].set_visible(False)
    limit = toy_limit(mixture("25gaussians", standardised=False))
    figure.supxlabel(
        f"each panel: the square of ±{limit:g}; brightness: √ of the density of 10,000 points",
        fontsize=9,
    )
    plots.save_figure(figure, folder / "toy.png")


# --- anomalies


def anomaly(args):
    """Each class held out once: AUROC of it against all others. -> anomaly.md, .json, .png."""
    if args.dataset not in CLASSES:
        raise UserError(f"--anomaly needs a data set with known classes: {', '.join(CLASSES)}")
    names = [name.replace("/", "-") for name in CLASSES[args.dataset]]
    rows = {name: ["--hold-out", str(c)] for c, name in enumerate(names)}
    folder, results = run_rows(args, "anomaly", rows, args.dataset)
    title = f"{args.dataset}, AUROC of one held-out class among all test images"
    text = f"{title}, seeds per row: {args.seeds}\n\n{auroc_table(results)}"
    write_table(folder, "anomaly", results, text)
    draw_aurocs(results, folder / "anomaly.png")
    return results


def aurocs(found, score):
    """The AUROC of each run of one class, by a score."""
    start = f"auroc_{score}_class"
    return [v for r in found for key, v in r["metrics"].items() if key.startswith(start)]


def mean_aurocs(results, score):
    """The mean over the classes of each seed that has them all."""
    seeds = {r["seed"] for found in results.values() for r in found}
    of_seeds = [[r for found in results.values() for r in found if r["seed"] == s] for s in seeds]
    values = [aurocs(of_seed, score) for of_seed in of_seeds]
    return [float(np.mean(each)) for each in values if len(each) == len(results)]


def auroc_table(results):
    rows = [
        [name, *(format_mean_sd(aurocs(found, score), ".3f") for score in SCORES)]
        for name, found in results.items()
    ]
    means = [mean_aurocs(results, score) for score in SCORES]
    rows.append(["mean", *(format_mean_sd(each, ".3f") for each in means)])
    return markdown_table(["held out", *SCORES.values()], rows)


def draw_aurocs(results, path):
    """A line per held-out class, with a mark for each score and run; dashed: chance."""
    figure, axis = plots.plt.subplots(figsize=(7, 1.2 + 0.32 * len(results)))
    for (score, title), mark in zip(SCORES.items(), "osd|"):
        points = [
            (value, place)
            for place, found in enumerate(results.values())
            for value in aurocs(found, score)
        ]
        color = "k" if score == "nearest" else None
        axis.plot(*np.array(points).T, mark, color=color, ms=12 if mark == "|" else 6, label=title)
    axis.axvline(0.5, color="k", ls="--", lw=1)
    axis.set(xlabel="AUROC of the held-out class among all test images", xlim=(None, 1))
    axis.set_yticks(range(len(results)), results)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    plots.save_figure(figure, path)


def main(argv=None):
    args = parse_table(Args, __doc__, argv)
    for asked, make in ((args.table, table), (args.toy, toy), (args.anomaly, anomaly)):
        if asked:
            return make(args)
    raise UserError("which one? Give --table, --toy or --anomaly (--help explains them)")


if __name__ == "__main__":
    run_main(main)
