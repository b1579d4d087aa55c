"""The paper's Tables III, IV and V, by training every row. From the repository's root:

  python -m pan.reproduce --table3 --reduced       de-raining: PAN, ablations, L2, cGAN, L2 + cGAN
  python -m pan.reproduce --table4 --reduced       in-painting: PAN, its hinge, L2, Context-Encoder
  python -m pan.reproduce --table5                 pix2pix's tasks; fetches them (a GPU's work)
  python -m pan.reproduce --table3 --reduced --only PAN L2 --seeds 1

Trains --jobs runs at a time under --out; started again, it goes on where it stood. All rows of a
table take the same number of steps. Writes table<N>.md and table<N>.json there and, where all rows
have one task (III, IV), table<N>.png: of the first held-out pairs x, each row's T(x), y.
"""

import argparse
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m pan.reproduce", file=sys.stderr)
    sys.exit(2)

from common import arguments, plots
from common.arguments import FilePath
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError
from common.evaluate import format_mean_sd, markdown_table, set_data_dir
from common.metrics.pairs import SCORES
from common.runs import last_tenth, read_log, replace_file, write_json
from common.sweep import by_row, end_sweep, failures, runs_with, select_rows, sweep

from . import train
from .eval import load, measure, transform_pairs
from .pictures import in_rows

# PSNR in dB, SSIM, UQI, VIF as the slides print them
TABLE_3 = {
    "L2": (22.77, 0.7959, 0.6261, 0.3570),
    "cGAN": (21.87, 0.7306, 0.5810, 0.3173),
    "L2+cGAN": (22.19, 0.8083, 0.6278, 0.3640),
    "ID-CGAN": (22.91, 0.8198, 0.6473, 0.3885),  # Zhang et al. 2017: not trained here
    "PAN": (23.35, 0.8303, 0.6644, 0.4050),
    "PA+cGAN": (23.22, 0.8078, 0.6375, 0.3904),
}
TABLE_4 = {
    "Context-Encoder": (21.74, 0.8242, 0.7828, 0.5818),
    "PAN": (21.85, 0.8307, 0.7956, 0.6104),
}
TABLE_5 = {  # pix2pix-cGAN's (printed as ID-cGAN from the second block on), PAN's
    "labels -> cityscapes": ((15.74, 0.4275, 0.07315, 0.05208), (16.06, 0.4820, 0.1116, 0.06581)),
    "edges -> shoes": ((20.07, 0.7504, 0.2724, 0.2268), (19.51, 0.7816, 0.3442, 0.2393)),
    "edges -> handbags": ((16.50, 0.6307, 0.3978, 0.1723), (15.90, 0.6570, 0.4042, 0.1841)),
    "cityscapes -> labels": ((19.46, 0.7270, 0.1555, 0.1180), (20.67, 0.7725, 0.1732, 0.1638)),
    "aerial -> maps": ((26.10, 0.6465, 0.09125, 0.02913), (28.32, 0.7520, 0.3372, 0.1617)),
}

PAN_ROWS = {  # is the hinge needed?
    "PAN": [],
    "PAN, m = 0": ["--m", "0"],  # D does not learn from P
    "PAN, no margin": ["--m", "1000"],  # D always makes P larger
}
ROWS_3 = PAN_ROWS | {
    "PA+cGAN": ["--loss", "pa-cgan"],
    "L2": ["--loss", "l2"],
    "cGAN": ["--loss", "cgan"],
    "L2+cGAN": ["--loss", "l2-cgan"],
}
ROWS_4 = PAN_ROWS | {"L2": ["--loss", "l2"], "Context-Encoder": ["--loss", "context-encoder"]}
ROWS_5 = {
    "edges -> shoes, pix2pix-cGAN": ["--dataset", "edges2shoes", "--loss", "pix2pix"],
    "edges -> shoes, PAN": ["--dataset", "edges2shoes"],
    "aerial -> maps, pix2pix-cGAN": ["--dataset", "maps", "--loss", "pix2pix"],
    "aerial -> maps, PAN": ["--dataset", "maps"],
}
PRINTED_5 = {
    f"{task}, {method}": numbers
    for task, both in TABLE_5.items()
    for method, numbers in zip(("pix2pix-cGAN", "PAN"), both)
}


@dataclass(frozen=True)
class Table:
    title: str
    rows: dict  # {row: flags of train.py}
    printed: dict  # {row: the paper's numbers}
    orderings: tuple  # (better, worse) rows of the paper
    full: str  # flags of every run at the paper's size
    reduced: str


TABLES = {
    3: Table(
        "Table III: de-raining",
        ROWS_3,
        TABLE_3,
        (("PAN", "L2"), ("PAN", "cGAN"), ("PAN", "L2+cGAN"), ("PAN", "PA+cGAN")),
        "--task deraining --dataset celeba",
        "--quick --task deraining",
    ),
    4: Table(
        "Table IV: in-painting",
        ROWS_4,
        TABLE_4,
        (("PAN", "Context-Encoder"),),
        "--task inpainting --dataset celeba --size 128",
        "--quick --task inpainting",
    ),
    5: Table(
        "Table V: image to image",
        ROWS_5,
        PRINTED_5,
        tuple((f"{t}, PAN", f"{t}, pix2pix-cGAN") for t in ("edges -> shoes", "aerial -> maps")),
        "--task pairs",
        "--task pairs --size 64 --net unet6 --width 16 --width-t 16 --steps 2000",
    ),
}


@dataclass
class Args(arguments.SweepArgs):
    # --- tables
    table3: bool = False  # de-raining; without a table's flag III and IV
    table4: bool = False  # in-painting
    table5: bool = False  # two of pix2pix's tasks
    # small networks, hours of two CPU cores; III and IV: --quick's, on FashionMNIST
    reduced: bool = False
    only: list[str] | None = None  # only these rows
    seeds: int = 3  # runs per row
    out: FilePath | None = None  # none: runs/pan/tables or tables-reduced

    # --- measuring
    n: int = 1000  # held-out pairs to measure, or all if there are fewer
    split: Literal["train", "test"] = "test"  # pairs to measure
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"  # features for FID
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    batch_size: int = 50  # images per forward pass


# --- runs


def cells(rows, seeds):
    """The runs of a table, for `sweep`."""
    found = []
    for row, flags in rows.items():
        for seed in range(seeds):
            name = "-".join(["run", *flags, str(seed)]).replace("--", "")
            found.append({"name": name, "row": row, "seed": seed, "flags": flags})
    return found


def measure_run(where, _, args):
    """The metrics of a finished run."""
    device = choose_device(args.device)
    T, pairs, trained = load_run(where, args, device)
    scores = measure(T, pairs, trained, args, device)
    return scores | contest(read_log(where / "log.jsonl"), trained.steps)


def contest(log, steps):
    """P at the end, a mean over the last tenth of `steps`, and how often D's hinge was active."""
    seen = [line for line in log if "P" in line]
    if not seen:  # a loss without D
        return {}
    last = [line["P"] for line in last_tenth(seen, steps)]
    active = [line["hinge_active"] for line in seen]
    return {
        f"P_{steps - int(0.9 * steps)}_steps": sum(last) / len(last),
        "hinge_active_share": sum(active) / len(active),
    }


def load_run(where, args, device):
    """(T, held-out pairs, training args) of a run."""
    T, trained, _ = load(where / "last.pt", device)
    args.ckpt = where
    set_data_dir(trained, args)
    return T, train.load_data(trained, args.split), trained


# --- numbers, table, figure


def numbers(row, results):
    """A row's scores, a list with a value per seed each, and its results."""
    line = {"row": row, "runs": len(results), "results": results}
    for score in (*SCORES, "fid"):
        line[score] = [find(result["metrics"], score) for result in results]
    return line


def find(metrics, score):
    """The value of the key that begins with a score's name; NaN if there is none."""
    return next((v for key, v in metrics.items() if key.startswith(f"{score}_")), math.nan)


def untouched(results):
    """The row of x itself, whose scores are the same in every run."""
    metrics = {
        key.removeprefix("input_"): value
        for key, value in results[0]["metrics"].items()
        if key.startswith("input_")
    }
    return numbers("x, untouched", [{"metrics": metrics}])


def by_seed(line, score):
    """{seed: score} of a row's runs that came through."""
    return {run["seed"]: value for run, value in zip(line["results"], line[score])}


def verdicts(table, lines):
    """A sentence per ordering of the paper and score: what all seeds agree on, or "partly"."""
    found = {line["row"]: line for line in lines}
    sentences = []
    for better, worse in table.orderings:
        if better not in found or worse not in found:
            continue
        for i, score in enumerate(SCORES):
            if table.printed[better][i] < table.printed[worse][i]:
                continue  # the paper's own table says otherwise
            ours = by_seed(found[better], score)
            theirs = by_seed(found[worse], score)
            gains = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
            gain = sum(gains) / len(gains) if gains else math.nan
            if not math.isnan(gain):
                wins = sum(g > 0 for g in gains)
                verdict = {len(gains): "holds", 0: "does not hold"}.get(wins, "partly")
                seeds = f"{wins} of {len(gains)} seeds"
                what = f"{better} above {worse} in {score.upper()}"
                sentences.append(f"{what}: {verdict} ({gain:+.4f}, {seeds})")
    return sentences


def render(table, lines):
    """The table in Markdown: ours, and the paper's number behind it."""
    digits = {"psnr": ".2f", "ssim": ".4f", "uqi": ".4f", "vif": ".4f"}
    keys = lines[-1]["results"][0]["metrics"]
    measured = next(key for key in keys if key.startswith("psnr"))
    body = []
    for line in lines:
        printed = table.printed.get(line["row"], ("–",) * len(SCORES))
        row = [line["row"]]
        for score, paper in zip(SCORES, printed):
            row += [format_mean_sd(line[score], digits[score]), paper]
        body.append([*row, format_mean_sd(line["fid"])])
    columns = [""] + [part for score in SCORES for part in (score.upper(), "paper")] + ["FID"]
    seeds = max(line["runs"] for line in lines)
    title = f"{table.title}; mean ± sd over {seeds} seeds; PSNR is {measured}"
    orderings = "".join(f"- {sentence}\n" for sentence in verdicts(table, lines))
    return f"{title}\n\n{markdown_table(columns, body)}\n{orderings}"


def draw(results, folder, path, args):
    """x, T(x) of each row's first run, y, of eight held-out pairs."""
    device = choose_device(args.device)
    images = {}
    for result in results:
        T, pairs, trained = load_run(folder / result["name"], args, device)
        x, fake, y = next(transform_pairs(T, pairs, min(8, len(pairs)), trained, args, device))
        images[result["row"]] = fake
    images = {"x": x, **images, "y": y}
    grid = in_rows(*images.values()).cpu()
    plots.save_grid(grid, path, nrow=len(images), columns=list(images))


def main(argv=None):
    """{table: its rows}."""
    args = arguments.parse_args(Args, __doc__, argv)
    asked = [n for n in TABLES if getattr(args, f"table{n}")] or [3, 4]
    folder = Path(args.out or f"runs/pan/tables{'-reduced' * args.reduced}")
    measuring = argparse.Namespace(**vars(args), amp="off")
    rows = {n: select_rows(TABLES[n].rows, args.only) for n in asked}  # refused before any run
    tables, swept = {}, []
    for n in asked:
        table = TABLES[n]
        shared = shlex.split(table.reduced if args.reduced else table.full)
        shared += shlex.split(args.train_flags)
        todo = cells(rows[n], args.seeds)
        results = sweep(todo, train.main, measure_run, measuring, folder / f"table{n}", shared)
        swept += results
        if args.part:
            continue
        failed = failures(results)
        runs = by_row(results, table.rows)
        if not runs:
            raise UserError(f"no run of table {n} came through: {'; '.join(failed)}")
        lines = [numbers(row, mine) for row, mine in runs.items()]
        if n != 5:  # whose rows are of two tasks
            lines.insert(0, untouched(next(iter(runs.values()))))
        text = render(table, lines)
        replace_file(folder / f"table{n}.md", text.encode())
        write_json(folder / f"table{n}.json", {"flags": shared, "rows": lines, "failed": failed})
        print(text)
        tables[n] = lines
        saved = runs_with("last.pt", runs, folder / f"table{n}")
        if n != 5 and saved:
            firsts = [mine[0] for mine in saved.values()]
            draw(firsts, folder / f"table{n}", folder / f"table{n}.png", measuring)
    end_sweep(args.part, swept)
    return tables


if __name__ == "__main__":
    run_main(main)
