"""Milliseconds per generation of E-GAN's populations: `python -m tests.bench_egan --threads 1`.

A generation here is Algorithm 1's lines 8-17, without D's steps. Medians over 15 after two, in CPU
time and in wall time: on a machine that does other things, too, the first is the better one (with
one thread). Writes timing.md and timing.json under --out. Images, e.g.:

  python -m tests.bench_egan --threads 1 --out runs/egan/timing-images --train-flags
    "--dataset fashion-mnist --width-g 32 --width-d 32 --n-d 1 --eval-batch 64 --init he"
"""

import argparse
import shlex
import time
from pathlib import Path

import numpy as np
import torch

from common.device import choose_device, fused_adam
from common.evaluate import markdown_table
from common.runs import environment, replace_file, write_json
from egan import train
from egan.model import MUTATIONS, fitness, select
from egan.population import POPULATIONS
from egan.samples import sample_z

VERSIONS = ("loop", "shared-loop", "batch")


def generation_ms(args, version, device, n=17):
    """(CPU, wall) milliseconds of a generation: offspring, mutation, fitness, survivors.

    args: of egan.train; version: a name of POPULATIONS.
    """
    data, mutations = train.load_data(args), [MUTATIONS[name] for name in args.mutations]
    args.channels = getattr(data, "channels", None)
    networks, D = train.build(args)
    D = D.to(device)
    population = POPULATIONS[version](
        [G.to(device) for G in networks], adam=lambda p: fused_adam(p, device, lr=1e-4)
    )
    rng = torch.Generator().manual_seed(0)
    x, _ = data.batch(0, args.eval_batch, 0, device)
    z = sample_z((args.mu * len(mutations), args.batch_size), args, rng).to(device)
    z_F = sample_z((args.eval_batch,), args, rng).to(device)
    times = []
    for _ in range(n):
        start = time.process_time(), time.perf_counter()
        children = population.offspring(len(mutations))
        children.mutate(D, z, mutations)
        places = select(fitness(*children.evaluate(D, x, z_F), args.gamma), args.mu)
        population = children.survivors(places)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return [1000 * float(t) for t in np.median(times[2:], 0)]


def main(argv=None, mus=(1, 2, 4, 8)):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/egan/timing"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--train-flags", default="", help="of egan.train, in quotes")
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    shared, rows = shlex.split(args.train_flags), []
    for names in (["minimax"], list(MUTATIONS)):
        for mu in mus:
            flags = [*shared, "--mu", str(mu), "--mutations", *names]
            row = {"mu": mu, "mutations": len(names)}
            for version in VERSIONS:
                row[version] = generation_ms(train.parse_args(flags), version, device)
            rows.append(row)
            print(row, flush=True)
    columns = ["μ", "mutations", *(f"{v}: ms CPU (wall)" for v in VERSIONS), "batch / loop"]
    cells = [
        [row["mu"], row["mutations"]]
        + ["{:.1f} ({:.1f})".format(*row[version]) for version in VERSIONS]
        + [f"{row['batch'][0] / row['loop'][0]:.2f}"]
        for row in rows
    ]
    env = environment(device)
    used = f"train flags: {shlex.join(shared) or 'none'}"
    text = f"{env['device']}, torch {env['torch']}, {used}\n\n{markdown_table(columns, cells)}"
    args.out.mkdir(parents=True, exist_ok=True)
    replace_file(args.out / "timing.md", text.encode())
    write_json(args.out / "timing.json", {"env": env, "flags": shared, "rows": rows})
    print(text)
    return rows


if __name__ == "__main__":
    main()
