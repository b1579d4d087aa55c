"""MDMA's speed, in one run. Let nothing else run.

  python -m tests.bench_mdma                                  beside plain layers
  python -m tests.bench_mdma --ckpt mdma/results/t30.pt       µs per jet, and how the cost grows with n

The second writes timing.md, timing.json and scaling.png beside the checkpoint; of one in results/,
into runs/mdma/<its name>.

Plain is what the authors' code computes (which itself is not here): nn.MultiheadAttention with a key and a value for
each particle, a concatenation of each particle with the mean field, each jet padded to N. Ours: keys and values never
formed, no concatenation, jets sorted by n and padded to the largest n of their batch. Same weights, same jets to
rounding; numbers of particles as of top jets (63 ± 17.5, cut at N).
"""

import argparse
import os
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.device import choose_device, fused_adam
from common.evaluate import checkpoint_path, output_dir
from common.masking import lengths_to_mask
from common.plots import plt, save_figure
from common.runs import environment, replace_file, write_json
from mdma import eval as mdma_eval
from mdma.features import sample_jets
from mdma.jets import bucketed_indices
from mdma.model import (
    Critic,
    Generator,
    MeanFieldAttention,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
    mean_field_matching,
)


SCALING = (25, 50, 100, 200, 400, 700, 1000)  # n of the cost figure


class PlainAttention(nn.MultiheadAttention):
    def forward(self, c, h, mask):
        return super().forward(c[:, None], h, h, key_padding_mask=~mask, need_weights=False)[0][
            :, 0
        ]


def plain(net):
    """The same network by plain layers, with copies of its weights."""
    copy = type(net)()
    for block, ours in zip(copy.blocks, net.blocks):
        attention = PlainAttention(
            block.norm.normalized_shape[0], block.attention.heads, batch_first=True
        )
        if isinstance(net, Critic):
            nn.utils.parametrizations.weight_norm(attention, "in_proj_weight")
        attention.load_state_dict(ours.attention.state_dict())
        block.attention = attention

        def mean_field_to_particles(h, c, block=block):
            if block.out is None:
                return None
            pairs = torch.cat([h, c[:, None].expand(-1, h.shape[1], -1)], dim=2)
            return block.act(F.linear(pairs, block.out.weight, block.out.bias))

        block.mean_field_to_particles = mean_field_to_particles
    copy.load_state_dict(net.state_dict())
    return copy


def training(G, D, more_rows=0):
    """One step of LSGAN with mean-field matching, as train.py's. more_rows: of EPiC-GAN's noise."""
    opt_G = fused_adam(G.parameters(), torch.device("cpu"), lr=1e-4, betas=(0.0, 0.999), eps=1e-14)
    opt_D = torch.optim.AdamW(
        D.parameters(), lr=1e-4, betas=(0.0, 0.999), eps=1e-14, weight_decay=0.01, fused=True
    )

    def step(x, mask):
        fake = G(torch.randn(len(x), more_rows + x.shape[1], 3), mask)
        scores, fields = D(torch.cat([x, fake.detach()]), torch.cat([mask, mask]))
        L_D = lsgan_discriminator_loss(*scores.chunk(2))
        opt_D.zero_grad()
        L_D.backward()
        opt_D.step()
        D.requires_grad_(False)
        score, field = D(fake, mask)
        opt_G.zero_grad()
        (lsgan_generator_loss(score) + mean_field_matching(field, fields.chunk(2)[0])).backward()
        opt_G.step()
        D.requires_grad_(True)

    return step


def seconds(run, repeats, device="cpu"):
    """Least (wall, CPU) seconds of `repeats` calls after one that isn't counted."""
    times = []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times[1:])


# --- µs per jet of a checkpoint, and the cost over n


class SelfAttention(nn.Module):
    """Yardstick: as many blocks of ordinary self-attention, each particle with each other."""

    def __init__(self, l, h, blocks, heads):
        super().__init__()
        self.embed, self.out = nn.Linear(3, h), nn.Linear(h, 3)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(h, heads, l, 0.0, batch_first=True) for _ in range(blocks)
        )

    def forward(self, z, mask):
        x = self.embed(z)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~mask)
        return self.out(x)


@torch.no_grad()
def generation(G, stats, N, most, device):
    """[µs per jet over batch sizes], of at most `most` jets with n as in the data."""
    rng, rows = torch.Generator().manual_seed(0), []
    for size in (100, 1000, 10_000, 75_000):
        jets = min(most, max(10 * size, 5000))
        n = torch.multinomial(stats["counts"].double(), jets, replacement=True, generator=rng)
        run = lambda n=n, size=size: sample_jets(G, n, N, chunk_size=size)
        wall, cpu = seconds(run, 2, device)
        us = {"us_wall": 1e6 * wall / jets, "us_cpu": 1e6 * cpu / jets}
        rows.append({"batch_size": size, "jets": jets, **us})
    return rows


@torch.no_grad()
def scaling(nets, device):
    """[ms for 20 jets over n] of {name: net}; on a CPU its time, as other processes may be running."""
    clock, rows = 1 if device.type == "cpu" else 0, []
    for n in SCALING:
        z = torch.randn(20, n, 3, device=device)
        mask = lengths_to_mask(torch.full((20,), n), n).to(device)
        row = {"n": n}
        for name, net in nets.items():
            run = lambda net=net, z=z, mask=mask: net(z, mask)
            row[name] = 1000 * seconds(run, 5, device)[clock]
        rows.append(row)
    return rows


def timing(ckpt, most, device):
    """The result, which is also written as timing.json, timing.md and scaling.png."""
    path = checkpoint_path(ckpt, "mdma", prefer=("best.pt", "last.pt"))
    G, trained, stats, _ = mdma_eval.load(path, device)
    where, N = output_dir(path, "mdma"), trained.num_particles
    attention = SelfAttention(trained.l, trained.h_g, trained.blocks_g, trained.heads_g)
    nets = {"mdma": G, "self_attention": attention.to(device).eval()}
    result = {
        "env": environment(device),
        "generation": generation(G, stats, N, most, device),
        "scaling": scaling(nets, device),
    }
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for name, label in (("mdma", "MDMA"), ("self_attention", "self-attention")):
        ms = [row[name] for row in result["scaling"]]
        slope = result[f"exponent_{name}"] = np.polyfit(np.log(SCALING), np.log(ms), 1)[0]
        axis.loglog(SCALING, ms, "o-", label=f"{label}: n^{slope:.2f}")
    axis.set(
        xlabel="particles per jet",
        ylabel="CPU ms for 20 jets" if device.type == "cpu" else "ms for 20 jets",
    )
    axis.legend()
    save_figure(figure, where / "scaling.png")
    env = result["env"]
    lines = [
        f"{env['device']}, torch {env['torch']}, up to {N} particles, n as in the data",
        "",
        "| batch size | jets | µs per jet, wall | µs per jet, CPU |",
        "|---|---|---|---|",
    ]
    for row in result["generation"]:
        us = f"{row['us_wall']:.1f} | {row['us_cpu']:.1f}"
        lines.append(f"| {row['batch_size']:,} | {row['jets']:,} | {us} |")
    lines += [
        "",
        f"Cost exponent in n, {SCALING[0]} to {SCALING[-1]:,} particles: "
        f"MDMA {result['exponent_mdma']:.2f}, "
        f"self-attention {result['exponent_self_attention']:.2f}",
    ]
    replace_file(where / "timing.md", ("\n".join(lines) + "\n").encode())
    write_json(where / "timing.json", result)
    print(*lines, f"in {where}: timing.md, timing.json, scaling.png", sep="\n")
    return result


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jets", type=int, default=5000, help="to generate")
    parser.add_argument("--batch-size", type=int, default=1000, help="of the plain generation")
    parser.add_argument("--steps", type=int, default=20, help="training steps of 128 jets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ckpt", help="measure this checkpoint or run directory only")
    parser.add_argument(
        "--timing-jets", type=int, default=500_000, help="the most jets to time of it (§3.1)"
    )
    parser.add_argument("--device", default="auto", help="of --ckpt")
    args = parser.parse_args(argv)
    if args.ckpt:
        return timing(args.ckpt, args.timing_jets, choose_device(args.device))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':36}{'plain':>8}{'ours':>9}")

    def row(what, theirs, ours):
        print(f"{what:36}{theirs:8.1f}{ours:9.1f}{theirs / ours:8.1f}x", flush=True)

    for N in (30, 150):
        torch.manual_seed(0)
        n = torch.normal(63.0, 17.5, (20_000,)).round().clamp(1, N).long()
        G, D = Generator(), Critic()
        G_plain, D_plain = plain(G), plain(D)
        assert type(G.blocks[0].attention) is MeanFieldAttention
        jets = n[: args.jets]
        z, mask = torch.randn(len(jets), N, 3), lengths_to_mask(jets, N)

        @torch.no_grad()
        def generate(z=z, mask=mask, G=G_plain):
            return torch.cat(
                [G(*batch) for batch in zip(z.split(args.batch_size), mask.split(args.batch_size))]
            )

        with torch.no_grad():
            torch.testing.assert_close(generate()[:100], G(z[:100], mask[:100]), rtol=0, atol=1e-5)
        theirs, _ = seconds(generate, args.repeats)
        ours, _ = seconds(lambda jets=jets, N=N, G=G: sample_jets(G, jets, N), args.repeats)
        row(
            f"generating, {N} particles, µs per jet",
            1e6 * theirs / len(jets),
            1e6 * ours / len(jets),
        )

        batches = [bucketed_indices(n, 128, 0, step) for step in range(args.steps)]
        x, mask = torch.randn(len(n), N, 3), lengths_to_mask(n, N)
        plain_step, our_step = training(G_plain, D_plain), training(G, D)

        def train(step, trim, batches=batches, n=n, x=x, mask=mask, N=N):
            for i in batches:
                longest = int(n[i].max()) if trim else N
                step(x[i, :longest], mask[i, :longest])

        theirs, ours = (
            seconds(lambda step=step, trim=trim: train(step, trim), args.repeats)[0] / args.steps
            for step, trim in ((plain_step, False), (our_step, True))
        )
        row(f"training, {N} particles, ms per step", 1e3 * theirs, 1e3 * ours)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
