"""The paper's tables and figures, by training many runs. From the repository's root:

  python -m egan.reproduce --table2 --reduced            Table II, an hour or two on two CPU cores
  python -m egan.reproduce --table2                      at the paper's settings: days on a CPU
  python -m egan.reproduce --table3 --reduced --seeds 3  Table III, small, on FashionMNIST: an hour
                                                         of one CPU core
  python -m egan.reproduce --table3                      on CIFAR-10, the paper's: a GPU's work
  python -m egan.reproduce --robustness --dataset cifar10        weak G, weak D x the methods
  python -m egan.reproduce --robustness --reduced --seeds 3      small, on FashionMNIST: an hour
                                                         of one CPU core
  python -m egan.reproduce --fid-curves --train-flags '--width-g 32 --width-d 32 --steps 4000'
                                                         Fig. 4: IS and FID of each mutation alone
                                                         and of E-GAN

Trains what is missing, --jobs runs at a time, under --out; started again, it goes on where it
stood. Writes there a table in Markdown and JSON, and pictures (--robustness: none).
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m egan.reproduce", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import EvalArgs, FilePath
from common.cli import run_main
from common.data import DATASETS
from common.device import choose_device
from common.errors import UserError
from common.evaluate import reference
from common.metrics.images import image_metrics, real_features
from common.runs import read_log, replace_file, write_json
from common.sweep import end_sweep, sweep
from common.toys import MIXTURES

from . import curves, tables, train
from .eval import default_n, load, measure, real_images

# What the runs of a row are trained with: flags of egan.train.
METHODS = {  # Table II, and random selection
    "GAN-Heuristic": ["--mutations", "heuristic"],
    "GAN-Least-squares": ["--mutations", "least-squares"],
    "GAN-Minimax": ["--mutations", "minimax"],
    "E-GAN (γ = 0)": ["--gamma", "0"],
    "E-GAN (γ = 0.5)": ["--gamma", "0.5"],
    "random selection": ["--selection", "random"],
}
CURVES = {name: METHODS[name] for name in tables.BASELINES} | {"E-GAN": []}  # Fig. 4
GP = "--gp 10 --d-norm none".split()  # λ_GP of the authors' PyTorch code
WGAN = "--mutations wasserstein --n-d 5 --beta1 0 --beta1-d 0".split()  # no momentum: its authors'
WGAN_CLIP = [*WGAN, "--clip", "0.01"]
WGAN_GP = [*WGAN, "--beta2", "0.9", *GP]
TABLE_III = {
    "E-GAN-GP (μ = 1)": GP,
    "E-GAN-GP (μ = 2)": [*GP, "--mu", "2"],
    "E-GAN-GP (μ = 4)": [*GP, "--mu", "4"],
    "E-GAN-GP (μ = 8)": [*GP, "--mu", "8"],
    "E-GAN (μ = 1, without GP)": [],
    "DCGAN (without GP)": ["--mutations", "heuristic"],
    "GAN-GP": ["--mutations", "heuristic", *GP],
    "WGAN-GP": WGAN_GP,
}
ROBUSTNESS = {
    "DCGAN": ["--mutations", "heuristic"],
    "LSGAN": ["--mutations", "least-squares"],
    "WGAN": WGAN_CLIP,
    "WGAN-GP": WGAN_GP,
    "E-GAN (μ = 1)": [],
    "E-GAN (μ = 4)": ["--mu", "4"],
}
WIDTHS = {  # columns of the table of weak networks: widths of G and of D
    "baseline": (128, 128),
    "weak G": (32, 128),
    "weak D": (128, 32),
    "weak both": (32, 32),
}
REDUCED_WIDTHS = {column: (g // 8, d // 8) for column, (g, d) in WIDTHS.items()}
REDUCED = (
    "--width-g 128 --width-d 128 --steps 4000 --lr-g 5e-4 --lr-d 5e-4 --init he --d-norm none"
).split()
REDUCED_III = (
    "--size 16 --width-g 16 --width-d 16 --n-d 1 --eval-batch 64 --init he --lr-g 5e-4 --lr-d 5e-4 "
    "--steps 1000"
).split()


@dataclass
class Args(arguments.SweepArgs):
    # --- what to reproduce
    table2: bool = False  # Table II, with γ = 0 and random selection
    # Table III: IS and FID over μ, with and without gradient penalty, of other GANs and of real
    # images, on --dataset
    table3: bool = False
    robustness: bool = False  # the table of weak networks, on --dataset
    # Fig. 4: IS and FID over training of each single mutation and E-GAN, on --dataset
    fid_curves: bool = False
    # none: fashion-mnist, but cifar10 for --table3 without --reduced; --table2 has its own
    dataset: Literal[*DATASETS, "synthetic"] | None = None
    # --table2, --table3 and --robustness on two CPU cores: small networks, few generations
    reduced: bool = False

    # --- runs
    seeds: int = 10  # runs per cell
    out: FilePath | None = None  # none: runs/egan/table2, table2-reduced, table3, …

    # --- measurement
    # samples; none: 2,000 of toys, 10,000 of images; along the way of --fid-curves 5,000
    n: int | None = None
    # features for FID and IS; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    split: Literal["train", "test"] = "test"  # real images to compare with
    amp: Literal["off", "bf16"] = "off"  # bf16 autocast, of the samples that are measured


# --- runs


def cell(table, method, seed, flags):
    """A run of a table, for common.sweep."""
    name = "-".join([table, *flags, str(seed)]).replace("--", "").replace(" ", "_")
    return {"name": name, "table": table, "method": method, "seed": seed, "flags": flags}


def train_and_measure(cells, args, folder, shared):
    """The results of the cells whose runs did not fail; shared: flags of every run."""
    results = sweep(cells, train.main, measure_run, args, folder, shared)
    end_sweep(args.part, results)
    return [result for result in results if "metrics" in result]


def measure_run(where, _, args):
    """The metrics of a finished run's fittest generator."""
    device = choose_device(args.device)
    G, trained, _ = load(where / "last.pt", device)
    one = eval_args(args, args.n or default_n(trained), where)
    return measure(G, trained, one, device, *real_images(trained, one, device))


def eval_args(args, n, ckpt=None):
    """What egan.eval would be given for one run."""
    names = ("data_dir", "extractor", "inception_weights", "split", "seed", "amp")
    return EvalArgs(ckpt=ckpt, n=n, **{name: getattr(args, name) for name in names})


def write_table(folder, name, markdown, table):
    replace_file(folder / f"{name}.md", (markdown.strip() + "\n").encode())
    write_json(folder / f"{name}.json", table)
    print(markdown)
    return table


# --- tables and figures


def table2(args):
    """Table II and Fig. 3: methods x data sets x seeds. -> table2.md, .json, table2_….png."""
    shared = (REDUCED if args.reduced else []) + shlex.split(args.train_flags)
    folder = Path(args.out or f"runs/egan/table2{'-reduced' * args.reduced}")
    cells = [
        cell(data, method, seed, ["--dataset", data, *flags])
        for seed in range(args.seeds)
        for data in MIXTURES
        for method, flags in METHODS.items()
    ]
    results = train_and_measure(cells, args, folder, shared)
    kernels, rows = tables.table2_numbers(results, METHODS)
    table = {"flags": shared, "nearest_kernel": kernels[:10], "rows": rows}
    write_table(folder, "table2", tables.table2_markdown(kernels, rows), table)
    tables.draw_table2(folder, results, METHODS)
    return table


def table3(args):
    """Table III: IS and FID of each method and of real images. -> table3.md, .json, .png."""
    dataset = args.dataset or ("fashion-mnist" if args.reduced else "cifar10")
    reduced = REDUCED_III if args.reduced else []
    shared = ["--dataset", dataset, *reduced, *shlex.split(args.train_flags)]
    folder = Path(args.out or f"runs/egan/table3{'-reduced' * args.reduced}")
    args.n = args.n or 10_000
    real = measure_real(shared, args)  # first: without it no run could be measured
    cells = [
        cell("table3", method, seed, flags)
        for seed in range(args.seeds)
        for method, flags in TABLE_III.items()
    ]
    results = train_and_measure(cells, args, folder, shared)
    rows = tables.table3_numbers(folder, results, TABLE_III, real)
    names = ", ".join(key for key in real if key.startswith(("is_", "fid_")))
    markdown = tables.table3_markdown(rows) + (
        f"\nPaper: CIFAR-10, Inception. Ours: {dataset}, {names}; mean ± sd over {args.seeds} runs."
    )
    write_table(folder, "table3", markdown, {"flags": shared, "measured": names, "rows": rows})
    tables.draw_table3(folder, results, TABLE_III)
    return rows


def measure_real(shared, args):
    """Table III's first row: metrics of --n real training images in place of generated ones."""
    device = choose_device(args.device)
    trained = train.parse_args(shared)
    real_set, extractor = reference(train.load_data, trained, eval_args(args, args.n), device)
    if extractor is None:
        raise UserError(
            "--table3 is a table of IS and FID, and there is no extractor to measure them with"
        )
    where = {"device": device, "cache_dir": Path(trained.data_dir) / "cache"}
    other = real_features(extractor, real_set, **where)
    ours = real_features(extractor, train.load_data(trained), args.n, args.seed, **where)
    return image_metrics(other, ours, extractor.name, real_set.split)


def robustness(args):
    """The table of weak networks: FID with G, D or both at a quarter of the width."""
    dataset = args.dataset or "fashion-mnist"
    widths = REDUCED_WIDTHS if args.reduced else WIDTHS
    reduced = REDUCED_III if args.reduced else []
    shared = ["--dataset", dataset, *reduced, *shlex.split(args.train_flags)]
    folder = Path(args.out or f"runs/egan/robustness{'-reduced' * args.reduced}")
    cells = [
        cell(column, method, seed, ["--width-g", str(g), "--width-d", str(d), *flags])
        for seed in range(args.seeds)
        for column, (g, d) in widths.items()
        for method, flags in ROBUSTNESS.items()
    ]
    results = train_and_measure(cells, args, folder, shared)
    rows = tables.robustness_numbers(results, ROBUSTNESS, WIDTHS)
    markdown = tables.robustness_markdown(rows, ROBUSTNESS, WIDTHS) + (
        f"\nFID on {dataset} (in brackets the paper's, on LSUN bedrooms)"
    )
    write_table(folder, "robustness", markdown, {"flags": shared, "widths": widths, "rows": rows})
    return rows


def fid_curves(args):
    """Fig. 4, left and middle: IS and FID over generations and over time. -> fid_curves.md, …

    The time is each run's own wall time, so let all runs share the machine alike (--jobs).
    """
    if args.reduced:
        raise UserError("--fid-curves has no --reduced: give its size with --train-flags (--help)")
    if args.extractor != "auto" or args.inception_weights or args.split != "test":
        raise UserError(
            "--fid-curves draws what the trainings measure, with the first extractor that can be "
            "had, against the test images: leave out --extractor, --inception-weights and --split"
        )
    n = args.n or 5000
    shared = ["--dataset", args.dataset or "fashion-mnist", "--fid-samples", str(n)]
    shared += shlex.split(args.train_flags)
    trained = train.parse_args(shared)
    if real_images(trained, eval_args(args, n), choose_device(args.device))[1] is None:
        raise UserError("--fid-curves draws IS and FID, and there is no extractor for them")
    folder = Path(args.out or "runs/egan/fid-curves")
    cells = [
        cell(args.dataset or "fashion-mnist", method, seed, flags)
        for seed in range(args.seeds)
        for method, flags in CURVES.items()
    ]
    scores = {method: [] for method in CURVES}
    survivors = {method: [] for method in CURVES}
    for result in train_and_measure(cells, args, folder, shared):
        log = read_log(folder / result["name"] / "log.jsonl")
        if not log:  # the run is gone
            continue
        scored = [line for line in log if any(key.startswith("fid") for key in line)]
        scores[result["method"]].append(scored)
        survivors[result["method"]].append(curves.survivors(log))
    if not any(scores.values()):
        raise UserError(
            f"{folder}: of no run there is a log.jsonl, of which the curves are drawn. Delete "
            "results.jsonl to train again"
        )
    rows = curves.curve_numbers(scores)
    rows = [row | {"survivors": survivors[row["method"]]} for row in rows]
    write_table(folder, "fid_curves", curves.curves_markdown(rows), rows)
    curves.draw_curves(scores, n, folder / "fid_curves.png")
    return rows


REPRODUCE = {
    "table2": table2,
    "table3": table3,
    "robustness": robustness,
    "fid_curves": fid_curves,
}


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    for name, reproduce in REPRODUCE.items():
        if getattr(args, name):
            return reproduce(args)
    flags = ", ".join("--" + name.replace("_", "-") for name in REPRODUCE)
    raise UserError(f"say what to reproduce: one of {flags}")


if __name__ == "__main__":
    run_main(main)
