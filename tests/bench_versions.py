"""Speed before and after, and of peers, in one run: `python -m tests.bench_versions DIR`.

DIR is another checkout of this repository (`git worktree add DIR COMMIT`). Each row's code runs in
a process of its own, in DIR and here in turn, with one thread; a peer's code runs here. Shown is
the least CPU time of all, and by how much it fell. Let nothing else run, and compare rows of one
run only. Peers that aren't installed are left out (jetnet; torch-fidelity, which `make setup`
doesn't install).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from common.evaluate import markdown_table
from common.runs import environment, replace_file

# Each defines run(), and `units`: what one run makes, of which the time of one is shown.
MDMA_GENERATION = """
import torch
from mdma.eval import load
from mdma.features import generate
G, trained, stats, _ = load("mdma/results/t{N}.pt", "cpu")
units = {jets}
run = lambda: generate(G, units, stats, {N}, torch.Generator().manual_seed(0))
"""
PLAIN_GENERATION = """
import torch
from common.masking import lengths_to_mask
from mdma.model import Generator
from tests.bench_mdma import plain
G = plain(Generator())
units = {jets}
n = torch.normal(63.0, 17.5, (units,)).round().clamp(1, {N}).long()
z, mask = torch.randn(units, {N}, 3), lengths_to_mask(n, {N})
@torch.no_grad()
def run():
    for batch in zip(z.split(500), mask.split(500)):
        G(*batch)
"""
EPIC_GENERATION = """
import torch
from mdma import epic
from mdma.features import sample_jets
G = epic.Generator()
units = {jets}
n = torch.normal(63.0, 17.5, (units,)).round().clamp(1, {N}).long()
run = lambda: sample_jets(G, n, {N})
"""
MDMA_STEP = """
import torch
from mdma.model import Critic, Generator
from tests.bench_mdma import plain, training
{imports}
torch.manual_seed(0)
step = training({networks}{more})
n = torch.normal(63.0, 17.5, (128,)).round().clamp(1, {N}).long().sort().values
mask = torch.arange({N}) < n[:, None]
x = torch.randn(128, {N}, 3)
units = 4
run = lambda: [step(x, mask) for _ in range(units)]
"""
JETS = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, torch
from common.metrics import jets as m
from tests.bench_jets import toy_jets
real, fake = toy_jets(2000, 30, 1), toy_jets(2000, 30, 2)
x, y = m.efps(real, torch.float64), m.efps(fake, torch.float64)
units = 1
"""
JETNET = JETS + "from jetnet.evaluation import gen_metrics as g\nfrom jetnet.utils import efps\n"
FEATURES = """
import torch
from common.metrics import distances as d
torch.manual_seed(0)
x, y = torch.randn(5000, 2048).relu(), torch.randn(5000, 2048).mul(1.1).relu()
units = 1
"""
FIDELITY = FEATURES + (
    "from common.torchvision_cpu import import_torchvision; import_torchvision()\n"
    "from torch_fidelity import metric_fid as fid, metric_kid as kid\n"
)
EGAN = """
import shlex, torch
from egan import train
from tests.bench_egan import generation_ms
units = 5
args = train.parse_args(shlex.split({flags!r}))
run = lambda: generation_ms(args, {kind!r}, torch.device("cpu"), units)
"""
TRAIN = """
import json, pathlib, tempfile
from {folder} import train
folder = tempfile.TemporaryDirectory()
units = 3
def run():
    run.calls = getattr(run, "calls", 0) + 1
    out = pathlib.Path(folder.name) / str(run.calls)
    train.main(f"--out {{out}} --steps {{units}} --log-every 100 {flags}".split())
"""
TOY = "--dataset 8gaussians --mu 4"
IMAGES = (
    "--dataset synthetic --size 32 --channels 3 --mu 4 --width-g 64 --width-d 64 --eval-batch 128"
)


def peer_of(setup, code):
    return f"{setup}\ndef run():\n    {code}\n"


# {what: (unit, factor from seconds to it, ours, a peer's or None, whose)}
ROWS = {}
for N, jets in ((30, 4000), (150, 1500)):
    ours = MDMA_GENERATION.format(N=N, jets=jets)
    for code, whose in ((PLAIN_GENERATION, "plain layers"), (EPIC_GENERATION, "EPiC-GAN")):
        peer = code.format(N=N, jets=jets // 4)
        ROWS[f"mdma, a jet of up to {N} particles; {whose}"] = "µs", 1e6, ours, peer, whose
    ours = MDMA_STEP.format(N=N, more="", imports="", networks="Generator(), Critic()")
    for networks, more, whose in (
        ("plain(Generator()), plain(Critic())", "", "plain layers"),
        ("epic.Generator(), epic.Discriminator()", ", 4", "EPiC-GAN"),
    ):
        imports = "from mdma import epic"
        peer = MDMA_STEP.format(N=N, more=more, imports=imports, networks=networks)
        row = f"mdma, a training step of 128 jets, {N} particles; {whose}"
        ROWS[row] = "ms", 1e3, ours, peer, whose
ROWS |= {
    "all scores of 2,000 + 2,000 jets": (
        "s",
        1,
        JETS + "run = lambda: m.jet_metrics(real, fake, protocols=('bootstrap5',))\n",
        peer_of(
            JETNET,
            "a, b = (efps(j.numpy(), efpset_args=[('d<=', 4)], efp_jobs=1) for j in (real, fake)); "
            "g.w1m(real, fake, 2000); g.w1p(real, fake, num_eval_samples=2000); "
            "g.w1efp(real, fake, num_eval_samples=2000, efp_jobs=1); "
            "g.kpd(a, b); g.fpd(a, b, 800, 2000)",
        ),
        "jetnet",
    ),
    "KPD of 2,000 + 2,000 jets' EFPs": (
        "s",
        1,
        JETS + "run = lambda: m.kpd(x, y)\n",
        peer_of(JETNET, "g.kpd(x.numpy(), y.numpy())"),
        "jetnet",
    ),
    "FPD of 2,000 + 2,000 jets' EFPs": (
        "s",
        1,
        JETS + "run = lambda: m.fpd(x, y)\n",
        peer_of(JETNET, "g.fpd(x.numpy(), y.numpy(), 800, 2000)"),
        "jetnet",
    ),
    "W1P of 2,000 + 2,000 jets, five draws": (
        "s",
        1,
        JETS
        + "draws = m.bootstrap(2000, 2000, 2000, np.random.default_rng(0))\n"
        + "run = lambda: m.w1p(real, fake, draws)\n",
        peer_of(JETNET, "g.w1p(real, fake, num_eval_samples=2000)"),
        "jetnet",
    ),
    "KID of 5,000 + 5,000 x 2,048 features, 20 subsets": (
        "s",
        1,
        FEATURES + "run = lambda: d.kernel_inception_distance(x, y, subsets=20)\n",
        peer_of(
            FIDELITY,
            "kid.kid_features_to_metric(x, y, kid_subsets=20, kid_subset_size=1000, verbose=False)",
        ),
        "torch-fidelity",
    ),
    "FID of 5,000 + 5,000 x 2,048 features": (
        "s",
        1,
        FEATURES + "run = lambda: d.frechet_distance(*d.moments(x), *d.moments(y))\n",
        peer_of(
            FIDELITY,
            "fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(f) for f in (x, y)), False)",
        ),
        "torch-fidelity",
    ),
    "E-GAN, a generation at μ = 4, eight Gaussians": (
        "ms",
        1e3,
        EGAN.format(flags=TOY, kind="batch"),
        EGAN.format(flags=TOY, kind="loop"),
        "plain loop",
    ),
    "E-GAN, a generation at μ = 4, 32x32 RGB": (
        "ms",
        1e3,
        EGAN.format(flags=IMAGES, kind="shared-loop"),
        EGAN.format(flags=IMAGES, kind="loop"),
        "plain loop",
    ),
    "sagan_wgangp, three steps at 64x64 RGB, start and end counted": (
        "s",
        1,
        TRAIN.format(
            folder="sagan_wgangp",
            flags="--dataset synthetic --channels 3 --size 64 --batch-size 16 --n-critic-warm 0",
        ),
        None,
        "",
    ),
}

CHILD = """
import time
best = 1e9
for call in range({repeats} + 1):
    start = time.process_time()
    run()
    if call:
        best = min(best, time.process_time() - start)
print("seconds", best / units)
"""


def seconds(code, checkout, repeats):
    """Least CPU seconds per unit of `code` in a checkout; None where a peer isn't installed."""
    env = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if checkout == Path():  # as the Makefile has it now
        env |= {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
    result = subprocess.run(
        [sys.executable, "-c", code + CHILD.format(repeats=repeats)],
        cwd=checkout,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        missing = "ModuleNotFoundError: No module named"
        if missing in result.stderr and any(p in result.stderr for p in ("jetnet", "fidelity")):
            return None
        raise SystemExit(f"in {checkout}:\n{code}\n{result.stderr}")
    return float(result.stdout.split("seconds")[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("--only", default="", help="rows whose name has this")
    parser.add_argument("--repeats", type=int, default=5, help="calls in each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes per cell, in turn")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_versions.json"))
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    columns = ["", "before", "now", "faster", "peer", "peer / now"]
    rows, found = [], {"env": environment(torch.device("cpu")), "rows": {}}
    for what, (unit, factor, ours, peer, whose) in ROWS.items():
        if args.only not in what:
            continue
        cells = {"before": (ours, args.before), "now": (ours, Path()), "peer": (peer, Path())}
        times = {name: [] for name in cells}
        for _ in range(args.rounds):
            for name, (code, checkout) in cells.items():
                time = seconds(code, checkout, args.repeats) if code else None
                times[name] += [] if time is None else [time]
        least = {name: min(found) if found else None for name, found in times.items()}
        found["rows"][what] = least | {"peer_is": whose, "unit": "s"}
        shown = {n: "–" if t is None else f"{factor * t:.3g} {unit}" for n, t in least.items()}
        against = least["peer"] and least["peer"] / least["now"]
        rows.append(
            [
                what,
                shown["before"],
                shown["now"],
                f"{least['before'] / least['now']:.2f}x",
                f"{shown['peer']} ({whose})" if whose else "–",
                f"{against:.2f}" if against else "–",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    print(markdown_table(columns, rows), f"load {os.getloadavg()[0]:.1f}", sep="\n")
    replace_file(args.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
