"""The paper's table and figure, of one checkpoint. From the repository's root:

  python -m mdma.eval                               the newest run: best.pt, else last.pt
  python -m mdma.eval --ckpt mdma/results/t30.pt    a checkpoint; needs the jets it was trained on
  python -m mdma.eval --ckpt … --samples 64 --grid-out jets.png     only draw jets
  python -m mdma.eval --ckpt … --n 50000 --export DIR     only write jets, as NPZ and JetNet's HDF5
  python -m mdma.eval --generated FILE --reference FILE   of two files of jets, no checkpoint

Writes eval_<step>.json (with --split valid eval_<step>_valid.json), table1.md and figures beside
the checkpoint; of one in results/, into runs/mdma/<its name>; of one where nothing can be written,
into runs/mdma/<its run's name>-<digits>. The networks have no train and eval modes that differ. A
checkpoint alone can generate: it holds the distribution of n and the scale of the features.

Files are .hdf5, .h5, .npz or JetClass's .root, see the head of jets.py, of any generator. Their
results are named after --generated and stand beside it, or in --out. Nothing is overwritten.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.export import Dim
from tqdm import tqdm

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m mdma.eval", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import FilePath
from common.cli import run_main
from common.device import choose_device
from common.errors import UserError
from common.evaluate import checkpoint_path, output_dir, write_eval, write_slim
from common.metrics.jets import FPND_TYPES, jet_metrics
from common.onnx import BATCH, write_onnx
from common.plots import curves
from common.runs import load_checkpoint, load_state, read_log, replace_file

from .features import JetGenerator, generate, learnt_from, noise_rows
from .figures import CURVES, JET_NAMES, draw_features, draw_jets
from .jets import JET_TYPES, data_name, export, is_file, load_jets
from .score import check_flags, score
from .tables import metric_lines, table1
from .train import NAMES, build


@dataclass
class Args:
    # --- one checkpoint
    # a checkpoint, or a run directory: its best.pt, else last.pt; none: the newest under runs/mdma
    ckpt: FilePath | None = None
    dataset: FilePath | None = None  # jets to compare with; none: those of the training
    # where the jets are; none: where they were for the training, else data
    data_dir: FilePath | None = None
    # generated jets; none: 20 for each jet of --split (authors' code), 50,000 with --export
    n: int | None = None
    split: Literal["valid", "test"] = "test"  # real jets to compare with
    # jets per forward pass; none: as many as a CPU's caches hold, or 2 GB of a GPU's memory
    batch_size: int | None = None
    seed: int = 0  # of the generated jets and of the bootstrap; in [0, 2^63)
    fpnd: bool = False  # also FPND against the real JetNet (30 particles; g, q, t)
    samples: int | None = None  # only draw so many jets into --grid-out
    grid_out: FilePath = "jets.png"  # where --samples draws
    export: FilePath | None = None  # only write --n jets into this directory
    # only write a checkpoint without what training needs into this file: < 0.5 MB
    slim: FilePath | None = None
    onnx: FilePath | None = None  # only write the generator as an ONNX graph into this file

    # --- two files of jets
    generated: FilePath | None = None  # measure the jets in this file, not a checkpoint's
    reference: FilePath | None = None  # the jets to compare them with
    # of pT in both files: as shares of the jet's pT, or as they are (in GeV or whatever): then the
    # pT values of each jet are divided by their sum
    units: Literal["relative", "gev"] = "relative"
    # of both files, for the paper's rows in Table 1 and for --fpnd
    jet_type: Literal[*JET_TYPES] | None = None
    out: FilePath | None = None  # directory for the results; none: that of --generated

    # --- run
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps
    amp: Literal["off", "bf16"] = "off"  # bf16 is refused: jets need float32


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv)
    if args.amp != "off":
        raise UserError("--amp bf16: jets need float32. Leave it out")
    check_flags(args)
    return args


def load(path, device):
    """(G, training args, stats, step) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "mdma")
    # older checkpoints are MDMA's, without --model, and of all training jets
    trained = argparse.Namespace(**({"model": "mdma", "train_jets": None} | checkpoint["args"]))
    state = checkpoint["state"]
    if "pt" not in state["stats"]:
        raise UserError(
            f"{path} is of a version without --pt, its statistics can't be read any more: "
            "train anew"
        )
    G, _ = build(trained)
    load_state(G, state["G_ema" if trained.ema else "G"], f"the generator in {path}")
    G = G.to(device).eval().requires_grad_(False)
    return G, trained, state["stats"], checkpoint["step"]


def slim(path, out):
    """A checkpoint that can generate but not be resumed: the (averaged) G and statistics."""
    checkpoint = load_checkpoint(path, "mdma")
    state = checkpoint["state"]
    G = state["G_ema" if checkpoint["args"]["ema"] else "G"]
    write_slim(out, checkpoint, torch.float32, {"ema": 0.0}, G=G, stats=state["stats"])


def write_graph(G, trained, stats, out):
    """--onnx: noise and mask -> jets. Metadata: how many training jets have n = 0 … N particles."""
    N, particles = trained.num_particles, Dim("particles")
    noise = torch.randn(2, noise_rows(G, N), 3)
    inputs = {"noise": noise, "mask": torch.ones(2, N, dtype=torch.bool)}
    free = BATCH | {1: noise_rows(G, particles)}, BATCH | {1: particles}
    if trained.paper_code:  # it counts the padding: its jets are right at the training's N alone
        free = BATCH
    about = {"noise": "N(0, 1)", "counts": json.dumps(stats["counts"].tolist())}
    write_onnx(out, JetGenerator(G, stats), inputs, "jets", free, about)


def load_real(args, trained):
    """(training jets, jets of --split) to compare with."""
    dataset = args.dataset or trained.dataset
    data_dir = args.data_dir or trained.data_dir
    if not args.data_dir and not Path(data_dir).expanduser().exists():
        data_dir = "data"  # the checkpoint is of another machine
    where = (dataset, trained.jet_type, trained.num_particles, data_dir)
    return load_jets(*where, "train"), load_jets(*where, args.split)


def main(argv=None):
    args = parse_args(argv)
    if args.generated:
        return score(args)
    device = choose_device(args.device)
    path = checkpoint_path(args.ckpt, "mdma", prefer=("best.pt", "last.pt"))
    if args.slim:
        return slim(path, args.slim)
    G, trained, stats, step = load(path, device)
    if args.onnx:
        return write_graph(G, trained, stats, args.onnx)
    N, jet_type, model = trained.num_particles, trained.jet_type, NAMES[trained.model]

    def jets(count):
        rng = torch.Generator().manual_seed(args.seed)
        return generate(G, count, stats, N, rng, args.batch_size).cpu()

    if args.samples:
        draw_jets({model: jets(args.samples)}, args.grid_out)
        print(f"{args.samples:,} generated jets in {args.grid_out}")
        return None
    if args.export:
        folder = Path(args.export)
        if folder.is_file() or (folder.exists() and any(folder.iterdir())):
            raise UserError(f"--export {folder} is not empty: choose another folder")
        kind = "own" if is_file(trained.dataset) else jet_type
        return export(jets(args.n or 50_000), kind, folder)

    # --- Table 1
    of = data_name(trained.dataset, jet_type)
    print(f"{path}: {model}, step {step}, {of}, up to {N} particles")
    dataset = args.dataset or trained.dataset
    named = dataset in ("jetnet", "pythia")  # a file of your own has no jet type
    if args.fpnd and not (named and N == 30 and jet_type in FPND_TYPES):
        raise UserError(
            f"--fpnd: there are statistics for 30 particles of {', '.join(FPND_TYPES)} only. "
            "Leave it out"
        )
    train, real = load_real(args, trained)
    if not args.dataset and not learnt_from(stats, train[: trained.train_jets]):
        print(
            f"{of} has other training jets ({len(train):,}) than those that the checkpoint learnt "
            f"from ({stats['counts'].sum():,}): it may know some of the {args.split} jets",
            file=sys.stderr,
        )
    fake = jets(args.n or 20 * len(real))
    if min(len(real), len(fake)) < 10:
        raise UserError(
            f"{len(real)} real and {len(fake)} generated jets: the metrics need ten of each. "
            "Raise --n"
        )
    onto = device if device.type == "cuda" else "cpu"  # mps has no float64
    options = dict(seed=args.seed, fpnd_type=jet_type if args.fpnd else None)
    ours, inside = (
        jet_metrics(real.particles.to(onto), x.to(onto), **options)
        for x in tqdm((fake, train.particles), desc="metrics", disable=None)
    )
    where = output_dir(path, "mdma")
    label, kind = (f"{jet_type}, {dataset}-{N}", jet_type) if named else (str(dataset), None)
    text = table1(label, kind, ours, inside, model)
    replace_file(where / "table1.md", text.encode())
    counts = dict(split=args.split, real_jets=len(real), generated_jets=len(fake))
    checkpoint = {"step": step, "args": vars(trained)}
    part = "" if args.split == "test" else args.split
    result = write_eval(where, path, checkpoint, ours, device, part, in_sample=inside, **counts)

    # --- Fig. 2
    shown = {f"{args.split} jets": real.particles, model: fake}
    name = f"{JET_NAMES[jet_type]} jets of {dataset}" if named else Path(dataset).name
    title = f"{name}, up to {N} particles; {len(real):,} {args.split} jets, "
    title += f"{len(fake):,} of {model}"
    draw_features(shown, where / "fig2.png", title)
    draw_jets({label: x[:8] for label, x in shown.items()}, where / "jets.png")
    written = [result.name, "table1.md", "fig2.png", "jets.png"]
    if log := read_log(path.with_name("log.jsonl")):
        curves(log, CURVES, where / "curves.png", smooth=10)
        written.append("curves.png")
    print(text, *metric_lines(ours, inside), sep="\n")
    print(f"in {where}: {', '.join(written)}")
    return ours


if __name__ == "__main__":
    run_main(main)
