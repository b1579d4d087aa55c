"""E-GAN's tables from the results of many runs: numbers, then Markdown, then pictures.

results: dicts of common.sweep with table, method, seed, name, metrics and seconds. The paper's
numbers stand beside ours.
"""

import math

import numpy as np
import torch

from common import plots
from common.evaluate import format_mean_sd, markdown_table
from common.metrics import find_metric
from common.runs import read_log
from common.sweep import runs_with
from common.toys import MIXTURES, mixture

from .eval import BANDWIDTHS, load, sample

BASELINES = ("GAN-Heuristic", "GAN-Least-squares", "GAN-Minimax")
TABLE_II = {  # the paper's MMD (x 10⁻²): average and best of 10 runs
    "8gaussians": {
        "GAN-Heuristic": (45.27, 33.2),
        "GAN-Least-squares": (3.99, 3.16),
        "GAN-Minimax": (2.94, 1.89),
        "E-GAN (γ = 0)": (11.54, 7.31),
        "E-GAN (γ = 0.5)": (2.36, 1.17),
    },
    "25gaussians": {
        "GAN-Heuristic": (2.80, 2.19),
        "GAN-Least-squares": (1.83, 1.72),
        "GAN-Minimax": (1.65, 1.55),
        "E-GAN (γ = 0)": (1.69, 1.60),
        "E-GAN (γ = 0.5)": (1.20, 1.04),
    },
}
TABLE_III = {  # the paper's IS and FID on CIFAR-10
    "real data": ("11.24 ± .12", "7.8"),
    "E-GAN-GP (μ = 1)": ("7.13 ± .07", "33.2"),
    "E-GAN-GP (μ = 2)": ("7.23 ± .08", "31.6"),
    "E-GAN-GP (μ = 4)": ("7.32 ± .09", "29.8"),
    "E-GAN-GP (μ = 8)": ("7.34 ± .07", "27.3"),
    "E-GAN (μ = 1, without GP)": ("6.98 ± .09", "36.2"),
    "DCGAN (without GP)": ("6.64 ± .14", "–"),
    "GAN-GP": ("6.93 ± .08", "37.7"),
    "WGAN-GP": ("6.68 ± .06", "40.2"),
}
ROBUSTNESS = {  # the slides' FIDs on LSUN bedrooms, of their (unpublished) weak networks
    "DCGAN": (43.7, 187.3, 410.6, 82.7),
    "LSGAN": (46.3, 452.9, 423.1, 126.2),
    "WGAN": (51.1, 113.6, 129.2, 115.7),
    "WGAN-GP": (38.5, 66.7, 385.8, 73.2),
    "E-GAN (μ = 1)": (34.2, 63.3, 64.8, 71.9),
    "E-GAN (μ = 4)": (29.7, 59.1, 55.2, 60.9),
}


def summary(values, scale=1, best=min):
    values = scale * np.array(values, dtype=float)
    return {
        "n": len(values),
        "mean": values.mean(),
        "sd": values.std(ddof=1) if len(values) > 1 else 0.0,
        "best": best(values),
        "values": values.tolist(),
    }


def mean_sd(numbers, digits=".2f"):
    """ "mean ± sd" of a summary; of a single run the value alone."""
    return format_mean_sd(numbers["values"], digits)


def runs_of(results, table, method):
    return [r for r in results if (r["table"], r["method"]) == (table, method)]


def metric(runs, what, **more):
    """The summary of a metric over runs."""
    return summary([find_metric(run["metrics"], what) for run in runs], **more)


def load_samples(folder, run, n):
    """n samples of a run's fittest generator."""
    cpu = torch.device("cpu")
    G, trained, _ = load(folder / run["name"] / "last.pt", cpu)
    return torch.cat(list(sample(G, n, trained, cpu)))


# --- Table II, Fig. 3

UNIT = "unbiased s=1"


def mmd_columns(results):
    """{"biased s=1": {(data, method): [MMD² of each run]}, …}, and as "root s=1" the biased MMD."""
    columns = {}
    for s in BANDWIDTHS:
        for kind in ("biased", "unbiased", "root"):
            column = columns[f"{kind} s={s:g}"] = {}
            estimator = "biased" if kind == "root" else kind
            for r in results:
                value = find_metric(r["metrics"], f"mmd2_{estimator}_s{s:g}")
                if kind == "root":
                    value = math.sqrt(value)
                column.setdefault((r["table"], r["method"]), []).append(value)
    return columns


def nearest_kernel(columns):
    """[(column, mean |log(our average / the paper's)| over the GAN rows), …], nearest first."""

    def distance(column):
        ratios = [
            max(100 * np.mean(column[data, method]), 1e-6) / TABLE_II[data][method][0]
            for data in MIXTURES
            for method in BASELINES
            if (data, method) in column
        ]
        return float(np.abs(np.log(ratios)).mean()) if ratios else math.inf

    distances = {name: distance(column) for name, column in columns.items()}
    return sorted(distances.items(), key=lambda pair: pair[1])


def table2_numbers(results, methods):
    """(kernels, nearest to the paper's first, with distances; the table's rows)."""
    columns = mmd_columns(results)
    kernels = nearest_kernel(columns)
    rows = []
    for data in MIXTURES:
        for method in methods:
            runs = runs_of(results, data, method)
            if not runs:
                continue
            row = {
                "data": data,
                "method": method,
                "runs": len(runs),
                "paper": TABLE_II[data].get(method),
            }
            for name in (kernels[0][0], UNIT):
                row[name] = summary(columns[name][data, method], 100)
            for name, best in (("modes", max), ("high_quality", max), ("mode_kl", min)):
                row[name] = metric(runs, name, best=best)
            row["seconds"] = summary([run["seconds"] for run in runs])
            rows.append(row)
    return kernels, rows


def table2_markdown(kernels, rows):
    kernel, text = kernels[0][0], ""
    columns = [
        "method",
        "paper: avg / best (x 10⁻²)",
        f"ours, {kernel} (x 10⁻²): avg ± sd / best",
        f"ours, {UNIT} MMD² (x 10⁻²): avg ± sd / best",
        "modes",
        "high quality",
        "mode KL",
        "s per run",
    ]
    for data in MIXTURES:
        cells = [
            [
                row["method"],
                "{} / {}".format(*row["paper"]) if row["paper"] else "–",
                f"{mean_sd(row[kernel])} / {row[kernel]['best']:.2f}",
                f"{mean_sd(row[UNIT])} / {row[UNIT]['best']:.2f}",
                mean_sd(row["modes"], ".1f"),
                f"{row['high_quality']['mean']:.2f}",
                f"{row['mode_kl']['mean']:.3f}",
                f"{row['seconds']['mean']:.0f}",
            ]
            for row in rows
            if row["data"] == data
        ]
        runs = max((row["runs"] for row in rows if row["data"] == data), default=0)
        text += f"**{data}**, {runs} runs per row\n\n{markdown_table(columns, cells)}\n"
    nearest = ", ".join(f"{name} {distance:.2f}" for name, distance in kernels[:5])
    return (
        f"{text}Kernels by distance of the baselines' averages from the paper's "
        f"(mean |log ratio|): {nearest}."
    )


def draw_table2(folder, results, methods):
    """Densities of the median run of every cell beside the data's: the paper's Fig. 3."""
    for data in MIXTURES:
        shown = {f"data: {data}": mixture(data).sample(10_000, torch.Generator().manual_seed(0))[0]}
        found = {method: runs_of(results, data, method) for method in methods}
        for method, runs in runs_with("last.pt", found, folder).items():
            runs.sort(key=lambda run: find_metric(run["metrics"], "mmd2_unbiased_s1"))
            run = runs[(len(runs) - 1) // 2]
            shown[f"{method}, seed {run['seed']}"] = load_samples(folder, run, 10_000)
        plots.densities(shown, folder / f"table2_{data}.png", limit=2)


# --- Table III


def table3_numbers(folder, results, methods, real):
    """A row for real images, whose metrics are given, and for each method that has runs.

    seconds: of training alone, from the runs' logs in `folder`.
    """
    rows = [
        {
            "method": "real data",
            "paper": TABLE_III["real data"],
            "metrics": real,
            "is": summary([find_metric(real, "is")], best=max),
            "fid": summary([find_metric(real, "fid")]),
        }
    ]
    for method, flags in methods.items():
        runs = runs_of(results, "table3", method)
        if not runs:
            continue
        row = {"method": method, "flags": flags, "paper": TABLE_III[method], "runs": len(runs)}
        row["is"] = metric(runs, "is", best=max)
        row["fid"] = metric(runs, "fid")
        logs = [read_log(folder / run["name"] / "log.jsonl") for run in runs]
        if any(logs):  # a run that is gone has none
            row["seconds"] = summary([log[-1]["seconds"] for log in logs if log])
        rows.append(row)
    return rows


def table3_markdown(rows):
    columns = ["method", "paper: IS", "ours: IS", "paper: FID", "ours: FID", "s of training"]
    cells = []
    for row in rows:
        (paper_is, paper_fid), seconds = row["paper"], row.get("seconds")
        ours = [mean_sd(row["is"]), paper_fid, mean_sd(row["fid"])]
        cells.append([row["method"], paper_is, *ours, f"{seconds['mean']:.0f}" if seconds else "–"])
    return markdown_table(columns, cells)


def draw_table3(folder, results, methods, columns=16):
    """A row of samples of each method's first run, in the table's order."""
    found = {method: runs_of(results, "table3", method) for method in methods}
    found = runs_with("last.pt", found, folder)
    rows = {name: load_samples(folder, runs[0], columns) for name, runs in found.items()}
    if rows:
        images = torch.cat(list(rows.values()))
        plots.save_grid(images, folder / "table3.png", columns, zoom=1, rows=list(rows))


# --- the table of weak networks


def robustness_numbers(results, methods, widths):
    """A row for each cell that has runs."""
    rows = []
    for method in methods:
        for column, paper in zip(widths, ROBUSTNESS[method]):
            runs = runs_of(results, column, method)
            if runs:
                row = {"method": method, "column": column, "paper_lsun": paper}
                rows.append(row | metric(runs, "fid"))
    return rows


def robustness_markdown(rows, methods, widths):
    means = {(row["method"], row["column"]): row["mean"] for row in rows}
    cells = []
    for method in methods:
        shown = [method]
        for column, paper in zip(widths, ROBUSTNESS[method]):
            mean = means.get((method, column))
            shown.append("not run" if mean is None else f"{mean:.1f} ({paper})")
        cells.append(shown)
    return markdown_table(["method", *widths], cells)
