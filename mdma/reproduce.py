"""What the paper compares, trained and measured on the same jets. From the repository's root:

  python -m mdma.reproduce                          at the paper's size (a GPU's work)
  python -m mdma.reproduce --reduced                30 particles, 6,000 steps, simulated tops
  python -m mdma.reproduce --questions peer         only MDMA beside EPiC-GAN (Table 1)

The other questions: aggregate, how particles make the mean field (§3: attention, mean or sum);
layers, the alternatives that §3 rejects (adding the mean field to particles, a gated linear unit);
objective, LSGAN beside other losses (§3.1); matching, with and without it (§3.2); data, whether
more training jets bring the generated ones closer to the test jets (§5); and pt, our --pt softplus.
Trains --jobs runs at a time under --out; started again, it goes on. Writes questions.md, .json and
.png there, and curves.png. The jets: make data-jets ARGS="--type t --jets 200000".
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m mdma.reproduce", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath, SweepArgs
from common.cli import run_main
from common.device import choose_device
from common.evaluate import format_mean_sd, markdown_table
from common.metrics.jets import jet_metrics
from common.runs import read_log, replace_file, write_json
from common.sweep import at_shared_steps, by_row, end_sweep, sweep

from . import eval as evaluation
from . import train
from .features import generate
from .jets import load_jets
from .tables import COLUMNS, key_of

ROWS = {  # flags of train.py
    "MDMA": [],
    "EPiC-GAN": ["--model", "epic"],
    "MDMA, mean": ["--aggregate", "mean"],
    "MDMA, sum": ["--aggregate", "sum"],
    "MDMA, adding": ["--update", "add"],
    "MDMA, GLU": ["--glu"],
    "MDMA, vanilla GAN": ["--objective", "vanilla"],
    "MDMA, WGAN-GP": ["--objective", "wgan-gp"],
    "MDMA, no matching": ["--matching", "0"],
    "MDMA, softplus": ["--pt", "softplus"],
    "MDMA, 35,000 jets": ["--train-jets", "35000"],
    "MDMA, 14,000 jets": ["--train-jets", "14000"],
}
QUESTIONS = {
    "peer": ["MDMA", "EPiC-GAN"],
    "aggregate": ["MDMA", "MDMA, mean", "MDMA, sum"],
    "layers": ["MDMA", "MDMA, adding", "MDMA, GLU"],
    "objective": ["MDMA", "MDMA, vanilla GAN", "MDMA, WGAN-GP"],
    "matching": ["MDMA", "MDMA, no matching"],
    "pt": ["MDMA", "MDMA, softplus"],
    "data": ["MDMA", "MDMA, 35,000 jets", "MDMA, 14,000 jets"],
}
REDUCED = ["--quick", "--steps", "6000", "--lr-total", "6000"]
# Of 1e-3, --quick's, and 3e-4 the one with the lower W1M after 1,500 steps (EPiC-GAN's code: 1e-4)
REDUCED_EPIC = ["--lr", "3e-4"]


@dataclass
class Args(SweepArgs):
    # --- questions
    questions: list[Literal[*QUESTIONS]] | None = None  # which ones; none: all
    reduced: bool = False  # runs with --quick, of 6,000 steps
    seeds: int = 3  # runs per row
    out: FilePath | None = None  # none: runs/mdma/questions or questions-reduced

    # --- measuring
    n: int | None = None  # generated jets; none: 5 for each test jet
    split: Literal["valid", "test"] = "test"  # real jets to compare with


def measure_run(where, _, args):
    """Scores of the last step's jets, and of training jets, against test jets.

    Keys that begin with `own_train_` are of generated jets against the run's own training jets, at
    most as many as test jets; with `own_test_` against as many test jets, where these are fewer
    than all. Both are alike but for overfitting. `in_sample_`: training against test jets.
    """
    device = choose_device(args.device)
    G, trained, stats, _ = evaluation.load(where / "last.pt", device)
    data_dir = args.data_dir or trained.data_dir
    of = (trained.dataset, trained.jet_type, trained.num_particles, data_dir)
    train_jets, test = (load_jets(*of, split).particles for split in ("train", args.split))
    own = train_jets[: trained.train_jets]
    rng = torch.Generator().manual_seed(args.seed)
    fake = generate(G, args.n or 5 * len(test), stats, trained.num_particles, rng)
    onto = device if device.type == "cuda" else "cpu"  # mps has no float64

    def scores(real, jets):
        return jet_metrics(real.to(onto), jets.to(onto), seed=args.seed, protocols=["bootstrap5"])

    same = min(len(own), len(test))
    pairs = {
        "": (test, fake),
        "in_sample_": (test, train_jets),
        "own_train_": (own[:same], fake),
    }
    if same < len(test):
        pairs["own_test_"] = (test[:same], fake)
    return {
        start + key: value
        for start, (real, jets) in pairs.items()
        for key, value in scores(real, jets).items()
    }


def values(results, column, start=""):
    """A score of each seed, in Table 1's units."""
    metric, scale = COLUMNS[column]
    keys = [key_of(r["metrics"], metric, "bootstrap5", start) for r in results]
    return [scale * r["metrics"][key] for r, key in zip(results, keys)]


def entries(results, start=""):
    """Table 1's five scores: mean ± sd over the seeds."""
    return [format_mean_sd(values(results, column, start), ".3g") for column in COLUMNS]


def question_table(results):
    """{row: results} -> Markdown."""
    rows = [[row, len(found), *entries(found)] for row, found in results.items()]
    first = next(iter(results.values()))
    rows.append(["training jets (IN)", "–", *entries(first[:1], "in_sample_")])
    for row, found in results.items():
        if row in QUESTIONS["data"]:
            rows.append([f"{row}: its training jets", len(found), *entries(found, "own_train_")])
            if any(key.startswith("own_test_") for key in found[0]["metrics"]):
                rows.append([f"{row}: as many test jets", len(found), *entries(found, "own_test_")])
    return markdown_table(["against test jets, or:", "seeds", *COLUMNS], rows)


def draw(results, path):
    """Each seed's scores, a row of dots per row of the table; dashed: the training jets."""
    shown = [column for column in COLUMNS if not column.startswith("KPD")]  # it is often below 0
    figure, axes = plots.plt.subplots(
        1, len(shown), figsize=(3.1 * len(shown) + 1, 0.5 * len(results) + 1.4), sharey=True
    )
    for axis, column in zip(axes, shown):
        for place, found in enumerate(results.values()):
            of_seeds = values(found, column)
            axis.plot(of_seeds, [place] * len(of_seeds), "o", color=f"C{place}", alpha=0.7)
            axis.plot(sum(of_seeds) / len(of_seeds), place, "|", color="k", ms=14)
        first = next(iter(results.values()))[:1]
        axis.axvline(values(first, column, "in_sample_")[0], color="k", ls="--", lw=1)
        axis.set(xlabel=f"{column}, lower is better", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(numticks=5))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(results)), results)
    axes[0].invert_yaxis()
    axes[0].set_title(
        "dots: seeds; bars: their means; dashed: training jets", loc="left", fontsize=9
    )
    plots.save_figure(figure, path)


def draw_curves(results, folder, asked):
    """W1M on the validation jets over steps, a panel per question: the seeds' mean and range."""
    wide = min(4, len(asked))
    high = -(-len(asked) // wide)
    figure, axes = plots.plt.subplots(
        high, wide, figsize=(3.6 * wide, 2.8 * high), sharex=True, sharey=True, squeeze=False
    )
    for axis, question in zip(axes.flat, asked):
        for i, row in enumerate(QUESTIONS[question]):
            runs = [read_log(folder / r["name"] / "log.jsonl") for r in results.get(row, [])]
            runs = [[line for line in log if "w1m_valid" in line] for log in runs]
            runs = [run for run in at_shared_steps(runs) if run]  # a run that is gone has no log
            if not runs:
                continue
            steps = [line["step"] for line in runs[0]]
            w1m = 1000 * np.array([[line["w1m_valid"] for line in run] for run in runs])
            axis.plot(steps, w1m.mean(0), color=f"C{i}", label=f"{row} ({len(runs)})")
            axis.fill_between(steps, w1m.min(0), w1m.max(0), color=f"C{i}", alpha=0.2, lw=0)
        axis.set(title=question, yscale="log")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    for axis in axes.flat[len(asked) :]:
        axis.axis("off")
    figure.supxlabel("step (in brackets: seeds; shaded: their range)", fontsize=9)
    figure.supylabel("W1M on validation jets (x 10³)", fontsize=9)
    figure.tight_layout()
    plots.save_figure(figure, folder / "curves.png")


def main(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    asked = args.questions or list(QUESTIONS)
    names = [row for question in asked for row in QUESTIONS[question]]
    folder = Path(args.out or f"runs/mdma/questions{'-reduced' * args.reduced}")
    cells = [
        {
            "name": f"{row}-{seed}".replace(" ", "_").replace(",", ""),
            "row": row,
            "seed": seed,
            "flags": ROWS[row] + REDUCED_EPIC * (args.reduced and row == "EPiC-GAN"),
        }
        for seed in range(args.seeds)
        for row in dict.fromkeys(names)
    ]
    shared = REDUCED * args.reduced + shlex.split(args.train_flags)
    results = sweep(cells, train.main, measure_run, args, folder, shared)
    end_sweep(args.part, results)
    found = by_row(results, ROWS)
    text = question_table(found)
    replace_file(folder / "questions.md", text.encode())
    write_json(folder / "questions.json", results)
    print(text, end="")
    draw(found, folder / "questions.png")
    draw_curves(found, folder, asked)
    return found


if __name__ == "__main__":
    run_main(main)
