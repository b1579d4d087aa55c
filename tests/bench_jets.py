"""Jet metrics on one core: ours beside jetnet's and EnergyFlow's, in one run: `python -m tests.bench_jets`.

Needs jetnet. Toy jets of JetNet-like size. CPU time, the best of --repeats. Set OMP_NUM_THREADS=1 and
OPENBLAS_NUM_THREADS=1, so that all have one core; what else runs still takes cache and memory from both.
"""

import argparse
import os
import time
import warnings

import numpy as np
import torch

from common.metrics import jets as m


def toy_jets(count, slots, seed):
    """Top-like numbers of particles (63 ± 17.5, cut at `slots`), steep pt spectrum, hardest first."""
    rng = np.random.default_rng(seed)
    n = np.clip(rng.normal(63, 17.5, count), 5, slots).astype(int)
    pt = np.where(np.arange(slots) < n[:, None], rng.random((count, slots)) ** 4, 0)
    pt = -np.sort(-pt, 1) / pt.sum(1, keepdims=True)
    angles = 0.12 * rng.normal(size=(count, slots, 2))
    return torch.from_numpy(
        np.concatenate([angles, pt[..., None]], 2) * (pt > 0)[..., None]
    ).float()


def seconds(function, repeats):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jets",
        type=int,
        default=1000,
        help="for EFPs, by EnergyFlow; ours have ten times as many",
    )
    parser.add_argument("--size", type=int, default=10_000, help="jets a side for W1, FPD and KPD")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from jetnet.evaluation import gen_metrics
    from jetnet.utils import efps

    print(f"torch {torch.__version__}, 1 thread, load {os.getloadavg()[0]:.1f}")
    print(f"{'':34} {'jetnet':>12} {'ours':>12} {'':>6}")

    def row(what, theirs, ours, unit=""):
        print(
            f"{what:34} {theirs:10.4g} {unit or 's':2} {ours:9.4g} {unit or 's':2} {theirs / ours:6.1f}x   "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )

    for slots in (30, 150):
        jets = toy_jets(10 * args.jets, slots, seed=0)
        for dtype in (torch.float32, torch.float64):
            few = jets[: args.jets].to(dtype).numpy()
            theirs = (
                seconds(
                    lambda few=few: efps(few, efpset_args=[("d<=", 4)], efp_jobs=1), args.repeats
                )
                / args.jets
            )
            ours = seconds(lambda jets=jets, dtype=dtype: m.efps(jets, dtype), args.repeats) / len(
                jets
            )
            row(f"36 EFPs, {slots} particles, {str(dtype)[6:]}", 1e6 * theirs, 1e6 * ours, "µs")
    real, fake = (toy_jets(args.size, 30, seed) for seed in (1, 2))
    draws, size = m.bootstrap(args.size, args.size, args.size, np.random.default_rng(0)), args.size
    row(
        f"W1M, {size} jets",
        seconds(lambda: gen_metrics.w1m(real, fake, size), args.repeats),
        seconds(lambda: m.w1(m.jet_mass(real)[None], m.jet_mass(fake)[None], draws), args.repeats),
    )
    row(
        f"W1P, {size} jets of 30",
        seconds(lambda: gen_metrics.w1p(real, fake, num_eval_samples=size), args.repeats),
        seconds(lambda: m.w1p(real, fake, draws), args.repeats),
    )
    x, y = m.efps(real, torch.float64), m.efps(fake, torch.float64)
    gen_metrics.kpd(x, y, num_batches=1, batch_size=100)  # compiles
    row("KPD from EFPs", seconds(lambda: gen_metrics.kpd(x, y), 1), seconds(lambda: m.kpd(x, y), 1))
    row(
        f"FPD from EFPs, {size * 2 // 5} … {size}",
        seconds(lambda: gen_metrics.fpd(x, y, size * 2 // 5, size), 1),
        seconds(lambda: m.fpd(x, y), 1),
    )


if __name__ == "__main__":
    main()
