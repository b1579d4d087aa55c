"""The paper's tables and figures. From the repository's root:

  python -m egan.eval                                    the newest run under runs/egan
  python -m egan.eval --ckpt DIR --n 10000               a run or a checkpoint, metrics from 10,000 samples
  python -m egan.eval --ckpt … --samples 64 --grid-out grid.png    only draw samples
  python -m egan.eval --ckpt … --n 50000 --export DIR    only write samples, as DIR/samples.npz (images: and PNGs)
  python -m egan.eval --table2 --reduced                 Table II, about an hour or two on two CPU cores
  python -m egan.eval --table2                           the same at the paper's settings: days on a CPU
  python -m egan.eval --table3 --reduced --seeds 2       Table III, small, on FashionMNIST: an hour of two CPU cores
  python -m egan.eval --table3                           the same on CIFAR-10 at the paper's settings: a GPU's work
  python -m egan.eval --robustness --dataset cifar10     baseline, weak G, weak D, weak both x the methods
  python -m egan.eval --fid-curves --train-flags '--width-g 32 --width-d 32 --steps 4000 --sample-every 500'
                                                         Fig. 4: IS and FID of each mutation alone and of E-GAN
  python -m egan.eval --timing                           milliseconds a generation of --population loop and batch

Writes eval_<step>.json and figures beside the checkpoint. Of a population the fittest individual of the last
generation is evaluated (--individual for another). No network has train and eval modes that differ.
The tables train what they need, --jobs runs at a time, under --out; started again, they go on where they stood.
"""

import argparse
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common import plots
from common.cli import add_device_args, add_eval_args, new_parser, run_main
from common.data import DATASETS
from common.device import choose_device, fused_adam
from common.errors import UserError
from common.evaluate import (checkpoint_path, image_scores, named_outputs, output_dir, print_metrics, reference,
                             say_written, write_eval)
from common.metrics import pick
from common.metrics.images import image_metrics, real_features
from common.metrics.toy import MIXTURES, mixture, toy_metrics
from common.runs import environment, load_checkpoint, load_state, read_log, replace_file, write_json
from common.sweep import add_sweep_args, sweep

from . import train
from .model import MUTATIONS, fitness, select
from .population import POPULATIONS
from .train import build, load_data, panels, sample_z

BANDWIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)      # of MMD; Table II does not give its own
METHODS = {                                  # Table II's rows and two more: flags of train.py
    "GAN-Heuristic": ["--mutations", "heuristic"],
    "GAN-Least-squares": ["--mutations", "least-squares"],
    "GAN-Minimax": ["--mutations", "minimax"],
    "E-GAN (γ = 0)": ["--gamma", "0"],
    "E-GAN (γ = 0.5)": ["--gamma", "0.5"],
    "random selection": ["--selection", "random"],
}
BASELINES = ("GAN-Heuristic", "GAN-Least-squares", "GAN-Minimax")
TABLE_II = {                                 # the paper's MMD (x 10⁻²): average and best of 10 runs
    "8gaussians": {"GAN-Heuristic": (45.27, 33.2), "GAN-Least-squares": (3.99, 3.16), "GAN-Minimax": (2.94, 1.89),
                   "E-GAN (γ = 0)": (11.54, 7.31), "E-GAN (γ = 0.5)": (2.36, 1.17)},
    "25gaussians": {"GAN-Heuristic": (2.80, 2.19), "GAN-Least-squares": (1.83, 1.72), "GAN-Minimax": (1.65, 1.55),
                    "E-GAN (γ = 0)": (1.69, 1.60), "E-GAN (γ = 0.5)": (1.20, 1.04)},
}
GP = ["--gp", "10", "--d-norm", "none"]      # λ_GP of the authors' PyTorch code
WGAN = ["--mutations", "wasserstein", "--n-d", "5", "--beta1", "0", "--beta1-d", "0"]     # no momentum, as its authors
WGAN_CLIP, WGAN_GP = [*WGAN, "--clip", "0.01"], [*WGAN, "--beta2", "0.9", *GP]
TABLE_III = {                                # flags of train.py; the paper's IS and FID on CIFAR-10
    "E-GAN-GP (μ = 1)": (GP, ("7.13 ± .07", "33.2")),
    "E-GAN-GP (μ = 2)": ([*GP, "--mu", "2"], ("7.23 ± .08", "31.6")),
    "E-GAN-GP (μ = 4)": ([*GP, "--mu", "4"], ("7.32 ± .09", "29.8")),
    "E-GAN-GP (μ = 8)": ([*GP, "--mu", "8"], ("7.34 ± .07", "27.3")),
    "E-GAN (μ = 1, without GP)": ([], ("6.98 ± .09", "36.2")),
    "DCGAN (without GP)": (["--mutations", "heuristic"], ("6.64 ± .14", "–")),
    "GAN-GP": (["--mutations", "heuristic", *GP], ("6.93 ± .08", "37.7")),
    "WGAN-GP": (WGAN_GP, ("6.68 ± .06", "40.2")),
}
TABLE_III_REAL = ("11.24 ± .12", "7.8")
ROBUSTNESS = {                               # the slides' FIDs on LSUN bedrooms, of their (unpublished) weak networks
    "DCGAN": (43.7, 187.3, 410.6, 82.7), "LSGAN": (46.3, 452.9, 423.1, 126.2),
    "WGAN": (51.1, 113.6, 129.2, 115.7), "WGAN-GP": (38.5, 66.7, 385.8, 73.2),
    "E-GAN (μ = 1)": (34.2, 63.3, 64.8, 71.9), "E-GAN (μ = 4)": (29.7, 59.1, 55.2, 60.9),
}
ROBUSTNESS_FLAGS = {"DCGAN": ["--mutations", "heuristic"], "LSGAN": ["--mutations", "least-squares"],
                    "WGAN": WGAN_CLIP, "WGAN-GP": WGAN_GP, "E-GAN (μ = 1)": [], "E-GAN (μ = 4)": ["--mu", "4"]}
REDUCED = ["--width-g", "128", "--width-d", "128", "--steps", "4000", "--lr-g", "5e-4", "--lr-d", "5e-4",
           "--init", "he", "--d-norm", "none"]
REDUCED_III = ["--size", "16", "--width-g", "16", "--width-d", "16", "--n-d", "1", "--eval-batch", "64", "--init", "he",
               "--lr-g", "5e-4", "--lr-d", "5e-4", "--steps", "4000"]


def parse_args(argv=None):
    parser = new_parser(__doc__)
    add_eval_args(parser, "egan", n=None, n_help="samples for the metrics; none: 2,000 (toys), 10,000 (images), 5,000 "
                  "(--fid-curves)")
    parser.add_argument("--individual", type=int, default=0, metavar="PLACE", help="of the population, 0: the fittest")
    tables = parser.add_argument_group("tables")
    tables.add_argument("--table2", action="store_true", help="Table II, with γ = 0 and random selection")
    tables.add_argument("--table3", action="store_true", help="Table III: IS and FID over μ, with and without gradient "
                        "penalty, of other GANs and of real images, on --dataset")
    tables.add_argument("--robustness", action="store_true", help="the table of weak networks, on --dataset")
    tables.add_argument("--fid-curves", action="store_true", help="Fig. 4: IS and FID over training of each single "
                        "mutation and E-GAN, on --dataset")
    tables.add_argument("--timing", action="store_true", help="a generation's time over μ, mutations and --population")
    tables.add_argument("--dataset", choices=DATASETS + ("synthetic",), help="of --table3, --robustness and "
                        "--fid-curves; none: fashion-mnist, but cifar10 for --table3 without --reduced")
    tables.add_argument("--reduced", action="store_true", help=f"--table2 with {' '.join(REDUCED)}; "
                        f"--table3 with {' '.join(REDUCED_III)}")
    add_sweep_args(tables, seeds=10, out="none: runs/egan/table2, table2-reduced, table3, … or timing")
    add_device_args(parser.add_argument_group("run"))
    args = parser.parse_args(argv)
    args.dataset = args.dataset or ("cifar10" if args.table3 and not args.reduced else "fashion-mnist")
    return args


# --- one checkpoint


def load(path, device, individual=0):
    """(G, training args, checkpoint) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "egan")
    trained = argparse.Namespace(**checkpoint["args"])
    if not 0 <= individual < trained.mu:
        raise UserError(f"--individual {individual}: the population in {path} has places 0 to {trained.mu - 1}")
    G = build(trained)[0][0]
    params = checkpoint["state"]["population"]["params"]
    load_state(G, {name: stack[individual] for name, stack in params.items()}, f"a generator in {path}")
    return G.to(device).eval().requires_grad_(False), trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250):
    """Yield n samples (B, 2) or (B, C, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        yield G(sample_z(min(batch_size, n - start), args=trained, rng=rng).to(device))


def measure(G, trained, args, device, real_set=None, extractor=None):
    """Toys: MMD², modes, high-quality share. Images: FID, KID, IS, precision, recall and the
    classes' histogram.

    real_set, extractor: of common.evaluate.reference; a toy needs none.
    """
    if trained.dataset in MIXTURES:
        samples = torch.cat(list(sample(G, args.n, trained, device, args.seed)))
        return toy_metrics(samples, mixture(trained.dataset), BANDWIDTHS)
    batches = sample(G, args.n, trained, device, args.seed, args.batch_size)
    return image_scores(extractor, real_set, batches, args.n, device, trained.data_dir)[0]


def real_images(trained, args, device):
    """The real images of a run and the extractor, for `measure`; () for a toy."""
    return () if trained.dataset in MIXTURES else reference(load_data, trained, args, device)


def draw_samples(G, n, trained, device, path, seed=0):
    """A density plot beside the data's (toys, the paper's Fig. 3), or a grid of images."""
    samples = torch.cat(list(sample(G, n, trained, device, seed))).cpu()
    if trained.dataset in MIXTURES:
        data = mixture(trained.dataset)
        real = data.sample(n, torch.Generator().manual_seed(seed))[0]
        plots.densities({data.name: real, "samples": samples}, path, limit=2)
    else:
        plots.save_grid(samples, path, nrow=max(1, round(math.sqrt(n))), zoom=max(1, 64 // trained.size))


def draw(G, trained, args, device, log, where):
    """Samples, curves (fitness, selected mutations: Fig. 4 right), and with images latent interpolation."""
    toy = trained.dataset in MIXTURES
    draw_samples(G, 10_000 if toy else 64, trained, device, where / "samples.png", args.seed)
    if not toy:
        z1, z2 = sample_z(8, args=trained, rng=torch.Generator().manual_seed(args.seed)).to(device).chunk(2)
        rows = torch.stack([G(torch.lerp(z1, z2, a)) for a in torch.linspace(0, 1, 11).tolist()], 1)     # (4, 11, …)
        plots.save_grid(rows.flatten(0, 1), where / "interpolation.png", nrow=11)
    if log:
        plots.curves(log, panels(trained), where / "curves.png", smooth=max(1, len(log) // 50))
        draw_selected(log, trained.mutations, where / "selected.png")


def draw_selected(log, mutations, path):
    """Shares of the mutations among the survivors over training, stacked to 1: the paper's Fig. 4, right."""
    steps = np.array([line["step"] for line in log])
    shares = np.array([[line[f"selected_{name}"] for line in log] for name in mutations])
    width = max(1, len(steps) // 50)
    kernel = np.ones(width) / width
    smooth = np.array([np.convolve(row, kernel, "valid") for row in shares])
    figure, axis = plots.plt.subplots(figsize=(7, 2.6))
    if smooth.shape[1] > 1:
        axis.stackplot(steps[width - 1:], smooth, labels=mutations)
    else:
        axis.bar(mutations, smooth[:, 0], label=mutations)
    axis.set(xlabel="generation", ylabel="share of survivors", ylim=(0, 1))
    axis.legend(fontsize=8, loc="lower right")
    plots.save_figure(figure, path)


# --- tables: many runs


def cell(table, method, seed, flags):
    """A run of a table, for common.sweep."""
    name = "-".join([table, *flags, str(seed)]).replace("--", "").replace(" ", "_")
    return {"name": name, "table": table, "method": method, "seed": seed, "flags": flags}


def measure_run(where, _, args):
    """The metrics of a finished run's fittest generator."""
    device = choose_device(args.device)
    G, trained, _ = load(where / "last.pt", device)
    args.n = args.n or (2000 if trained.dataset in MIXTURES else 10_000)
    return measure(G, trained, args, device, *real_images(trained, args, device))


def table2(args):
    """Table II: methods x data sets x seeds, beside the paper's numbers. -> table2.md, table2.json, table2.png."""
    shared = (REDUCED if args.reduced else []) + shlex.split(args.train_flags)
    folder = Path(args.out or f"runs/egan/table2{'-reduced' * args.reduced}")
    cells = [cell(data, method, seed, ["--dataset", data, *flags])
             for seed in range(args.seeds) for data in MIXTURES for method, flags in METHODS.items()]
    results = [r for r in sweep(cells, train.main, measure_run, args, folder, shared) if "metrics" in r]
    columns = mmd_columns(results)
    nearest = nearest_kernel(columns)
    lines, table = [], {"flags": shared, "nearest_kernel": nearest[:10], "rows": []}
    kernel, unit = nearest[0][0], "unbiased s=1"
    for data in MIXTURES:
        lines += [f"\n**{data}**, {args.seeds} runs a row\n",
                  f"| method | paper: avg / best (x 10⁻²) | ours, {kernel} (x 10⁻²): avg ± sd / best | "
                  f"ours, {unit} MMD² (x 10⁻²): avg ± sd / best | modes | high quality | mode KL | s a run |",
                  "|---|---|---|---|---|---|---|---|"]
        for method in METHODS:
            rows = [r for r in results if (r["table"], r["method"]) == (data, method)]
            if not rows:
                continue
            row = {"data": data, "method": method, "runs": len(rows), "paper": TABLE_II[data].get(method),
                   **{name: summary(columns[name][data, method], 100) for name in {kernel, unit}},
                   **{name: summary([pick(r["metrics"], name) for r in rows])
                      for name in ("modes", "high_quality", "mode_kl")},
                   "seconds": summary([r["seconds"] for r in rows])}
            table["rows"].append(row)
            paper = "{} / {}".format(*row["paper"]) if row["paper"] else "–"
            lines.append(f"| {method} | {paper} | {said(row[kernel])} | {said(row[unit])} | "
                         f"{row['modes']['mean']:.1f} ± {row['modes']['sd']:.1f} | {row['high_quality']['mean']:.2f} | "
                         f"{row['mode_kl']['mean']:.3f} | {row['seconds']['mean']:.0f} |")
    lines += ["", f"Kernels by distance of the baselines' averages from the paper's (mean |log ratio|): "
              f"{', '.join(f'{name} {d:.2f}' for name, d in nearest[:5])}."]
    replace_file(folder / "table2.md", ("\n".join(lines).strip() + "\n").encode())
    write_json(folder / "table2.json", table)
    draw_table2(folder, results)
    print("\n".join(lines))
    return table


def mmd_columns(results):
    """{"biased s=1": {(data, method): [MMD² of each run]}, …}, and as "root s=1" the biased MMD itself."""
    columns = {}
    for s in BANDWIDTHS:
        for kind in ("biased", "unbiased", "root"):
            column = columns[f"{kind} s={s:g}"] = {}
            for r in results:
                value = pick(r["metrics"], f"mmd2_{'biased' if kind == 'root' else kind}_s{s:g}")
                column.setdefault((r["table"], r["method"]), []).append(math.sqrt(value) if kind == "root" else value)
    return columns


def nearest_kernel(columns):
    """[(column, mean |log(our average / the paper's)| over the GAN rows of both data sets), …], nearest first."""
    def distance(column):
        logs = [abs(math.log(max(100 * np.mean(column[data, method]), 1e-6) / TABLE_II[data][method][0]))
                for data in MIXTURES for method in BASELINES if (data, method) in column]
        return float(np.mean(logs)) if logs else math.inf
    return sorted(((name, distance(column)) for name, column in columns.items()), key=lambda pair: pair[1])


def summary(values, scale=1, best=min):
    values = scale * np.array(values, dtype=float)
    return {"n": len(values), "mean": values.mean(), "sd": values.std(ddof=1) if len(values) > 1 else 0.0,
            "best": best(values)}


def said(s):
    return f"{s['mean']:.2f} ± {s['sd']:.2f} / {s['best']:.2f}"


def draw_table2(folder, results):
    """Densities of the median run of every cell beside the data's: the paper's Fig. 3."""
    for data in MIXTURES:
        shown = {data: mixture(data).sample(10_000, torch.Generator().manual_seed(0))[0]}
        for method in METHODS:
            rows = sorted((r for r in results if (r["table"], r["method"]) == (data, method)),
                          key=lambda r: pick(r["metrics"], "mmd2_unbiased_s1"))
            if rows:
                r = rows[(len(rows) - 1) // 2]
                G, trained, _ = load(folder / r["name"] / "last.pt", torch.device("cpu"))
                samples = torch.cat(list(sample(G, 10_000, trained, torch.device("cpu"))))
                shown[f"{method}, seed {r['seed']}"] = samples
        plots.densities(shown, folder / f"table2_{data}.png", limit=2)


def table3(args):
    """Table III: IS and FID of each method and of real images, beside the paper's. -> table3.md, .json, .png."""
    shared = ["--dataset", args.dataset, *(REDUCED_III if args.reduced else []), *shlex.split(args.train_flags)]
    folder = Path(args.out or f"runs/egan/table3{'-reduced' * args.reduced}")
    args.n = args.n or 10_000
    real = measure_real(shared, args)        # first: what is missing for it is missing for every run
    cells = [cell("table3", method, seed, flags)
             for seed in range(args.seeds) for method, (flags, _) in TABLE_III.items()]
    results = [r for r in sweep(cells, train.main, measure_run, args, folder, shared) if "metrics" in r]
    table = [{"method": "real data", "paper": TABLE_III_REAL, "metrics": real,
              "is": summary([pick(real, "is")], best=max), "fid": summary([pick(real, "fid")])}]
    for method, (flags, paper) in TABLE_III.items():
        rows = [r for r in results if r["method"] == method]
        if rows:
            seconds = [read_log(folder / r["name"] / "log.jsonl")[-1]["seconds"] for r in rows]
            table.append({"method": method, "flags": flags, "paper": paper, "runs": len(rows),
                          "is": summary([pick(r["metrics"], "is") for r in rows], best=max),
                          "fid": summary([pick(r["metrics"], "fid") for r in rows]),
                          "seconds": summary(seconds)})
    lines = ["| method | paper: IS | ours: IS | paper: FID | ours: FID | s of training |", "|---|---|---|---|---|---|"]
    for row in table:
        seconds = f"{row['seconds']['mean']:.0f}" if "seconds" in row else "–"
        lines.append(f"| {row['method']} | {row['paper'][0]} | {mean_sd(row['is'])} | {row['paper'][1]} | "
                     f"{mean_sd(row['fid'])} | {seconds} |")
    names = ", ".join(key for key in real if key.startswith(("is_", "fid_")))
    lines += ["", f"Paper: CIFAR-10, Inception. Ours: {args.dataset}, {names}; mean ± sd over {args.seeds} run(s)."]
    replace_file(folder / "table3.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / "table3.json", {"flags": shared, "measured": names, "rows": table})
    draw_table3(folder, results)
    print("\n".join(lines))
    return table


def measure_real(shared, args):
    """Table III's first row: the metrics of --n real images of the training split, in place of generated ones."""
    device = choose_device(args.device)
    trained = train.parse_args(shared)
    real_set, extractor = reference(load_data, trained, args, device)
    if extractor is None:
        raise UserError("--table3 is a table of IS and FID, and there is no extractor to measure them with")
    cache = Path(trained.data_dir) / "cache"
    other = real_features(extractor, real_set, device=device, cache_dir=cache)
    ours = real_features(extractor, load_data(trained), args.n, args.seed, device=device, cache_dir=cache)
    return image_metrics(other, ours, extractor.name, args.split)


def mean_sd(s):
    """mean ± sd; of a single run the value alone."""
    return f"{s['mean']:.2f} ± {s['sd']:.2f}" if s["n"] > 1 else f"{s['mean']:.2f}"


def draw_table3(folder, results, columns=16):
    """A row of samples of each method's first run, in the table's order."""
    rows = []
    for method in TABLE_III:
        for r in [r for r in results if r["method"] == method][:1]:
            G, trained, _ = load(folder / r["name"] / "last.pt", torch.device("cpu"))
            rows.append(torch.cat(list(sample(G, columns, trained, torch.device("cpu")))))
    if rows:
        plots.save_grid(torch.cat(rows), folder / "table3.png", nrow=columns, zoom=max(1, 48 // trained.size))


def robustness(args):
    """The slides' table of weak networks: FID of each method with G, D or both at a quarter of the width."""
    widths = {"baseline": (128, 128), "weak G": (32, 128), "weak D": (128, 32), "weak both": (32, 32)}
    shared = ["--dataset", args.dataset] + shlex.split(args.train_flags)
    folder = Path(args.out or "runs/egan/robustness")
    cells = [cell(column, method, seed, ["--width-g", str(g), "--width-d", str(d), *flags])
             for seed in range(args.seeds) for column, (g, d) in widths.items()
             for method, flags in ROBUSTNESS_FLAGS.items()]
    results = [r for r in sweep(cells, train.main, measure_run, args, folder, shared) if "metrics" in r]
    lines = ["| method | " + " | ".join(widths) + " |", "|---" * (len(widths) + 1) + "|"]
    table = []
    for method in ROBUSTNESS_FLAGS:
        found = []
        for i, column in enumerate(widths):
            fids = [pick(r["metrics"], "fid") for r in results if (r["table"], r["method"]) == (column, method)]
            if fids:
                table.append({"method": method, "column": column, "paper_lsun": ROBUSTNESS[method][i], **summary(fids)})
            found.append(f"{np.mean(fids):.1f} ({ROBUSTNESS[method][i]})" if fids else "not run")
        lines.append(f"| {method} | " + " | ".join(found) + " |")
    lines += ["", f"FID on {args.dataset} (in brackets the paper's, on LSUN bedrooms)"]
    replace_file(folder / "robustness.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / "robustness.json", table)
    print("\n".join(lines))
    return table


def fid_curves(args):
    """Fig. 4: IS and FID over training of each single mutation and of E-GAN, at equal generations and at equal time.

    The time is each run's own wall time, so let all runs share the machine alike (--jobs). Equal time is the
    shortest run's whole time; each run's last score by then counts (at least its first). -> fid_curves.md, .json, .png.
    """
    n = args.n or 5000
    shared = ["--dataset", args.dataset, "--fid-samples", str(n)] + shlex.split(args.train_flags)
    folder = Path(args.out or "runs/egan/fid-curves")
    methods = {name: METHODS[name] for name in BASELINES} | {"E-GAN": []}
    cells = [cell(args.dataset, method, seed, flags)
             for seed in range(args.seeds) for method, flags in methods.items()]
    results = [r for r in sweep(cells, train.main, measure_run, args, folder, shared) if "metrics" in r]
    runs = [(r, [line for line in read_log(folder / r["name"] / "log.jsonl") if any(k.startswith("fid") for k in line)])
            for r in results]
    equal = min((curve[-1]["seconds"] for _, curve in runs), default=0)
    steps = runs[0][1][-1]["step"] if runs else 0
    figure, axes = plots.plt.subplots(2, 2, figsize=(10, 6.4), sharex="col", sharey="row")
    lines = [f"| method | generations/s | IS, FID after {steps} generations | "
             f"IS, FID after {equal:.0f} s (generations) |", "|---|---|---|---|"]
    table = []
    for i, method in enumerate(methods):
        curves = [curve for r, curve in runs if r["method"] == method]
        for j, curve in enumerate(curves):
            for row, what in zip(axes, ("is", "fid")):
                for axis, x in zip(row, ("step", "seconds")):
                    axis.plot([line[x] for line in curve], [pick(line, what) for line in curve], color=f"C{i}",
                              label=method if j == 0 else None)
        if curves:
            at_equal = [([line for line in curve if line["seconds"] <= equal] or curve[:1])[-1] for curve in curves]
            table.append({"method": method, "equal_seconds": equal,
                          "generations_per_s": summary([c[-1]["step"] / c[-1]["seconds"] for c in curves]),
                          "is_last": summary([pick(c[-1], "is") for c in curves], best=max),
                          "is_equal_time": summary([pick(line, "is") for line in at_equal], best=max),
                          "fid_last": summary([pick(c[-1], "fid") for c in curves]),
                          "fid_equal_time": summary([pick(line, "fid") for line in at_equal]),
                          "generations_equal_time": [line["step"] for line in at_equal]})
            row = table[-1]
            lines.append(f"| {method} | {row['generations_per_s']['mean']:.1f} | "
                         f"{mean_sd(row['is_last'])}, {mean_sd(row['fid_last'])} | "
                         f"{mean_sd(row['is_equal_time'])}, {mean_sd(row['fid_equal_time'])} "
                         f"({', '.join(map(str, row['generations_equal_time']))}) |")
    axes[0, 0].set(ylabel=f"IS (LeNet, {n:,} samples)")
    axes[1, 0].set(xlabel="generation", ylabel=f"FID (LeNet, {n:,} samples, test)", yscale="log")
    axes[1, 1].set(xlabel="seconds")
    axes[0, 0].legend(fontsize=8)
    plots.save_figure(figure, folder / "fid_curves.png")
    replace_file(folder / "fid_curves.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / "fid_curves.json", table)
    print("\n".join(lines))
    return table


def timing(args, versions=("loop", "shared-loop", "batch"), mus=(1, 2, 4, 8)):
    """Median time of Algorithm 1's lines 8-17, a generation without D's steps, over 15 generations after two.

    CPU time and wall time: on a machine that does other things, too, the first is the better one (with one thread).
    """
    folder, device = Path(args.out or "runs/egan/timing"), choose_device(args.device)
    shared = shlex.split(args.train_flags)
    torch.set_num_threads(args.threads)
    env, table = environment(device), []
    lines = [f"{env['device']}, torch {env['torch']}, train flags: {shlex.join(shared) or 'none'}", "",
             "| μ | mutations | " + " | ".join(f"{v}: ms CPU (wall)" for v in versions) + " | batch / loop |",
             "|---" * (len(versions) + 3) + "|"]
    for names in (["minimax"], list(MUTATIONS)):
        for mu in mus:
            trained = train.parse_args([*shared, "--mu", str(mu), "--mutations", *names,
                                        "--data-dir", args.data_dir or "data"])
            row = {"mu": mu, "mutations": len(names)}
            for version in versions:
                row[version] = generation_ms(trained, version, device)
            table.append(row)
            cells = [f"{cpu:.1f} ({wall:.1f})" for cpu, wall in (row[v] for v in versions)]
            lines.append(f"| {mu} | {len(names)} | {' | '.join(cells)} | {row['batch'][0] / row['loop'][0]:.2f} |")
            print(lines[-1], flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "timing.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / "timing.json", {"env": env, "flags": shared, "rows": table})
    return table


def generation_ms(trained, version, device, n=17):
    """(CPU, wall) milliseconds of a generation of `version`: offspring, mutation, fitness, survivors."""
    data, mutations = load_data(trained), [MUTATIONS[name] for name in trained.mutations]
    trained.channels = getattr(data, "channels", None)
    networks, D = build(trained)
    population = POPULATIONS[version]([G.to(device) for G in networks], adam=lambda p: fused_adam(p, device, lr=1e-4))
    D, C = D.to(device), trained.mu * len(mutations)
    rng, times = torch.Generator().manual_seed(0), []
    x, _ = data.batch(0, trained.eval_batch, 0, device)
    z, z_F = (sample_z(*shape, args=trained, rng=rng).to(device) for shape in
              ((C, trained.batch_size), (trained.eval_batch,)))
    for _ in range(n):
        start = time.process_time(), time.perf_counter()
        children = population.offspring(len(mutations))
        children.mutate(D, z, mutations)
        places = select(fitness(*children.evaluate(D, x, z_F), trained.gamma), trained.mu)
        population = children.survivors(places)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return [1000 * float(t) for t in np.median(times[2:], 0)]


def main(argv=None):
    args = parse_args(argv)
    if args.table2:
        return table2(args)
    if args.table3:
        return table3(args)
    if args.fid_curves:
        return fid_curves(args)
    if args.robustness:
        return robustness(args)
    if args.timing:
        return timing(args)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "egan")
    G, trained, checkpoint = load(path, device, args.individual)
    toy = trained.dataset in MIXTURES
    args.n = args.n or (2000 if toy else 10_000)
    if args.samples:
        draw_samples(G, args.samples, trained, device, args.grid_out, args.seed)
        return say_written(args.grid_out)
    if args.export:
        return plots.export_samples(sample(G, args.n, trained, device, args.seed, args.batch_size), args.export)

    print(f"{path}: E-GAN, μ = {trained.mu}, generation {checkpoint['step']}, {trained.dataset}")
    found = real_images(trained, args, device)
    where = output_dir(path, "egan")
    with named_outputs(where):
        draw(G, trained, args, device, read_log(path.with_name("log.jsonl")), where)
        metrics = measure(G, trained, args, device, *found)
        classes = [] if toy else found[0].classes
        write_eval(where, path, checkpoint, metrics, device, individual=args.individual, classes=classes)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
