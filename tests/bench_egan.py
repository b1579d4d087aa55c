"""Milliseconds per generation of E-GAN's populations: `python -m tests.bench_egan --threads 1`.

A generation here is Algorithm 1's lines 8-17, without D's steps. Medians over 15 after two, in CPU
time and in wall time: on a machine that does other things, too, the first is the better one (with
one thread). "operations": of shared-loop, which batch has, too, over loop's, the floor of the ratio
where products set the time. Writes timing.md and timing.json under --out. Images, e.g.:

  python -m tests.bench_egan --threads 1 --out runs/egan/timing-images --train-flags
    "--dataset fashion-mnist --width-g 32 --width-d 32 --n-d 1 --eval-batch 64 --init he"
"""

import argparse
import shlex
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.device import autocast, choose_device, fused_adam
from common.evaluate import markdown_table
from common.runs import environment, replace_file, write_json
from egan import train
from egan.model import MUTATIONS, fitness, select
from egan.population import POPULATIONS
from egan.samples import sample_z

VERSIONS = ("loop", "shared-loop", "batch")


def generation(args, version, device):
    """A function that runs the next generation: offspring, mutation, fitness, survivors.

    args: of egan.train; version: a name of POPULATIONS.
    """
    data, mutations = train.load_data(args), [MUTATIONS[name] for name in args.mutations]
    args.channels = getattr(data, "channels", None)
    networks, D = train.build(args)
    layout = torch.contiguous_format
    if args.amp == "bf16" and args.channels:
        layout = torch.channels_last
    D = D.to(device, memory_format=layout)
    population = POPULATIONS[version](
        [G.to(device, memory_format=layout) for G in networks],
        adam=lambda p: fused_adam(p, device, lr=1e-4),
        context=lambda: autocast(device, args.amp),
    )
    rng = torch.Generator().manual_seed(0)
    x, _ = data.batch(0, args.eval_batch, 0, device)
    x = x.contiguous(memory_format=layout)
    z = sample_z((args.mu * len(mutations), args.batch_size), args, rng).to(device)
    z_F = sample_z((args.eval_batch,), args, rng).to(device)

    def run():
        nonlocal population
        children = population.offspring(len(mutations))
        children.mutate(D, z, mutations)
        places = select(fitness(*children.evaluate(D, x, z_F), args.gamma), args.mu)
        population = children.survivors(places)

    return run


def generation_ms(args, version, device, n=17):
    """(CPU, wall) milliseconds of a generation."""
    run = generation(args, version, device)
    times = []
    for _ in range(n):
        start = time.process_time(), time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return [1000 * float(t) for t in np.median(times[2:], 0)]


def operations(args, version):
    """Operations of the matrix products and convolutions of a generation."""
    run = generation(args, version, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/egan/timing"))
    parser.add_argument("--mu", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--train-flags", default="", help="of egan.train, in quotes")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    train_flags, rows = shlex.split(args.train_flags), []
    for names in (["minimax"], list(MUTATIONS)):
        for mu in args.mu:
            flags = [*train_flags, "--mu", str(mu), "--mutations", *names]
            row = {"mu": mu, "mutations": len(names)}
            shared, plain = (
                operations(train.parse_args(flags), v) for v in ("shared-loop", "loop")
            )
            row["operations"] = shared / plain
            for version in VERSIONS:
                row[version] = generation_ms(train.parse_args(flags), version, device)
            rows.append(row)
            print(row, flush=True)
    columns = [
        "μ",
        "mutations",
        *(f"{v}: ms CPU (wall)" for v in VERSIONS),
        "batch / loop",
        "operations",
    ]
    cells = [
        [row["mu"], row["mutations"]]
        + ["{:.1f} ({:.1f})".format(*row[version]) for version in VERSIONS]
        + [f"{row['batch'][0] / row['loop'][0]:.2f}", f"{row['operations']:.2f}"]
        for row in rows
    ]
    env = environment(device)
    used = f"train flags: {shlex.join(train_flags) or 'none'}"
    text = f"{env['device']}, torch {env['torch']}, {used}\n\n{markdown_table(columns, cells)}"
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(args.out / "timing.md", text.encode())
    write_json(args.out / "timing.json", {"env": env, "flags": train_flags, "rows": rows})
    print(text)
    return rows


if __name__ == "__main__":
    main()
