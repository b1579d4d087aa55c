"""The paper's table and figure. From the repository's root:

  python -m mdma.eval                                     the newest run under runs/mdma: best.pt, else last.pt
  python -m mdma.eval --ckpt mdma/results/t30.pt          a checkpoint; it needs the jets it was trained on
  python -m mdma.eval --ckpt … --samples 64 --grid-out jets.png     only draw jets
  python -m mdma.eval --ckpt … --n 50000 --export DIR     only write jets, as JetNet's HDF5 and NPZ, hardest first
  python -m mdma.eval --twin                              the simulated jets beside what is known of the real JetNet
  python -m mdma.eval --ckpt … --timing                   microseconds a jet, and how the cost grows with n

Writes eval_<step>.json, table1.md and figures beside the checkpoint; of one in results/, into runs/mdma/<its name>.
The networks have no train and eval modes that differ. A checkpoint alone can generate: it holds the distribution of n
and the scale of the features.
"""

import argparse
import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common.cli import UserError, add_device_args, file_path, new_parser, positive_int, run_main
from common.device import choose_device
from common.evaluate import checkpoint_path, output_dir
from common.masking import lengths_to_mask
from common.metrics.jets import FPND_TYPES, fpnd, jet_mass, jet_metrics, present, wasserstein1
from common.plots import curves, plt, save_figure
from common.runs import environment, load_checkpoint, load_state, read_log, replace_file, save_atomic, write_json

from .jets import JET_TYPES, SPLITS, hardest_first, load_jets
from .model import sample_jets
from .train import build, draw_features, generate

COLUMNS = {"W1M (x 10³)": ("w1m", 1e3), "W1P (x 10³)": ("w1p_paper", 1e3), "W1EFP (x 10⁵)": ("w1efp_paper", 1e5),
           "KPD (x 10⁴)": ("kpd", 1e4), "FPD (x 10⁴)": ("fpd", 1e4)}
SCALING = (25, 50, 100, 200, 400, 700, 1000)         # n of the cost figure
TABLE_1 = {                                  # the paper's, 150 particles of the real JetNet, scaled as the columns
    "q": {"EPiC": ("0.5 ± 0.1", "1.25 ± 0.09", "0.81 ± 0.16", "-0.0 ± 0.1", "5 ± 1"),
          "MDMA": ("0.7 ± 0.1", "0.37 ± 0.05", "0.82 ± 0.14", "-0.05 ± 0.07", "3.8 ± 0.8"),
          "IN": ("0.5 ± 0.1", "0.15 ± 0.04", "0.59 ± 0.16", "-0.0 ± 0.2", "3 ± 2")},
    "g": {"EPiC": ("0.5 ± 0.1", "1.13 ± 0.04", "0.93 ± 0.14", "0.06 ± 0.05", "4.2 ± 0.7"),
          "MDMA": ("0.5 ± 0.1", "0.27 ± 0.02", "1.12 ± 0.13", "-0.05 ± 0.03", "1.4 ± 0.5"),
          "IN": ("0.6 ± 0.2", "0.048 ± 0.009", "0.79 ± 0.24", "-0.1 ± 0.1", "3.2 ± 0.8")},
    "t": {"EPiC": ("0.69 ± 0.08", "0.65 ± 0.03", "2.67 ± 0.39", "1.7 ± 1.0", "22 ± 1"),
          "MDMA": ("0.57 ± 0.09", "0.10 ± 0.02", "2.12 ± 0.64", "-0.0 ± 0.2", "5.3 ± 0.9"),
          "IN": ("0.42 ± 0.09", "0.12 ± 0.04", "1.22 ± 0.32", "-0.1 ± 0.2", "1.2 ± 0.6")},
    "w": {"MDMA": ("0.31 ± 0.02", "0.20 ± 0.04", "0.284 ± 0.040", "0.01 ± 0.02", "1 ± 4"),
          "IN": ("0.18 ± 0.05", "0.14 ± 0.04", "0.136 ± 0.021", "-0.00 ± 0.01", "1 ± 1")},
    "z": {"MDMA": ("0.27 ± 0.03", "0.23 ± 0.04", "0.373 ± 0.069", "-0.01 ± 0.02", "1 ± 4"),
          "IN": ("0.18 ± 0.03", "0.24 ± 0.07", "0.152 ± 0.042", "0.00 ± 0.02", "2 ± 1")},
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--ckpt", type=file_path, metavar="PATH",
                        help="a checkpoint, or a run directory: its best.pt, else last.pt; "
                        "none: the newest under runs/mdma")
    parser.add_argument("--dataset", type=file_path, help="jets to compare with; none: those of the training")
    parser.add_argument("--data-dir", type=file_path,
                        help="where the jets are; none: where they were for the training, else data")
    parser.add_argument("--n", type=positive_int, help="generated jets; none: 20 for each test jet (authors' code)")
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="real jets to compare with")
    parser.add_argument("--batch-size", type=positive_int, default=1000, help="jets per forward pass")
    parser.add_argument("--seed", type=int, default=0, help="of the generated jets and of the bootstrap")
    parser.add_argument("--fpnd", action="store_true", help="also FPND against the real JetNet (30 particles; g, q, t)")
    parser.add_argument("--samples", type=positive_int, metavar="N", help="only draw N jets into --grid-out")
    parser.add_argument("--grid-out", type=file_path, default="jets.png", metavar="PNG", help="where --samples draws")
    parser.add_argument("--export", type=file_path, metavar="DIR", help="only write --n jets into DIR")
    parser.add_argument("--slim", type=file_path, metavar="FILE",
                        help="only write a checkpoint without what training needs: < 0.5 MB")
    parser.add_argument("--twin", action="store_true", help="only compare the simulated jets of all types with JetNet")
    parser.add_argument("--timing", action="store_true", help="only measure speed")
    parser.add_argument("--timing-jets", type=positive_int, default=500_000, help="the most jets to time (§3.1)")
    add_device_args(parser.add_argument_group("run"))
    args = parser.parse_args(argv)
    if args.amp != "off":
        raise UserError("--amp bf16: jets need float32. Leave it out")
    return args


def load(path, device):
    """(G, training args, stats, step) from a checkpoint file alone."""
    checkpoint = load_checkpoint(path, "mdma")
    trained = argparse.Namespace(**checkpoint["args"])
    if "pt" not in checkpoint["state"]["stats"]:
        raise UserError(f"{path} is of a version without --pt, its statistics can't be read any more: train anew")
    G = build(trained)[0]
    load_state(G, checkpoint["state"]["G_ema" if trained.ema else "G"], f"the generator in {path}")
    return G.to(device).eval().requires_grad_(False), trained, checkpoint["state"]["stats"], checkpoint["step"]


def slim(path, out):
    """A checkpoint that can generate but not be resumed: the generator (with --ema the averaged one) and statistics."""
    out = Path(out).expanduser()
    if out.exists():
        raise UserError(f"--slim {out} exists already")
    checkpoint = load_checkpoint(path, "mdma")
    state = checkpoint["state"]
    G = state["G_ema" if checkpoint["args"]["ema"] else "G"]
    save_atomic({**checkpoint, "args": checkpoint["args"] | {"ema": 0.0}, "rng": {},
                 "state": {"G": G, "stats": state["stats"]}}, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


# --- Table 1


def row_of(metrics, protocol):
    """Table 1's five entries of `jet_metrics`, as text in its units. KPD and FPD have one protocol, the paper's."""
    entries = []
    for metric, scale in COLUMNS.values():
        start = f"{metric}_" if metric in ("kpd", "fpd") else f"{metric}_{protocol}"
        key = next((k for k in metrics if k.startswith(start) and not re.search("line|20k_50k|_err", k)), None)
        if key is None:
            entries.append("–")
            continue
        value, error = scale * metrics[key], scale * metrics[f"{key}_err"]
        digits = max(0, min(6, 1 - math.floor(math.log10(error)))) if error > 0 else 2
        entries.append(f"{value:.{digits}f} ± {error:.{digits}f}")
    return entries


def table1(jets, jet_type, ours, inside):
    """Markdown: the paper's rows of a jet type (None: of no type), and ours, of `jets`, by both protocols."""
    lines = ["| " + " | ".join(["jets", "model, protocol", *COLUMNS]) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for model, entries in TABLE_1.get(jet_type, {}).items():
        lines.append(f"| {jet_type}, JetNet-150 | {model}, paper | " + " | ".join(entries) + " |")
    for protocol in ("bootstrap5", "disjoint"):
        for model, metrics in (("MDMA", ours), ("IN", inside)):
            tag = next(key for key in metrics if key.startswith(f"w1m_{protocol}")).removeprefix("w1m_")
            lines.append(f"| {jets} | {model}, ours, {tag} | " + " | ".join(row_of(metrics, protocol)) + " |")
    return "\n".join(lines) + "\n"


# --- the simulated jets


# The real JetNet. mean and sd of eta, phi, pt and the sum of pt at 30 particles: stated in EPiC-GAN's code; mass at
# 10, 50, 90 %: of jets of MPGAN, trained on it. n: results/jetnet_multiplicity.json, published with MDMA.
JETNET_30 = {
    "g": {"η sd": 0.0779, "φ sd": 0.0767, "pT mean": 0.0303, "pT sd": 0.0422, "mass": (0.024, 0.050, 0.107)},
    "q": {"η sd": 0.0926, "φ sd": 0.0905, "pT mean": 0.0357, "pT sd": 0.0703, "mass": (0.021, 0.038, 0.090)},
    "t": {"η sd": 0.1163, "φ sd": 0.1172, "pT mean": 0.0305, "pT sd": 0.0395, "mass": (0.078, 0.131, 0.161)},
}


def twin_row(jet_type, data_dir, fpnd_jets=10_000):
    """{quantity: value} of all simulated jets of a type: n of up to 150 particles, the rest at 30."""
    n = torch.cat([load_jets("pythia", jet_type, 150, data_dir, split).n for split in SPLITS])
    x = torch.cat([load_jets("pythia", jet_type, 30, data_dir, split).particles for split in SPLITS])
    counts = json.loads((Path(__file__).parent / "results/jetnet_multiplicity.json").read_text())[jet_type]
    theirs = torch.repeat_interleave(torch.arange(len(counts["counts_by_n"])), torch.tensor(counts["counts_by_n"]))
    real = x[present(x)].double()
    row = {"jets": len(n), "n mean": n.double().mean().item(), "n sd": n.double().std().item(),
           "n W1": wasserstein1(n.double(), theirs.double()).item(), "η sd": real[:, 0].std().item(),
           "φ sd": real[:, 1].std().item(), "pT mean": real[:, 2].mean().item(), "pT sd": real[:, 2].std().item(),
           "mass": np.quantile(jet_mass(x).numpy(), [0.1, 0.5, 0.9]).tolist(), "FPND jets": min(fpnd_jets, len(x)),
           "FPND": fpnd(x[:fpnd_jets], jet_type) if jet_type in FPND_TYPES else None}
    known = {"n mean": counts["mean"], "n sd": counts["std"], **JETNET_30.get(jet_type, {})}
    return {"type": jet_type, "twin": row, "JetNet": known}


def twin(args):
    """-> runs/mdma/twin.md and .json: each simulated type, JetNet's value in brackets where it is known."""
    columns = ("jets", "n mean", "n sd", "n W1", "η sd", "φ sd", "pT mean", "pT sd", "mass", "FPND")
    lines = ["| type | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    data_dir = Path(args.data_dir or "data").expanduser()
    rows = [twin_row(jet_type, data_dir) for jet_type in JET_TYPES
            if Path(data_dir, "pythia", f"{jet_type}150.hdf5").exists()]
    if not rows:
        raise UserError(f"no simulated jets in {data_dir}/pythia: make data-jets ARGS=\"--type g q t w z\"")

    def text(value):
        if value is None:
            return "–"
        if isinstance(value, (list, tuple)):
            return " / ".join(f"{v:.3f}" for v in value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value < 0.2 else f"{value:.2f}"

    for row in rows:
        cells = [text(row["twin"][c]) + (f" ({text(row['JetNet'][c])})" if c in row["JetNet"] else "") for c in columns]
        lines.append(f"| {row['type']} | " + " | ".join(cells) + " |")
    where = Path("runs/mdma")
    where.mkdir(parents=True, exist_ok=True)
    replace_file(where / "twin.md", ("\n".join(lines) + "\n").encode())
    write_json(where / "twin.json", rows)
    print("\n".join(lines))
    print(f"in {where}: twin.md, twin.json")
    return rows


# --- figures and files


def draw_jets(jets, path):
    """Jets in the (eta, phi) plane: a dot a particle, its area proportional to pt_rel."""
    side = math.ceil(len(jets) ** 0.5)
    figure, axes = plt.subplots(-(-len(jets) // side), side, figsize=(1.3 * side, 1.3 * -(-len(jets) // side)),
                                squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, jet in zip(axes.flat, jets):
        eta, phi, pt = jet[jet[:, 2] > 0].T.numpy()
        axis.scatter(eta, phi, s=400 * pt, alpha=0.5, lw=0)
        axis.set(xlim=(-0.4, 0.4), ylim=(-0.4, 0.4))
    save_figure(figure, path)


def export(jets, jet_type, folder):
    """Generated jets, hardest particle first, as samples.npz and as <type>.hdf5 or <type>150.hdf5.

    samples.npz: particles (J, N, 3) and mask (J, N). The HDF5 file has JetNet's own names and layout;
    of the jet's own features only mass / pT and n are known: pT is written as 1 and eta as 0.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "samples.npz", folder / f"{jet_type}{150 if jets.shape[1] > 30 else ''}.hdf5"]
    try:
        write_jets(hardest_first(jets), *files)
    except BaseException:                    # also Ctrl-C: half a file looks like a whole one
        for file in files:
            file.unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise
    print(f"{len(jets):,} jets in {files[0]} and {files[1]}")


def write_jets(jets, npz, hdf5):
    import h5py
    mask = present(jets)
    n = mask.sum(1)
    np.savez_compressed(npz, particles=jets.numpy(), mask=mask.numpy())
    features = torch.stack([torch.ones(len(n)), torch.zeros(len(n)), jet_mass(jets), n], 1)
    with h5py.File(hdf5, "w") as f:
        f["particle_features"] = torch.cat([jets, mask[..., None]], -1).numpy()
        f["jet_features"] = features.float().numpy()


# --- speed


def seconds(device, repeats, run, *arguments, **options):
    """Least (wall, CPU) seconds of `repeats` calls run(*arguments, **options), after one that isn't counted."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter(), time.process_time()
        run(*arguments, **options)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return min(found[1:])


class SelfAttention(nn.Module):
    """Yardstick for the cost figure: as many blocks of ordinary self-attention, each particle with each other."""

    def __init__(self, l, h, blocks, heads):
        super().__init__()
        self.embed, self.out = nn.Linear(3, h), nn.Linear(h, 3)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(h, heads, l, 0.0, batch_first=True)
                                    for _ in range(blocks))

    def forward(self, z, mask):
        x = self.embed(z)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~mask)
        return self.out(x)


@torch.no_grad()
def timing(G, trained, stats, args, device, where):
    """µs a jet over batch sizes; ms a batch of 20 jets over n = 25 … 1,000, beside self-attention. -> timing.*"""
    rng, N, result = torch.Generator().manual_seed(0), trained.num_particles, {"env": environment(device)}
    lines = [f"{result['env']['device']}, torch {result['env']['torch']}, up to {N} particles, n as in the data", "",
             "| batch size | jets | µs a jet, wall | µs a jet, CPU |", "|---|---|---|---|"]
    result["generation"] = []
    for size in (100, 1000, 10_000, 75_000):
        jets = min(args.timing_jets, max(10 * size, 5000))
        n = torch.multinomial(stats["counts"].double(), jets, replacement=True, generator=rng)
        wall, cpu = seconds(device, 2, sample_jets, G, n, N, chunk_size=size)
        result["generation"].append({"batch_size": size, "jets": jets, "us_wall": 1e6 * wall / jets,
                                     "us_cpu": 1e6 * cpu / jets})
        lines.append(f"| {size:,} | {jets:,} | {1e6 * wall / jets:.1f} | {1e6 * cpu / jets:.1f} |")
        print(lines[-1], flush=True)

    attention = SelfAttention(trained.l, trained.h_g, trained.blocks_g, trained.heads_g).to(device).eval()
    result["scaling"] = []
    for n in SCALING:
        z, mask = torch.randn(20, n, 3, device=device), lengths_to_mask(torch.full((20,), n), n).to(device)
        clock = 1 if device.type == "cpu" else 0                         # CPU time: other processes may be running
        row = {"n": n} | {name: 1000 * seconds(device, 5, net, z, mask)[clock]
                          for name, net in (("mdma", G), ("self_attention", attention))}
        result["scaling"].append(row)
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for name, label in (("mdma", "MDMA"), ("self_attention", "self-attention")):
        y = np.array([row[name] for row in result["scaling"]])
        slope = np.polyfit(np.log(SCALING), np.log(y), 1)[0]
        result[f"exponent_{name}"] = slope
        axis.loglog(SCALING, y, "o-", label=f"{label}: n^{slope:.2f}")
    axis.set(xlabel="particles a jet", ylabel="CPU ms for 20 jets" if device.type == "cpu" else "ms for 20 jets")
    axis.legend()
    save_figure(figure, where / "scaling.png")
    lines += ["", f"Cost exponent in n, {SCALING[0]} to {SCALING[-1]:,} particles: MDMA {result['exponent_mdma']:.2f}, "
                  f"self-attention {result['exponent_self_attention']:.2f}"]
    replace_file(where / "timing.md", ("\n".join(lines) + "\n").encode())
    write_json(where / "timing.json", result)
    print(lines[-1])
    print(f"in {where}: timing.md, timing.json, scaling.png")
    return result


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.device)
    if args.twin:
        return twin(args)
    path = checkpoint_path(args.ckpt, "mdma", prefer=("best.pt", "last.pt"))
    if args.slim:
        return slim(path, args.slim)
    G, trained, stats, step = load(path, device)
    N, jet_type = trained.num_particles, trained.jet_type

    def jets(count):
        return generate(G, count, stats, N, torch.Generator().manual_seed(args.seed), args.batch_size).cpu()

    def scores(x):
        onto = device if device.type == "cuda" else "cpu"                # mps has no float64
        return jet_metrics(real.particles.to(onto), x.to(onto), seed=args.seed,
                           fpnd_type=jet_type if args.fpnd else None)

    if args.timing:
        return timing(G, trained, stats, args, device, output_dir(path, "mdma"))
    if args.samples:
        picture = Path(args.grid_out).expanduser()
        draw_jets(jets(args.samples), picture)
        print(f"{args.samples:,} generated jets in {picture}")
        return None
    if args.export:
        folder = Path(args.export).expanduser()
        if folder.is_file() or (folder.exists() and any(folder.iterdir())):
            raise UserError(f"--export {folder} is not empty")
        return export(jets(args.n or 50_000), jet_type, folder)

    print(f"{path}: MDMA, step {step}, {trained.dataset} {jet_type}, up to {N} particles")
    dataset = args.dataset or trained.dataset
    named = dataset in ("jetnet", "pythia")          # an own file has no jet type
    if args.fpnd and not (named and N == 30 and jet_type in FPND_TYPES):
        raise UserError(f"--fpnd: there are statistics for 30 particles of {', '.join(FPND_TYPES)} only. Leave it out")
    data_dir = args.data_dir or trained.data_dir
    if not args.data_dir and not Path(data_dir).expanduser().exists():   # a checkpoint of another machine
        data_dir = "data"
    train, real = (load_jets(dataset, jet_type, N, data_dir, split) for split in ("train", args.split))
    fake = jets(args.n or 20 * len(real))
    if min(len(real), len(fake)) < 10:
        raise UserError(f"{len(real)} real and {len(fake)} generated jets: the metrics need ten of each. Raise --n")
    ours, inside = (scores(x) for x in tqdm((fake, train.particles), desc="metrics", disable=None))
    where = output_dir(path, "mdma")
    text = table1(f"{jet_type}, {dataset}-{N}" if named else str(dataset), jet_type if named else None, ours, inside)
    replace_file(where / "table1.md", text.encode())
    draw_features({f"{args.split} jets": real.particles, "MDMA": fake}, where / "fig2.png")
    draw_jets(torch.cat([real.particles[:8], fake[:8]]), where / "jets.png")
    written = [f"eval_{step}.json", "table1.md", "fig2.png", "jets.png"]
    if log := read_log(path.with_name("log.jsonl")):
        curves(log, [["L_D"], ["L_G", "L_match"], ["w1m_valid"], ["frechet_valid"]], where / "curves.png", smooth=10)
        written.append("curves.png")
    write_json(where / f"eval_{step}.json",
               {"checkpoint": str(path), "step": step, "split": args.split, "real_jets": len(real),
                "generated_jets": len(fake), "train_args": vars(trained), "metrics": ours, "in_sample": inside,
                "env": environment(device)})
    print(text)
    batches = {re.sub(r"disjoint\d+", "disjoint", key): value for key, value in inside.items()}     # IN has fewer
    for key in ours:
        if not key.endswith("_err"):
            error = f" ± {ours[key + '_err']:.2e}" if f"{key}_err" in ours else ""
            found = batches.get(re.sub(r"disjoint\d+", "disjoint", key))
            print(f"{key:34} {ours[key]:.3e}{error}" + (f"   (IN {found:.3e})" if found is not None else ""))
    print(f"in {where}: {', '.join(written)}")
    return ours


if __name__ == "__main__":
    run_main(main)
