"""MDMA's speed beside plain layers, in one run: `python -m tests.bench_mdma`. Let nothing else run.

Plain is what the authors' code computes (which itself is not here): nn.MultiheadAttention with a key and a value for
each particle, a concatenation of each particle with the mean field, each jet padded to N. Ours: keys and values never
formed, no concatenation, jets sorted by n and padded to the largest n of their batch. Same weights, same jets to
rounding; numbers of particles as of top jets (63 ± 17.5, cut at N).
"""

import argparse
import os
import time

import torch
from torch import nn
from torch.nn import functional as F

from common.device import fused_adam
from common.masking import lengths_to_mask
from mdma.jets import bucketed_indices
from mdma.model import (
    Critic,
    Generator,
    MeanFieldAttention,
    lsgan_critic_loss,
    lsgan_generator_loss,
    mean_field_matching,
    sample_jets,
)


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

        def update(h, c, block=block):
            pairs = torch.cat([h, c[:, None].expand(-1, h.shape[1], -1)], dim=2)
            return block.act(F.linear(pairs, block.out.weight, block.out.bias))

        block.update = update
    copy.load_state_dict(net.state_dict())
    return copy


def training(G, D):
    """One step of LSGAN with mean-field matching, as train.py's."""
    opt_G = fused_adam(G.parameters(), torch.device("cpu"), lr=1e-4, betas=(0.0, 0.999), eps=1e-14)
    opt_D = torch.optim.AdamW(
        D.parameters(), lr=1e-4, betas=(0.0, 0.999), eps=1e-14, weight_decay=0.01, fused=True
    )

    def step(x, mask):
        fake = G(torch.randn_like(x), mask)
        scores, fields = D(torch.cat([x, fake.detach()]), torch.cat([mask, mask]))
        L_D = lsgan_critic_loss(*scores.chunk(2))
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


def seconds(run, repeats):
    """Least wall seconds of `repeats` calls after one that isn't counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jets", type=int, default=5000, help="to generate")
    parser.add_argument("--batch-size", type=int, default=1000, help="of the plain generation")
    parser.add_argument("--steps", type=int, default=20, help="training steps of 128 jets")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
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
        theirs = seconds(generate, args.repeats)
        ours = seconds(lambda jets=jets, N=N, G=G: sample_jets(G, jets, N), args.repeats)
        row(
            f"generating, {N} particles, µs a jet", 1e6 * theirs / len(jets), 1e6 * ours / len(jets)
        )

        batches = [bucketed_indices(n, 128, 0, step) for step in range(args.steps)]
        x, mask = torch.randn(len(n), N, 3), lengths_to_mask(n, N)
        plain_step, our_step = training(G_plain, D_plain), training(G, D)

        def train(step, trim, batches=batches, n=n, x=x, mask=mask, N=N):
            for i in batches:
                longest = int(n[i].max()) if trim else N
                step(x[i, :longest], mask[i, :longest])

        theirs, ours = (
            seconds(lambda step=step, trim=trim: train(step, trim), args.repeats) / args.steps
            for step, trim in ((plain_step, False), (our_step, True))
        )
        row(f"training, {N} particles, ms a step", 1e3 * theirs, 1e3 * ours)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
