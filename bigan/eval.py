"""The BiGAN paper's MNIST table, and the numbers and pictures around it. From the repository's root:

  python -m bigan.eval                                   the newest run under runs/bigan
  python -m bigan.eval --ckpt DIR                        a run or checkpoint: 1NN, probe, reconstructions, FID, figures
  python -m bigan.eval --ckpt … --samples 64 --grid-out grid.png    only draw samples
  python -m bigan.eval --ckpt … --n 50000 --export DIR    only write samples, as DIR/samples.npz (images: and PNGs)
  python -m bigan.eval --table --dataset mnist           the paper's table: every method, 3 seeds, 400 epochs (a GPU's)
  python -m bigan.eval --table --reduced                 the same on FashionMNIST, reduced: hours of two CPU cores
  python -m bigan.eval --toy                             25 Gaussians: modes that ALI and a GAN cover
  python -m bigan.eval --anomaly --reduced               AUROC of the anomaly score, each class held out once

Writes eval_<step>.json and figures beside the checkpoint. All networks are in eval mode; BatchNorm's statistics are
recomputed over --bn-batches first, as the authors do. --samples and --export need no data: they use the statistics
in the checkpoint. Of a run with --hold-out the anomaly score is measured and 1NN is not.
The tables train what they need, --jobs runs at a time, under --out; started again, they go on where they stood.
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

if not __package__:  # started as a file: relative imports can't work
    print(
        "error: start this as a module from the repository's root: "
        f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}",
        file=sys.stderr,
    )
    sys.exit(2)

from common import plots
from common.cli import add_device_args, add_eval_args, new_parser, positive_int, run_main
from common.data import CLASSES, DATASETS
from common.device import choose_device
from common.rng import seed_all, step_rng
from common.errors import UserError
from common.evaluate import (
    checkpoint_path,
    image_scores,
    named_outputs,
    output_dir,
    print_metrics,
    reference,
    say_written,
    set_data_dir,
    write_eval,
)
from common.metrics import count_tag, pick
from common.toys import MIXTURES
from common.metrics.toy import mode_metrics, toy_metrics
from common.runs import load_checkpoint, load_state, read_log, replace_file, write_json
from common.sweep import add_only_arg, add_sweep_args, only, sweep

from . import train
from .data import class_index, load_data, sample_z
from .features import anomaly_score, auroc, encode, linear_probe, nearest, one_nn_accuracy

from .progress import draw_curves
from .toys import toy_codes, toy_limit
from .batch_norm import fixed_batches, recompute_statistics
from .train import AUTOENCODERS, EPOCH, build

METHODS = {  # the rows of the paper's table and two more: flags of train.py
    "BiGAN": ["--method", "bigan", "--cycle", "0"],
    "LR": ["--method", "latent-regressor"],
    "JLR": ["--method", "joint-lr"],
    "AE (l2)": ["--method", "ae-l2"],
    "AE (l1)": ["--method", "ae-l1"],
    "BiGAN + cycle": ["--method", "bigan", "--cycle", "5"],
    "ALI": ["--method", "ali", "--cycle", "0"],
}
# MNIST, Table 1
PAPER_1NN = {
    "BiGAN": 97.39,
    "D": 97.30,
    "LR": 97.44,
    "JLR": 97.13,
    "AE (l2)": 97.58,
    "AE (l1)": 97.63,
}
# The authors' log of BiGAN on MNIST (their README): epoch, 1NN in E's logits, in E's features
CODE_LOG = (
    [0, 1, 25, 200, 400],
    [91.50, 89.94, 95.41, 95.92, 92.10],
    [96.84, 92.56, 96.28, 97.14, 97.35],
)
TOY_METHODS = {
    "ALI": ["--method", "ali"],
    "GAN": ["--method", "latent-regressor"],
    "ALICE": ["--method", "ali", "--cycle", "1"],
}
PAPER_MODES = {
    "ALI": "13.4 ± 5.8",
    "GAN": "10.4 ± 9.2",
}  # modes hit; ALI §4.5: ten runs of random settings
REDUCED = ["--quick"]


def parse_args(argv=None):
    parser = new_parser(__doc__)
    add_eval_args(
        parser, "bigan", n_help="samples for the metrics (MMD: 2,000 at most)", split=False
    )
    parser.add_argument(
        "--bank", type=positive_int, default=60_000, help="training images for 1NN and the probe"
    )
    parser.add_argument(
        "--bn-batches",
        type=positive_int,
        default=1000,
        help="for BatchNorm's statistics (code: 1000)",
    )
    tables = parser.add_argument_group("tables")
    tables.add_argument(
        "--table",
        action="store_true",
        help="every method: 1NN accuracy, over epochs and at the end",
    )
    tables.add_argument(
        "--toy", action="store_true", help="25 Gaussians: modes covered by ALI, a GAN, ALICE"
    )
    tables.add_argument(
        "--anomaly",
        action="store_true",
        help="AUROC of the anomaly score, each class held out once",
    )
    tables.add_argument(
        "--dataset",
        choices=DATASETS + ("synthetic",),
        default="fashion-mnist",
        help="of --table and --anomaly",
    )
    tables.add_argument("--reduced", action="store_true", help=f"runs with {' '.join(REDUCED)}")
    add_only_arg(tables)
    add_sweep_args(
        tables, seeds=3, out="none: runs/bigan/table, toy, anomaly; with --reduced: …-reduced"
    )
    add_device_args(parser.add_argument_group("run"))
    return parser.parse_args(argv)


# --- one checkpoint


def load(path, device):
    """(G, E, D, training args, checkpoint) from a checkpoint file alone, in eval mode."""
    checkpoint = load_checkpoint(path, "bigan")
    trained = argparse.Namespace(**checkpoint["args"])
    networks = build(trained)
    for name, net in zip("GED", networks):
        load_state(net, checkpoint["state"][name], f"{name} in {path}")
    return *(net.to(device).eval().requires_grad_(False) for net in networks), trained, checkpoint


def load_with_data(path, args, device):
    """(networks with freshly computed BatchNorm statistics, train data, test data, extractor or
    None, training args, checkpoint). Toys and autoencoders need no extractor."""
    G, E, D, trained, checkpoint = load(path, device)
    if trained.dataset in MIXTURES or trained.method in AUTOENCODERS:
        set_data_dir(trained, args)
        test, extractor = load_data(trained, "test"), None
    else:
        test, extractor = reference(load_data, trained, args, device)
    data = load_data(trained)
    recompute_statistics(G, E, D, fixed_batches(data, trained, args.bn_batches, device))
    return (G, E, D), data, test, extractor, trained, checkpoint


@torch.no_grad()
def sample(G, n, trained, device, seed=0, batch_size=250):
    """Yield n samples (B, 2) or (B, C, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch_size):
        yield G(sample_z(min(batch_size, n - start), trained, rng).to(device)).float()


@torch.no_grad()
def measure(networks, data, test, extractor, trained, args, device, save=lambda metrics: None):
    """{key: value} of every measurement that this run's data set and method allow.

    save: called with what there is after each, so that an error in a later one loses nothing.
    """
    G, E, D = networks
    if trained.dataset in MIXTURES:
        x, _ = data.sample(args.n, step_rng(args.seed, 0))
        shown = {
            "": torch.cat(list(sample(G, args.n, trained, device, args.seed))).cpu(),
            "_recon": G(toy_codes(E, x.to(device), trained)).cpu(),
        }
        mmd2 = toy_metrics(shown[""][:2000], data)  # all of them would take minutes
        return {key: value for key, value in mmd2.items() if key.startswith("mmd2")} | {
            f"{key}{end}_{count_tag(args.n)}": value
            for end, points in shown.items()
            for key, value in mode_metrics(points, data).items()
        }
    metrics = {}
    if trained.hold_out is not None:
        metrics |= measure_anomaly(networks, test, trained, device)[0]
    elif data.labels is not None:
        metrics |= measure_features(networks, data, test, trained, args, device)
    save(metrics)
    metrics |= measure_inversion(G, E, test, trained, args, device)
    save(metrics)
    if trained.method not in AUTOENCODERS:  # which give no distribution to draw z from
        batches = sample(G, args.n, trained, device, args.seed, args.batch_size)
        keep, split = None, "test"
        if trained.hold_out is not None:  # what G never saw it is not asked for
            held_out = class_index(test, trained.hold_out)
            keep, split = test.labels != held_out, f"test_without_class{held_out}"
        metrics |= image_scores(
            extractor, test, batches, args.n, device, trained.data_dir, keep, split
        )[0]
    return metrics


def measure_features(networks, data, test, trained, args, device):
    """1NN accuracy and linear probe, §4.2: E(x), E's logits and the layer before, D's features; pixels; E untrained."""
    _, E, D = networks
    seed_all(trained.seed)
    fresh = [net.to(device) for net in build(trained)]
    recompute_statistics(*fresh, fixed_batches(data, trained, 50, device))
    spaces = {
        "E": E,
        "logits": E.logits,
        "features": E.features,
        "pixels": lambda x: x.flatten(1),
        "untrained_E": fresh[1],
        "untrained_features": fresh[1].features,
    }
    if trained.method not in AUTOENCODERS:
        spaces["D"] = lambda x: D.features(x, E(x) if D.pairs else None)
    metrics, n, m = {}, min(args.bank, len(data)), len(test)
    for name, net in tqdm(spaces.items(), disable=None, desc="1NN"):
        found = (
            encode(net, data, n, device),
            data.labels[:n],
            encode(net, test, m, device),
            test.labels,
        )
        metrics[f"1nn_{name}_{count_tag(n)}_{count_tag(m)}"] = one_nn_accuracy(*found)
        if name in ("E", "features", "pixels", "untrained_features"):
            metrics[f"probe_{name}_{count_tag(n)}_{count_tag(m)}"] = linear_probe(*found)
        if (
            name.startswith("untrained") and n > 10_000 and m > 2000
        ):  # where the curves of the log begin
            part = found[0][:10_000], found[1][:10_000], found[2][:2000], found[3][:2000]
            metrics[f"1nn_{name}_10k_2k"] = one_nn_accuracy(*part)
    return metrics


@torch.no_grad()
def measure_inversion(G, E, test, trained, args, device):
    """Mean |x − G(E(x))| (real x), |x − G(E(x))| (x = G(z)) and |z − E(G(z))|, each also for shuffled pairs.

    Euclidean norms, of images with pixels in [0, 1], as in the authors' log (EGr, EGr_b, EGg, EGg_b).
    """

    def both(a, b):
        return [(a - c).flatten(1).norm(dim=1).mean().item() for c in (b, b.roll(1, 0))]

    x = encode(lambda x: x, test, args.n, device)
    z = sample_z(args.n, trained, torch.Generator().manual_seed(args.seed)).to(device)
    image = torch.cat([G(part).float() for part in z.split(args.batch_size)])
    code_x, code = (
        torch.cat([E(part).float() for part in t.split(args.batch_size)]) for t in (x, image)
    )
    rec_x, rec = (
        torch.cat([G(part).float() for part in t.split(args.batch_size)]) for t in (code_x, code)
    )
    metrics = {}
    for name, tag, a, b in (
        ("recon", f"{count_tag(len(x))}_test", x / 2, rec_x / 2),
        ("regen", count_tag(args.n), image / 2, rec / 2),
        ("latent", count_tag(args.n), z, code),
    ):
        own, shuffled = both(a, b)
        metrics |= {
            f"{name}_l2_{tag}": own,
            f"{name}_l2_shuffled_{tag}": shuffled,
            f"{name}_ratio_{tag}": own / shuffled,
        }
    metrics[f"code_sd_{count_tag(len(x))}_test"] = code_x.std(0).mean().item()
    return metrics


@torch.no_grad()
def measure_anomaly(networks, test, trained, device):
    """AUROC of finding the held-out class among all test images. -> (metrics, {score: values (N,)}, positive (N,))"""
    (G, E, D), scores = networks, {}
    for part in torch.arange(len(test)).split(500):
        x = test.images_at(part, device)
        code = E(x)
        rec = G(code).float()
        if trained.method in AUTOENCODERS:  # D is untrained
            found = {"recon": (x - rec).flatten(1).abs().sum(1)}
        else:
            f = D.features(x, code).float(), D.features(rec, code).float()
            found = {
                "recon": anomaly_score(x, rec, *f, alpha=1),
                "D_features": anomaly_score(x, rec, *f, alpha=0),
                "score": anomaly_score(x, rec, *f),
            }
        for name, values in found.items():
            scores.setdefault(name, []).append(values.cpu())
    scores, c = (
        {name: torch.cat(values) for name, values in scores.items()},
        class_index(test, trained.hold_out),
    )
    positive = test.labels == c
    return (
        {
            f"auroc_{name}_class{c}_{count_tag(len(test))}": auroc(values, positive)
            for name, values in scores.items()
        },
        scores,
        positive,
    )


@torch.no_grad()
def draw(networks, data, test, trained, args, device, where):
    """Samples, reconstructions, interpolation, neighbours, anomaly, curves: PNGs in `where`."""
    G, E, _ = networks
    if (where / "log.jsonl").exists():
        draw_curves(where)
    if trained.dataset in MIXTURES:
        x, _ = data.sample(10_000, step_rng(args.seed, 0))
        code = toy_codes(E, x.to(device), trained)
        samples = torch.cat(list(sample(G, 10_000, trained, device, args.seed)))
        plots.densities(
            {data.name: x, "G(z)": samples.cpu(), "G(E(x))": G(code).cpu()},
            where / "samples.png",
            limit=toy_limit(data),
        )
        return plots.densities({"E(x)": code[:, :2].cpu()}, where / "codes.png", limit=3)
    zoom = max(1, 56 // trained.size)
    images = torch.cat(list(sample(G, 64, trained, device, args.seed)))
    plots.save_grid(images, where / "samples.png", zoom=zoom)

    x = test.images_at(torch.arange(min(64, len(test))), device)
    code = E(x)
    rec, regen = G(code).float(), G(E(images)).float()
    shown = min(16, len(x))  # of few images one row
    rows = [t[i : i + shown] for i in (0, 16) if i + shown <= len(x) for t in (x, rec)]
    rows += [images[:shown], regen[:shown]]
    plots.save_grid(torch.cat(rows), where / "reconstructions.png", nrow=shown, zoom=zoom)

    t, pairs = torch.linspace(0, 1, 9).tolist(), min(6, len(x) // 2)
    first, second = slice(pairs), slice(pairs, 2 * pairs)
    if pairs:
        steps = [G(torch.lerp(code[first], code[second], s)).float() for s in t]
        ends = torch.stack([x[first], *steps, x[second]], 1)  # (6, 11, …)
        plots.save_grid(ends.flatten(0, 1), where / "interpolation.png", nrow=len(t) + 2, zoom=zoom)

    n, rows = min(args.bank, len(data)), [images[:16]]
    for net in (lambda x: x.flatten(1), E.features):  # the nearest in pixels, and in features
        found = nearest(encode(net, data, n, device), net(images[:16]).float())
        rows.append(data.images_at(found.cpu(), device))
    plots.save_grid(torch.cat(rows), where / "neighbours.png", nrow=16, zoom=zoom)

    if trained.hold_out is not None:
        _, scores, positive = measure_anomaly(networks, test, trained, device)
        figure, axes = plots.plt.subplots(
            1, len(scores), figsize=(4 * len(scores), 2.6), squeeze=False
        )
        for axis, (name, values) in zip(axes[0], scores.items()):
            for label, chosen in (
                ("other classes", ~positive),
                (f"held out: {trained.hold_out}", positive),
            ):
                axis.hist(values[chosen].numpy(), bins=60, density=True, alpha=0.6, label=label)
            axis.set_title(f"{name}: AUROC {auroc(values, positive):.3f}", fontsize=9)
        axes[0, 0].legend(fontsize=8)
        plots.save_figure(figure, where / "anomaly.png")


def draw_samples(G, trained, args, device):
    samples = torch.cat(
        list(sample(G, args.samples, trained, device, args.seed, args.batch_size))
    ).cpu()
    if trained.dataset in MIXTURES:
        plots.densities({"samples": samples}, args.grid_out, limit=toy_limit(load_data(trained)))
    else:
        plots.save_grid(samples, args.grid_out, nrow=max(1, round(math.sqrt(len(samples)))))
    say_written(args.grid_out)


# --- tables: many runs


def said(values, scale=1, digits=1):
    """mean ± sd of those that are there."""
    values = [scale * v for v in values if not math.isnan(v)]
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}" if values else "–"


def measure_run(where, _, args):
    """What the tables need of a finished run, and its figures."""
    device = choose_device(args.device)
    networks, data, test, extractor, trained, _ = load_with_data(where / "last.pt", args, device)
    draw(networks, data, test, trained, args, device, where)
    return measure(networks, data, test, extractor, trained, args, device)


def run_table(args, name, rows, flags):
    """Train and measure rows ({row: flags}) x --seeds. -> (folder, {row: [result of each seed]})"""
    rows = only(rows, args.only)
    shared = flags + shlex.split(args.train_flags)
    folder = Path(args.out or f"runs/bigan/{name}{'-reduced' * args.reduced}")
    cells = [
        {"name": f"{row}-{seed}".replace(" ", "_"), "row": row, "seed": seed, "flags": extra}
        for seed in range(args.seeds)
        for row, extra in rows.items()
    ]
    results = [
        r for r in sweep(cells, train.main, measure_run, args, folder, shared) if "metrics" in r
    ]
    return folder, {
        row: found for row in rows if (found := [r for r in results if r["row"] == row])
    }


def write_table(folder, name, lines, found):
    replace_file(folder / f"{name}.md", ("\n".join(lines) + "\n").encode())
    write_json(folder / f"{name}.json", [r for results in found.values() for r in results])
    print("\n".join(lines))
    return found


def table(args):
    """The paper's MNIST table: 1NN accuracy of each method in features and in E(x). -> table.md, .json, .png."""
    folder, found = run_table(
        args, "table", METHODS, ["--dataset", args.dataset] + REDUCED * args.reduced
    )
    lines = [
        f"{args.dataset}, {args.seeds} seeds a row; 1NN and probe in %, training images as bank, all test images",
        "",
        "| method | paper (MNIST): 1NN | 1NN features | 1NN E(x) | 1NN E's logits | probe features | "
        "recon / shuffled | FID | steps | s a run |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def line(method, results, keys, seconds=True):
        column = lambda key, *how: (
            said([pick(r["metrics"], key) for r in results], *how) if key else "–"
        )
        nn = " | ".join(column(key, 100, 2) for key in keys)
        rest = (
            f"{column('recon_ratio', 1, 3)} | {said([fid(r['metrics']) for r in results])}"
            if seconds
            else "– | –"
        )
        end = (
            f"{results[0]['step']} | {said([r['seconds'] for r in results], 1, 0)}"
            if seconds
            else "– | –"
        )
        lines.append(f"| {method} | {PAPER_1NN.get(method, '–')} | {nn} | {rest} | {end} |")

    for method, results in found.items():
        line(method, results, ("1nn_features", "1nn_E", "1nn_logits", "probe_features"))
    for method, source, keys in (
        ("D", "LR", ("1nn_D", None, None, None)),
        (
            "untrained E",
            "BiGAN",
            ("1nn_untrained_features", "1nn_untrained_E", None, "probe_untrained_features"),
        ),
        ("pixels", "BiGAN", ("1nn_pixels", None, None, "probe_pixels")),
    ):
        if source in found:
            line(method, found[source], keys, seconds=False)
    lines += [
        "",
        "D: the discriminator's features of the plain GAN below LR. Pixels: 1NN on the images themselves.",
    ]
    draw_table(folder, found, args.dataset)
    return write_table(folder, "table", lines, found)


def fid(metrics):
    return next((v for k, v in metrics.items() if k.startswith("fid_")), math.nan)


def draw_table(folder, found, dataset):
    """1NN accuracy over epochs: in the features and in E(x), mean of the seeds; dashed: the untrained encoder."""
    figure, axes = plots.plt.subplots(1, 2, figsize=(11, 3.8))
    for axis, space in zip(axes, ("features", "E")):
        for i, (method, results) in enumerate(found.items()):
            curves = [
                [
                    (line["step"], line[k])
                    for line in read_log(folder / r["name"] / "log.jsonl")
                    for k in line
                    if k.startswith(f"1nn_{space}_")
                ]
                for r in results
            ]
            steps = [step for step, _ in min(curves, key=len)]
            values = 100 * np.array([[v for _, v in curve[: len(steps)]] for curve in curves])
            epochs = np.array(steps) / EPOCH
            axis.plot(epochs, values.mean(0), color=f"C{i}", lw=1.2, label=method)
            axis.fill_between(epochs, values.min(0), values.max(0), color=f"C{i}", alpha=0.2, lw=0)
        start = [
            r["metrics"].get(
                f"1nn_untrained_{space}_10k_2k", pick(r["metrics"], f"1nn_untrained_{space}")
            )
            for results in found.values()
            for r in results
        ]
        axis.axhline(100 * np.mean(start), color="k", ls="--", lw=1, label="untrained")
        if dataset == "mnist":
            axis.plot(
                CODE_LOG[0],
                CODE_LOG[2 if space == "features" else 1],
                "ko",
                ms=4,
                label="authors' log (BiGAN)",
            )
        axis.set(
            xlabel="epoch",
            title=f"1NN accuracy in {'E(x)' if space == 'E' else 'the layer before'}, %",
        )
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    plots.save_figure(figure, folder / "table.png")


def toy(args):
    """25 Gaussians: modes covered by samples and by reconstructions, beside ALI's numbers. -> toy.md, .json, .png."""
    folder, found = run_table(
        args, "toy", TOY_METHODS, ["--dataset", "25gaussians"] + REDUCED * args.reduced
    )
    lines = [
        f"25 Gaussians, {args.seeds} seeds a row, 10,000 points each",
        "",
        "| method | paper: modes hit | by G(z) | each | by G(E(x)) | covered by G(z) | high quality | s a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, results in found.items():
        columns = [
            said([pick(r["metrics"], key) for r in results], 1, digits)
            for key, digits in (
                ("modes_hit", 1),
                ("modes_hit_recon", 1),
                ("modes", 1),
                ("high_quality", 2),
            )
        ]
        columns.insert(1, ", ".join(str(pick(r["metrics"], "modes_hit")) for r in results))
        lines.append(
            f"| {method} | {PAPER_MODES.get(method, '–')} | {' | '.join(columns)} | "
            f"{said([r['seconds'] for r in results], 1, 0)} |"
        )
    panels = [folder / r["name"] / "samples.png" for results in found.values() for r in results[:1]]
    pictures = [np.asarray(plots.Image.open(path).convert("RGB")) for path in panels]
    if pictures:
        width = min(p.shape[1] for p in pictures)
        plots.Image.fromarray(np.concatenate([p[:, :width] for p in pictures])).save(
            folder / "toy.png"
        )
    return write_table(folder, "toy", lines, found)


def anomaly(args):
    """Each class held out once: AUROC of its test images against all others. -> anomaly.md, .json."""
    if args.dataset not in CLASSES:
        raise UserError(f"--anomaly needs a data set with known classes: {', '.join(CLASSES)}")
    rows = {name: ["--hold-out", str(c)] for c, name in enumerate(CLASSES[args.dataset])}
    rows = {name.replace("/", "-"): flags for name, flags in rows.items()}
    folder, found = run_table(
        args, "anomaly", rows, ["--dataset", args.dataset] + REDUCED * args.reduced
    )
    scores = {"score": "A(x)", "recon": "reconstruction", "D_features": "D's features"}
    lines = [
        f"{args.dataset}, AUROC of one held-out class among all test images, {args.seeds} seeds a row",
        "",
        "| held out | " + " | ".join(scores.values()) + " |",
        "|---" * (len(scores) + 1) + "|",
    ]
    for name, results in [*found.items(), ("mean", sum(found.values(), []))]:
        values = [
            [
                v
                for r in results
                for k, v in r["metrics"].items()
                if k.startswith(f"auroc_{s}_class")
            ]
            for s in scores
        ]
        lines.append(f"| {name} | " + " | ".join(said(v, 1, 3) for v in values) + " |")
    return write_table(folder, "anomaly", lines, found)


def main(argv=None):
    args = parse_args(argv)
    for asked, make in ((args.table, table), (args.toy, toy), (args.anomaly, anomaly)):
        if asked:
            return make(args)
    if args.amp != "off":
        raise UserError(f"--amp {args.amp}: everything here is measured in fp32. Leave it out")
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "bigan")
    if args.samples or args.export:
        G, _, _, trained, _ = load(path, device)
        if args.samples:
            return draw_samples(G, trained, args, device)
        return plots.export_samples(
            sample(G, args.n, trained, device, args.seed, args.batch_size), args.export
        )

    networks, data, test, extractor, trained, checkpoint = load_with_data(path, args, device)
    print(f"{path}: {trained.method}, {trained.arch}, step {checkpoint['step']}, {trained.dataset}")
    where = output_dir(path, "bigan")

    def save(metrics):
        write_eval(where, path, checkpoint, metrics, device)

    with named_outputs(where):
        draw(networks, data, test, trained, args, device, where)
        metrics = measure(networks, data, test, extractor, trained, args, device, save)
        save(metrics)
    print_metrics(metrics)
    return metrics


if __name__ == "__main__":
    run_main(main)
