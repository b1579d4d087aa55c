"""The paper's figures, and the numbers that it leaves to the eye. From the repository's root:

  python -m cagan.eval                                   the newest run under runs/cagan
  python -m cagan.eval --ckpt DIR --n 10000              a run or a checkpoint; metrics from 10,000 samples
  python -m cagan.eval --ckpt … --samples 80 --grid-out grid.png    only draw samples, one row a condition
  python -m cagan.eval --ckpt … --n 50000 --export DIR   only write samples and conditions, as NPZ and PNGs
  python -m cagan.eval --figures --reduced               Figs. 12, 13, 14, §6.3 and the toy, three seeds, small
  python -m cagan.eval --figures 14                      Fig. 14 at the paper's size (a GPU's work)

Writes eval_<step>.json and figures beside the checkpoint. G has no state that differs between train and eval mode.
The figures train what they need, --jobs runs at a time, under --out; started again, they go on where they stood.
"""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

if not __package__:  # started as a file: relative imports can't work
    print(
        "error: start this as a module from the repository's root: "
        f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}",
        file=sys.stderr,
    )
    sys.exit(2)

from common import plots
from common.cli import add_device_args, add_eval_args, new_parser, run_main
from common.device import bf16_if_fast, choose_device
from common.errors import UserError
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    progress,
    reference,
    say_written,
    write_eval,
)
from common.metrics import pick
from common.metrics.images import image_metrics
from common.runs import load_checkpoint, load_state, read_log, replace_file, write_json
from common.sweep import add_sweep_args, sweep

from . import toy, train
from .conditions import each_condition, uniform_targets
from .metrics import ConditionalScores, sample
from .train import build, load_data

FULL = ["--fid-samples", "10000", "--sample-every", "1875", "--save-every", "1875"]
REDUCED = [
    "--dataset",
    "fashion-mnist",
    "--width",
    "16",
    "--convs",
    "1",
    "--norm",
    "none",
    "--beta1",
    "0.5",
    "--lr",
    "1e-3",
    "--amp",
    bf16_if_fast(),
    "--steps",
    "1500",
    "--fid-samples",
    "2000",
    "--sample-every",
    "250",
]
UNBALANCED = ["--unbalanced", "5500", "500", "--norm", "batch"]
UNBALANCED_REDUCED = ["--norm-inner"]
MODIFIED = ["--loss", "modified_ac"]


def figure_configs(reduced):
    """{figure: {label: flags of train.py}}. Fig. 14 has 0.3 times the learning rate of the others (§6.2)."""
    slow = ["--lr", "3e-4" if reduced else "3e-6"]
    epochs, late, per_epoch = (
        (6, 4, 312) if reduced else (150, 100, 312)
    )  # §6.3: 10,000 images, batch 32
    unbalanced = [
        *UNBALANCED,
        *(UNBALANCED_REDUCED if reduced else []),
        "--steps",
        str(epochs * per_epoch),
    ]
    mixed = [*unbalanced, "--mix-from", str(late)]
    return {
        "12": {"with L_cls^g": ["--loss", "modified_ac_with_generated"], "without": MODIFIED},
        "13": {
            "λ_cls 0.01": [*MODIFIED, "--lambda-cls", "0.01"],
            "λ_cls 0.1": MODIFIED,
            "λ_cls 1": [*MODIFIED, "--lambda-cls", "1"],
            "CA-GAN (no λ_cls)": [],
        },
        "14": {
            "CA-GAN": slow,
            "modified AC-GAN": [*MODIFIED, *slow],
            "AC-GAN": ["--loss", "ac", *slow],
        },
        "mixed": {
            "modified AC-GAN, not mixed": [*MODIFIED, *unbalanced],
            "modified AC-GAN, mixed": [*MODIFIED, *mixed],
            "CA-GAN, not mixed": unbalanced,
            "CA-GAN, mixed": mixed,
        },
    }


TITLES = {
    "12": "Fig. 12: modified AC-GAN with and without L_cls^g in L_d",
    "13": "Fig. 13: the weight λ_cls",
    "14": "Fig. 14: CA-GAN and AC-GANs at a low learning rate",
    "mixed": "§6.3: unbalanced data, BatchNorm in D",
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    add_eval_args(parser, "cagan")
    figures = parser.add_argument_group("figures")
    figures.add_argument(
        "--figures",
        nargs="*",
        choices=(*TITLES, "toy"),
        metavar="F",
        help=f"reproduce these: {', '.join(TITLES)}, toy; without a name all",
    )
    figures.add_argument("--reduced", action="store_true", help=f"with {' '.join(REDUCED)}")
    add_sweep_args(figures, seeds=3, out="none: runs/cagan/figures or figures-reduced")
    add_device_args(parser.add_argument_group("run"))
    return parser.parse_args(argv)


# --- one checkpoint


def load(path, device):
    """(G, training args, checkpoint) from a checkpoint file alone; its state has the conditions' names and groups."""
    checkpoint = load_checkpoint(path, "cagan")
    # a flag that the checkpoint is too old to have gets its default
    trained = argparse.Namespace(**(vars(train.Args()) | checkpoint["args"]))
    G, _ = build(trained, checkpoint["state"]["groups"])
    load_state(G, checkpoint["state"]["G"], f"G in {path}")
    return G.to(device).eval().requires_grad_(False), trained, checkpoint


def asked_for(n, groups):
    """cnd' (n, S): classes in turn, so that all are asked for equally often; of several groups uniform ones."""
    if len(groups) == 1:
        return torch.eye(groups[0])[torch.arange(n) % groups[0]]
    return uniform_targets(n, groups, torch.Generator().manual_seed(0))


def real_images(trained, groups, args, device):
    """The real images of a run and the extractor, for `measure`."""
    if args.n < 2 * sum(groups):
        raise UserError(f"--n {args.n}: {sum(groups)} conditions need two images each at least")
    if trained.attributes and args.extractor == "lenet":
        raise UserError(
            "no LeNet knows CelebA's attributes: give --extractor inception or efficientnet"
        )
    return reference(load_data, trained, args, device)


def measure(G, trained, groups, args, device, real_set, extractor):
    """FID in both forms, KID, IS, precision, recall; with classes: conditional accuracy, histogram, confusion."""
    cnd = asked_for(args.n, groups)
    images = sample(G, cnd, trained, device, args.seed, args.batch_size)
    if trained.attributes or extractor is None:
        return image_scores(extractor, real_set, images, args.n, device, trained.data_dir)[0]
    scores = ConditionalScores(real_set, device, trained.data_dir, extractor)
    fake, asked = scores.collect(progress(images, args.n), args.n), cnd.argmax(1)
    metrics = image_metrics(scores.real, fake, extractor.name, args.split) | scores(*fake, asked)
    return metrics | (scores.details(fake[1], asked) if extractor.kind == "lenet" else {})


def draw_samples(G, trained, groups, n, device, path, seed=0):
    """A grid with one row a condition, the same z down a column."""
    S = sum(groups)
    columns = max(1, -(-n // S))
    z = torch.randn(columns, trained.z_dim, generator=torch.Generator().manual_seed(seed))
    cnd = each_condition(groups).repeat_interleave(columns, 0)[:n]
    images = G(z.repeat(S, 1)[:n].to(device), cnd.to(device))
    plots.save_grid(images, path, nrow=columns, zoom=max(1, 56 // trained.size))


def draw_interpolation(G, trained, groups, device, path, seed=0):
    """From each condition to the next of S at one z: G between the condition vectors that it was trained on."""
    rows = each_condition(groups)[:10]
    z = torch.randn(1, trained.z_dim, generator=torch.Generator().manual_seed(seed)).expand(
        len(rows), -1
    )
    paths = [torch.lerp(rows, rows.roll(-1, 0), t) for t in torch.linspace(0, 1, 9).tolist()]
    images = [G(z.to(device), cnd.to(device)) for cnd in paths]
    plots.save_grid(
        torch.stack(images, 1).flatten(0, 1), path, nrow=9, zoom=max(1, 56 // trained.size)
    )


def draw_classes(axis, metrics, names):
    """What the classifier sees in images whose classes were asked for equally often (dashed), and how rightly."""
    counts, right = (
        np.array(pick(metrics, "class_counts")),
        np.array(pick(metrics, "conditional_accuracies")),
    )
    axis.bar(range(len(counts)), 100 * counts / counts.sum(), color="C0", label="seen")
    axis.bar(
        range(len(counts)),
        100 * right / len(right),
        width=0.4,
        color="C1",
        label="asked for and seen",
    )
    axis.axhline(100 / len(counts), color="k", lw=1, ls="--")
    axis.set_xticks(range(len(counts)), names, rotation=40, ha="right", fontsize=7)
    axis.set_ylabel("% of samples")
    axis.legend(fontsize=7)


def export(G, trained, groups, args, device):
    """--n samples, with their conditions, uint8 (N, S)."""
    cnd = asked_for(args.n, groups)
    plots.export_samples(
        sample(G, cnd, trained, device, args.seed, args.batch_size),
        args.export,
        conditions=cnd.byte().numpy(),
    )


# --- the paper's figures: many runs


def measure_run(where, _, args):
    """The metrics of a finished run."""
    device = choose_device(args.device)
    G, trained, checkpoint = load(where / "last.pt", device)
    draw_samples(G, trained, checkpoint["state"]["groups"], 80, device, where / "samples.png")
    groups = checkpoint["state"]["groups"]
    return measure(G, trained, groups, args, device, *real_images(trained, groups, args, device))


def figures(args):
    """Train what the figures in --figures need, draw each: figure_<name>.png, .md and .json under --out."""
    if args.extractor not in ("auto", "lenet"):
        raise UserError(
            f"--figures --extractor {args.extractor}: they need a classifier of the data's classes: lenet"
        )
    wanted = args.figures or (*TITLES, "toy")
    folder = Path(args.out or f"runs/cagan/figures{'-reduced' * args.reduced}")
    configs = {
        name: flags for name, flags in figure_configs(args.reduced).items() if name in wanted
    }
    shared = (REDUCED if args.reduced else FULL) + shlex.split(args.train_flags)
    cells = {}  # figures share some runs
    for seed in range(args.seeds):
        for flags in (flags for config in configs.values() for flags in config.values()):
            name = "-".join(["run", *flags, str(seed)]).replace("--", "")
            cells[name] = {"name": name, "seed": seed, "flags": flags}
    results = (
        sweep(list(cells.values()), train.main, measure_run, args, folder, shared) if cells else []
    )
    failed = [f"{r['name']}: {r['error']}" for r in results if "error" in r]
    results = {r["name"]: r for r in results if "metrics" in r}
    tables = {}
    for name, config in configs.items():
        runs = {
            label: [r for r in results.values() if r["flags"] == flags]
            for label, flags in config.items()
        }
        if not any(runs.values()):
            raise UserError(f"no run of figure {name} came through: {'; '.join(failed)}")
        tables[name] = draw_figure(name, {label: rs for label, rs in runs.items() if rs}, folder)
        write_json(
            folder / f"figure_{name}.json",
            {"flags": shared, "configs": config, "rows": tables[name], "failed": failed},
        )
    if "toy" in wanted:
        toy.main(["--seeds", str(args.seeds), "--out", str(folder / "toy")])
    return tables


def said(values):
    return (
        f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
        if len(values) > 1
        else f"{np.mean(values):.3g}"
    )


def draw_figure(name, runs, folder):
    """Scores over the steps and a table of the last ones. runs: {label: results}. Returns the table's rows."""
    scores = ("fid_per_class", "fid", "conditional_accuracy")
    figure, axes = plots.plt.subplots(1, len(scores), figsize=(13, 3.4))
    rows = []
    for i, (label, results) in enumerate(runs.items()):
        logs = [
            [
                line
                for line in read_log(folder / r["name"] / "log.jsonl")
                if pick(line, "fid", None) is not None
            ]
            for r in results
        ]
        steps = [line["step"] for line in logs[0]]
        for axis, score in zip(axes, scores):
            values = np.array([[pick(line, score) for line in log] for log in logs])
            axis.plot(steps, values.mean(0), color=f"C{i}", label=label)
            if len(values) > 1:
                axis.fill_between(
                    steps, values.min(0), values.max(0), color=f"C{i}", alpha=0.15, lw=0
                )
        last = {score: [pick(r["metrics"], score) for r in results] for score in scores}
        rare = [float(np.mean(pick(r["metrics"], "conditional_accuracies")[1:])) for r in results]
        half = [pick(log[len(log) // 2 - 1], "fid_per_class") for log in logs]
        rows.append(
            {
                "label": label,
                "runs": len(results),
                **last,
                "rare_accuracy": rare,
                "half_steps": steps[len(steps) // 2 - 1],
                "fid_per_class_half": half,
                "results": [
                    r
                    | {
                        "metrics": {
                            key: value
                            for key, value in r["metrics"].items()
                            if not key.startswith("confusion")
                        }
                    }
                    for r in results
                ],
            }
        )
    for axis, score in zip(axes, scores):
        axis.set(title=score, xlabel="step", yscale="linear" if score.startswith("cond") else "log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(TITLES[name], y=1.02)
    plots.save_figure(figure, folder / f"figure_{name}.png")
    if name == "mixed":
        draw_mixed(runs, folder)

    keys = {
        score: next(k for k in next(iter(runs.values()))[0]["metrics"] if k.startswith(score + "_"))
        for score in scores
    }
    lines = [
        f"{TITLES[name]}; mean ± sd over {max(r['runs'] for r in rows)} seeds, {', '.join(keys.values())}",
        "",
        "| | FID per class, half of the steps | FID per class | FID | conditional accuracy | of classes 1-9 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['label']} | {said(r['fid_per_class_half'])} | {said(r['fid_per_class'])} | {said(r['fid'])} | "
        f"{said(r['conditional_accuracy'])} | {said(r['rare_accuracy'])} |"
        for r in rows
    ]
    replace_file(folder / f"figure_{name}.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines) + "\n")
    return rows


def draw_mixed(runs, folder):
    """Figs. 15-20: samples of the first seed's run of each configuration, and the classes seen in 10,000."""
    figure, axes = plots.plt.subplots(2, len(runs), figsize=(3.4 * len(runs), 7), squeeze=False)
    for column, (label, results) in zip(axes.T, runs.items()):
        column[0].imshow(plots.plt.imread(folder / results[0]["name"] / "samples.png"), cmap="gray")
        column[0].axis("off")
        column[0].set_title(label, fontsize=9)
        draw_classes(
            column[1],
            results[0]["metrics"],
            range(len(pick(results[0]["metrics"], "class_counts"))),
        )
    figure.tight_layout()
    plots.save_figure(figure, folder / "figure_mixed_samples.png")


def main(argv=None):
    args = parse_args(argv)
    if args.figures is not None:
        return figures(args)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "cagan")
    G, trained, checkpoint = load(path, device)
    names, groups = checkpoint["state"]["names"], checkpoint["state"]["groups"]
    if args.samples:
        draw_samples(G, trained, groups, args.samples, device, args.grid_out, args.seed)
        return say_written(args.grid_out)
    if args.export:
        return export(G, trained, groups, args, device)

    print(
        f"{path}: {trained.loss}, step {checkpoint['step']}, {trained.dataset} at {trained.size}x{trained.size}"
    )
    found = real_images(trained, groups, args, device)
    where = output_dir(path, "cagan")
    with named_outputs(where):
        draw_samples(G, trained, groups, 10 * sum(groups), device, where / "samples.png", args.seed)
        draw_interpolation(G, trained, groups, device, where / "interpolation.png", args.seed)
        metrics = measure(G, trained, groups, args, device, *found)
        write_eval(where, path, checkpoint, metrics, device, conditions=names)
        if pick(metrics, "class_counts", None):
            figure, axis = plots.plt.subplots(figsize=(7, 2.4))
            draw_classes(axis, metrics, names)
            plots.save_figure(figure, where / "classes.png")
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
