"""The paper's figures, by training what they need, and the numbers that it leaves to the eye:

  python -m cagan.reproduce --reduced              all figures, classifiers and the toy, three seeds
  python -m cagan.reproduce --figures 14           Fig. 14 at the paper's size (a GPU's work)
  python -m cagan.reproduce --figures classifier --reduced    do generated images help a classifier?

Trains --jobs runs at a time under --out; started again, it goes on where it stood. Writes
figure_<name>.png, .md and .json there; a JSON holds all that its figure of scores shows.
"""

import argparse
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
        "error: start this from the repository's root: python -m cagan.reproduce", file=sys.stderr
    )
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath
from common.cli import run_main
from common.device import bf16_if_fast, choose_device
from common.errors import UserError
from common.evaluate import format_mean_sd, markdown_table
from common.metrics import find_metric
from common.runs import load_checkpoint, read_log, replace_file, write_json
from common.sweep import at_shared_steps, end_sweep, failures, runs_with, sweep

from . import classifier, toy, train
from .conditions import each_condition
from .eval import draw_classes, draw_samples, load, measure, real_images, save_classes
from .metrics import sample

TITLES = {
    "12": "Fig. 12: modified AC-GAN with and without L_cls^g in L_d",
    "13": "Fig. 13: the weight λ_cls",
    "14": "Fig. 14: CA-GAN and AC-GANs at a low learning rate",
    "losses": "§3: CA-GAN with other adversarial losses",
    "weights": "§3: modified AC-GAN and its λ_cls with other adversarial losses",
    "networks": "§5: D with instance norm on all layers, three convolutions per resolution",
    "mixed": "§6.3: unbalanced data, BatchNorm in D",
}
SCORES = {  # and in a figure: panel, axis
    "fid_per_class": ("each class apart, then the mean", "FID (LeNet features): lower is better"),
    "fid": ("all samples together", "FID (LeNet features): lower is better"),
    "conditional_accuracy": ("conditional accuracy", "share of samples seen as asked for"),
}

# flags of every run
FULL = "--dataset mnist --fid-samples 10000 --sample-every 1875 --save-every 1875".split()
REDUCED = (
    "--dataset fashion-mnist --width 16 --convs 1 --norm none --beta1 0.5 --lr 1e-3 "
    "--amp {amp} --steps 3000 --fid-samples 2000 --sample-every 500"
)


@dataclass
class Args(arguments.SweepArgs):
    # --- figures
    figures: list[Literal[*TITLES, "classifier", "toy"]] | None = None  # which ones; none: all
    reduced: bool = False  # FashionMNIST, small networks and few steps (README)
    seeds: int = 3  # runs per curve
    out: FilePath | None = None  # none: runs/cagan/figures or figures-reduced

    # --- measuring
    n: int = 10_000  # samples for the metrics
    split: Literal["train", "test"] = "test"  # real images to compare with
    extractor: Literal["auto", "lenet"] = "auto"  # features for FID, and the classifier
    batch_size: int = 250  # samples per forward pass


def figure_configs(reduced):
    """{figure: {label: flags of train.py}}."""
    modified = ["--loss", "modified_ac"]
    slow = ["--lr", "3e-4" if reduced else "3e-6"]  # 0.3 times the others' (§6.2)
    epochs, late = (12, 8) if reduced else (150, 100)
    unbalanced = ["--unbalanced", "5500", "500", "--norm", "batch"]
    if reduced:
        unbalanced.append("--norm-inner")
    unbalanced += ["--steps", str(epochs * 312)]  # §6.3: 10,000 images, batch 32
    mixed = [*unbalanced, "--mix-from", str(late)]
    adversarial = {
        "LSGAN": [],
        "non-saturating": ["--adv", "vanilla"],
        "hinge": ["--adv", "hinge"],
        "WGAN-GP": ["--adv", "wgan-gp", *(["--n-critic", "1"] if reduced else [])],
    }
    networks = []  # the paper's, but for their width
    if reduced:
        networks = "--convs 3 --norm instance --beta1 0.9 --lr 1e-4 --steps 18750".split()
        networks += "--sample-every 1250 --save-every 1250".split()
    return {
        "12": {"with L_cls^g": ["--loss", "modified_ac_with_generated"], "without": modified},
        "13": {
            "λ_cls 0.01": [*modified, "--lambda-cls", "0.01"],
            "λ_cls 0.1": modified,
            "λ_cls 1": [*modified, "--lambda-cls", "1"],
            "CA-GAN (no λ_cls)": [],
        },
        "14": {
            "CA-GAN": slow,
            "modified AC-GAN": [*modified, *slow],
            "AC-GAN": ["--loss", "ac", *slow],
        },
        "losses": adversarial,
        "weights": {
            f"{name}, λ_cls {weight}": [*modified, *flags, *more]
            for name, flags in adversarial.items()
            for weight, more in (("0.1", []), ("1", ["--lambda-cls", "1"]))
        },
        "networks": {"CA-GAN": networks, "modified AC-GAN": [*modified, *networks]},
        "mixed": {
            "modified AC-GAN, not mixed": [*modified, *unbalanced],
            "modified AC-GAN, mixed": [*modified, *mixed],
            "CA-GAN, not mixed": unbalanced,
            "CA-GAN, mixed": mixed,
        },
    }


def classifier_configs(reduced):
    """{unbalanced set: flags of train.py}: §6.3's and a harder one, mixed for the last third."""
    steps, norm = (3744, ["batch", "--norm-inner"]) if reduced else (46_800, ["batch"])
    configs = {}
    for rest in (500, 50):
        epochs = steps * 32 / (5500 + 9 * rest)
        flags = ["--unbalanced", "5500", str(rest), "--norm", *norm, "--steps", str(steps)]
        flags += ["--mix-from", str(round(epochs * 2 / 3)), "--fid-samples", "0"]
        configs[f"5500 of class 0, {rest} of each other class"] = flags
    return configs


# --- runs


def cells(configs, seeds):
    """The runs that figures need, for `sweep`; figures share some."""
    runs = {}
    for seed in range(seeds):
        for config in configs.values():
            for flags in config.values():
                name = "-".join(["run", *flags, str(seed)]).replace("--", "")
                runs[name] = {"name": name, "seed": seed, "flags": flags}
    return list(runs.values())


def measure_run(where, cell, args):
    """The metrics of a finished run; for the figure "classifier" also those of its classifiers."""
    device = choose_device(args.device)
    args.ckpt = where
    G, trained, checkpoint = load(where / "last.pt", device)
    names, groups = checkpoint["state"]["names"], checkpoint["state"]["groups"]
    draw_samples(G, trained, names, groups, 80, device, where / "samples.png")
    real = real_images(trained, groups, args, device)
    metrics = measure(G, trained, groups, args, device, *real)
    if cell["flags"] in classifier_configs(args.reduced).values():
        metrics["classifier"] = classifier.measure(G, trained, device)
    return metrics


def score_logs(results, folder):
    """Of each run the lines of its log that have scores, at the steps that all runs have."""
    logs = [read_log(folder / result["name"] / "log.jsonl") for result in results]
    return at_shared_steps(
        [[line for line in log if find_metric(line, "fid", None) is not None] for log in logs]
    )


# --- numbers, table, figure


def numbers(label, results, folder):
    """What the table says of one curve: lists with a value per seed.

    Of a run that is gone there is no log: no curve, and NaN half way.
    """
    logs = score_logs(results, folder)
    longest = max(logs, key=len)
    half = len(longest) // 2 - 1
    accuracies = [find_metric(result["metrics"], "conditional_accuracies") for result in results]
    row = {"label": label, "runs": len(results)}
    for score in SCORES:
        row[score] = [find_metric(result["metrics"], score) for result in results]
    row["rare_accuracy"] = [float(np.mean(each[1:])) for each in accuracies]
    row["half_steps"] = longest[half]["step"] if longest else None
    row["fid_per_class_half"] = [
        find_metric(log[half], "fid_per_class") if log else math.nan for log in logs
    ]
    row["steps"] = [line["step"] for line in longest]
    logs = [log for log in logs if log]
    row["curves"] = {s: [[find_metric(line, s) for line in log] for log in logs] for s in SCORES}
    row["results"] = [without_confusion(result) for result in results]
    return row


def without_confusion(result):
    metrics = {k: v for k, v in result["metrics"].items() if not k.startswith("confusion")}
    return result | {"metrics": metrics}


def table(name, rows):
    """The rows of `numbers` in Markdown, under the keys of their scores."""
    columns = {
        "FID per class, half of the steps": "fid_per_class_half",
        "FID per class": "fid_per_class",
        "FID": "fid",
        "conditional accuracy": "conditional_accuracy",
        "of classes 1-9": "rare_accuracy",
    }
    keys = rows[0]["results"][0]["metrics"]
    measured = [next(key for key in keys if key.startswith(f"{score}_")) for score in SCORES]
    seeds = max(row["runs"] for row in rows)
    cells = [[row["label"], *(format_mean_sd(row[c]) for c in columns.values())] for row in rows]
    title = f"{TITLES[name]}; mean ± sd over {seeds} seeds, {', '.join(measured)}"
    return f"{title}\n\n{markdown_table(['', *columns], cells)}"


def draw_scores(name, rows, folder):
    """Scores over the steps: mean of the seeds and their range. rows: of `numbers`."""
    figure, axes = plots.plt.subplots(1, len(SCORES), figsize=(13, 4), layout="constrained")
    axes[1].sharey(axes[0])
    for axis, (score, (title, unit)) in zip(axes, SCORES.items()):
        for i, row in enumerate(rows):
            if not row["steps"]:
                continue
            values = np.array(row["curves"][score])
            axis.plot(row["steps"], values.mean(0), color=f"C{i}", label=row["label"])
            low, high = values.min(0), values.max(0)
            axis.fill_between(row["steps"], low, high, color=f"C{i}", alpha=0.15, lw=0)
        axis.set(title=title, xlabel="step of training", ylabel=unit)
        axis.set_ylim(0, None if "fid" in score else 1)
        axis.grid(alpha=0.3)
    labels = axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=min(4, len(rows)))
    runs = max(row["runs"] for row in rows)
    figure.suptitle(f"{TITLES[name]} (mean and range over seeds: {runs})")
    plots.save_figure(figure, folder / f"figure_{name}.png")


def draw_overview(tables, path):
    """The rows of all figures: a dot per seed, a line at their mean. tables: {figure: rows}."""
    panels = {
        "fid_per_class_half": "FID per class, half way (lower is better)",
        "fid_per_class": "FID per class, at the end (lower is better)",
        "conditional_accuracy": "share of samples seen as asked for, at the end",
    }
    lines = []  # a figure's title above its rows
    for i, (name, rows) in enumerate(tables.items()):
        lines += [(TITLES[name], None, None), *((row["label"], row, f"C{i}") for row in rows)]
    shape = dict(figsize=(14, 1 + 0.27 * len(lines)), sharey=True, layout="constrained")
    figure, axes = plots.plt.subplots(1, len(panels), **shape)
    axes[1].sharex(axes[0])
    for place, (label, row, color) in enumerate(lines):
        if row is None:
            axes[0].text(4, place, label, va="center", fontsize=8, in_layout=False)
            continue
        for axis, key in zip(axes, panels):
            of_seeds = [value for value in row[key] if not math.isnan(value)]
            axis.plot(of_seeds, [place] * len(of_seeds), "o", color=color, alpha=0.6)
            if of_seeds:
                axis.plot(np.mean(of_seeds), place, "k|", ms=13)
    for axis, (key, title) in zip(axes, panels.items()):
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, None if "fid" in key else 1)
        axis.grid(axis="x", alpha=0.3)
    ticks = [place for place, (_, row, _) in enumerate(lines) if row is not None]
    axes[0].set_yticks(ticks, [lines[place][0] for place in ticks])
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle("A dot per seed, a line at their mean. FID is of LeNet features", fontsize=10)
    plots.save_figure(figure, path)


def draw_mixed_classes(rows, names, folder):
    """§6.3: the classes seen in each configuration's samples, all seeds. rows: of `numbers`."""
    shape = dict(figsize=(3.4 * len(rows), 3.6), sharey=True, squeeze=False)
    figure, axes = plots.plt.subplots(1, len(rows), layout="constrained", **shape)
    for axis, row in zip(axes[0], rows):
        draw_classes(axis, [result["metrics"] for result in row["results"]], names)
        axis.set_title(row["label"], fontsize=10)
    runs = max(row["runs"] for row in rows)
    figure.suptitle(f"{TITLES['mixed']} (mean and range over seeds: {runs})")
    save_classes(figure, folder / "figure_mixed_classes.png")


def draw_mixed_samples(runs, names, folder, device):
    """Figs. 15-20: a row of samples per run, one per class; down a column at the same z."""
    images, rows = [], []
    for label, results in runs.items():
        for result in results:
            G, trained, checkpoint = load(folder / result["name"] / "last.pt", device)
            images += sample(G, each_condition(checkpoint["state"]["groups"]), trained, device)
            rows.append(f"{label}, seed {result['seed']}")
    path = folder / "figure_mixed_samples.png"
    plots.save_grid(torch.cat(images), path, nrow=len(names), rows=rows, columns=names)


def finished(name, config, results, failed):
    """{label: results} of the figure's curves that have any. config: {label: flags}."""
    runs = {}
    for label, flags in config.items():
        mine = [r for r in results if r["flags"] == flags and "metrics" in r]
        if mine:
            runs[label] = mine
    if not runs:
        raise UserError(f"no run of figure {name} came through: {'; '.join(failed)}")
    return runs


def write_figure(folder, name, text, report):
    """figure_<name>.md and .json."""
    replace_file(folder / f"figure_{name}.md", text.encode())
    print(text)
    write_json(folder / f"figure_{name}.json", report)


def main(argv=None):
    """{figure: rows of its table}."""
    args = arguments.parse_args(Args, __doc__, argv)
    chosen = args.figures or [*TITLES, "classifier", "toy"]
    default = "runs/cagan/figures-reduced" if args.reduced else "runs/cagan/figures"
    folder = Path(args.out or default)
    configs = {k: config for k, config in figure_configs(args.reduced).items() if k in chosen}
    for_classifier = classifier_configs(args.reduced) if "classifier" in chosen else {}
    shared = FULL
    if args.reduced:
        shared = REDUCED.format(amp=bf16_if_fast(args.device)).split()
    shared = shared + shlex.split(args.train_flags)
    results = []
    if configs or for_classifier:
        todo = cells(configs | {"classifier": for_classifier}, args.seeds)
        # `reference` reads inception_weights. amp is in the settings.json of earlier sweeps, which
        # can only go on with it; samples are drawn with the training's.
        measuring = argparse.Namespace(**vars(args), inception_weights=None, amp="off")
        results = sweep(todo, train.main, measure_run, measuring, folder, shared)
    end_sweep(args.part, results)
    failed = failures(results)
    tables = {}
    for name, config in configs.items():
        runs = finished(name, config, results, failed)
        rows = [numbers(label, mine, folder) for label, mine in runs.items()]
        report = {"flags": shared, "configs": config, "rows": rows, "failed": failed}
        write_figure(folder, name, table(name, rows), report)
        tables[name] = rows
        draw_scores(name, rows, folder)
        saved = runs_with("last.pt", runs, folder)
        if name == "mixed" and saved:
            first = load_checkpoint(folder / next(iter(saved.values()))[0]["name"] / "last.pt")
            names = first["state"]["names"]
            draw_mixed_classes(rows, names, folder)
            draw_mixed_samples(saved, names, folder, choose_device(args.device))
    if tables:
        draw_overview(tables, folder / "figure_overview.png")
    if for_classifier:
        runs = finished("classifier", for_classifier, results, failed)
        rows = [row for label, mine in runs.items() for row in classifier.numbers(label, mine)]
        every_run = [without_confusion(result) for mine in runs.values() for result in mine]
        report = {"flags": shared, "configs": for_classifier, "rows": rows, "failed": failed}
        report["results"] = every_run
        write_figure(folder, "classifier", classifier.table(rows), report)
        tables["classifier"] = rows
        classifier.draw(rows, folder / "figure_classifier.png")
    if "toy" in chosen:
        seeds = str(args.seeds)  # a toy of fewer seeds stays beside this one
        toy.main(["--seeds", seeds, "--out", str(folder / f"toy-{seeds}seeds")])
    return tables


if __name__ == "__main__":
    run_main(main)
