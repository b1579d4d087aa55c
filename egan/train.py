"""Train E-GAN. Run from the repository's root:

  python -m egan.train                                 8 Gaussians, the paper's (CPU: 2 to 3 hours)
  python -m egan.train --quick                         smaller, as E-GAN-GP: minutes on a CPU
  python -m egan.train --dataset 25gaussians --gamma 0
  python -m egan.train --mutations minimax             one mutation and μ = 1: that loss's plain GAN
  python -m egan.train --dataset cifar10 --mu 4        images (a GPU's work); also fashion-mnist, …
  python -m egan.train --mutations wasserstein --clip 0.01     no E-GAN: WGAN, a row of the tables
  python -m egan.train --resume DIR                    go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m egan.train …     each computes half of the children

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import os
import sys
from dataclasses import dataclass, field
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m egan.train", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import ImageRunArgs
from common.cli import run_main
from common.data import DATASETS, load_images
from common.device import autocast, check_batch_norm, choose_device, fused_adam
from common.distributed import average_gradients, init_processes
from common.errors import UserError
from common.plots import curves
from common.rng import seed_all, step_rng
from common.runs import Run, read_log
from common.toys import MIXTURES, mixture

from .model import (
    MUTATIONS,
    ConvDiscriminator,
    ConvGenerator,
    ToyDiscriminator,
    ToyGenerator,
    clip_weights,
    discriminator_loss,
    fitness,
    gradient_penalty,
    select,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)
from .population import POPULATIONS, Spread
from .samples import Progress, draw_samples, panels, sample_z

GENERATOR_LOSSES = MUTATIONS | {"wasserstein": wasserstein_generator_loss}


@dataclass
class Args(ImageRunArgs):
    # --- paper (defaults: the toys'; with images those of Algorithm 1, CIFAR-10)
    mu: int = 1  # μ, parents (Table III: 1, 2, 4, 8)
    # each parent has one child per mutation. wasserstein: no E-GAN but the tables' WGAN, alone and
    # with its own loss of D; needs --clip or --gp
    mutations: list[Literal[*GENERATOR_LOSSES]] = field(default_factory=lambda: list(MUTATIONS))
    # random: not in the paper, an ablation
    selection: Literal["fitness", "random"] = "fitness"
    # γ, weight of F_d (Table II: 0.5, there called λ; images 0.01: not given, the authors' code)
    gamma: float = 0.5
    n_d: int = 1  # n_D, discriminator steps per generation (Algorithm 1: 3; toys 1: authors' code)
    # real and generated samples that fitness is measured on (not given; the authors' code)
    eval_batch: int = 256
    # λ_GP, gradient penalty in D's loss, 0: none (Table III's E-GAN-GP; its weight is not given,
    # the authors' code uses 2 and 10)
    gp: float = 0.0
    # D's weights are clipped to ±this after each of its steps, 0: not (the tables' WGAN; Arjovsky
    # et al. 2017: 0.01)
    clip: float = 0.0
    z_dim: int = 2  # N_z; z is uniform on [-1, 1] (authors' code)
    # units per layer; images: filters at half size (authors' code: 512; 128). Weak G: fewer
    width_g: int = 512
    width_d: int = 512  # the same of D; images: of its first layer
    d_norm: Literal["batch", "none"] = "batch"  # D's normalisation (authors' code)
    init: Literal["normal", "he"] = "normal"  # normal: N(0, 0.02²) (authors' code)
    lr_g: float = 1e-4  # Adam's α for G (Algorithm 1: 2e-4; toys: authors' code)
    lr_d: float = 1e-4  # Adam's α for D (the same)
    beta1: float = 0.5  # Adam's β₁ for G, in [0, 1) (Algorithm 1)
    beta1_d: float = 0.0  # Adam's β₁ for D, in [0, 1) (Algorithm 1: 0.5; toys: authors' code)
    beta2: float = 0.999  # Adam's β₂, in [0, 1) (authors' code; Algorithm 1 prints 0.99)
    size: int = 32  # image side: 8, 16, 32, 64 and so on, doubling
    channels: Literal[1, 3] | None = None  # none: the data set's own

    # --- run
    dataset: Literal[*MIXTURES, *DATASETS, "synthetic"] = "8gaussians"  # data to train on
    steps: int = 100_000  # generations (authors' code)
    batch_size: int = 64  # m (Algorithm 1: 32; toys: authors' code)
    # images: at each --sample-every, FID and IS of this many samples of the fittest, against the
    # test split; 0: none, else at least 2; in [0, ∞)
    fid_samples: int = 0
    # how children are computed; auto: shared-loop for images on a CPU, else batch
    population: Literal["auto", *POPULATIONS] = "auto"


IMAGES = dict(
    width_g=128,
    width_d=128,
    z_dim=100,
    batch_size=32,
    n_d=3,
    lr_g=2e-4,
    lr_d=2e-4,
    beta1_d=0.5,
    gamma=0.01,
)
QUICK = dict(
    width_g=128,
    width_d=128,
    init="he",
    d_norm="none",
    lr_g=5e-4,
    lr_d=5e-4,
    steps=8000,
    gp=1.0,  # without it modes are lost: see README
)
SMOKE = dict(
    width_g=16,
    width_d=16,
    size=8,
    batch_size=8,
    eval_batch=16,
    steps=12,
    log_every=2,
    sample_every=6,
    save_every=6,
)
PRESETS = {
    "dataset": {name: IMAGES for name in (*DATASETS, "synthetic")},
    "quick": {True: QUICK},
    "smoke": {True: SMOKE},
}


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, PRESETS)
    args.mutations = [name for name in GENERATOR_LOSSES if name in args.mutations]
    if "wasserstein" in args.mutations and len(args.mutations) > 1:
        raise UserError(
            "--mutations wasserstein is a baseline with its own loss of D: "
            "leave the other mutations out"
        )
    if "wasserstein" in args.mutations and not (args.clip or args.gp):
        raise UserError(
            "--mutations wasserstein needs a bounded D: --clip 0.01 (WGAN) or "
            "--gp 10 --d-norm none (WGAN-GP)"
        )
    if args.batch_size % args.mu:
        raise UserError(
            f"--batch-size {args.batch_size} can't be shared evenly by --mu {args.mu} parents"
        )
    if args.gp and args.d_norm == "batch":
        raise UserError(
            "--gp needs --d-norm none: under BatchNorm a single sample has no gradient of its own"
        )
    if args.quick and args.dataset not in MIXTURES:
        raise UserError(
            f"--quick is a toy problem: give --dataset {' or '.join(MIXTURES)}. For images "
            "leave --quick out, and give smaller --width-g, --width-d and --steps"
        )
    if args.fid_samples == 1:
        raise UserError("--fid-samples 1: must be 0 or at least 2, which a covariance needs")
    children, world = args.mu * len(args.mutations), int(os.environ.get("WORLD_SIZE", 1))
    if world > children:
        raise UserError(
            f"{world} processes and {children} children: start {children} at most, or raise --mu"
        )
    return args


def load_data(args, split="train"):
    """What is trained on: it has batch(step, batch_size, seed, device)."""
    if args.dataset in MIXTURES:
        return mixture(args.dataset)
    return load_images(
        args.dataset,
        args.data_dir,
        split,
        size=args.size,
        channels=args.channels,
        skip_bad=getattr(args, "skip_bad", False),
    )


def build(args):
    """G_θ of the μ parents and D_w of a run, from its arguments alone."""
    if args.dataset in MIXTURES:
        parents = [ToyGenerator(args.z_dim, args.width_g, args.init) for _ in range(args.mu)]
        return parents, ToyDiscriminator(args.width_d, args.d_norm, args.init)
    image, init = (args.size, args.channels), args.init
    try:
        parents = [ConvGenerator(args.z_dim, *image, args.width_g, init) for _ in range(args.mu)]
        return parents, ConvDiscriminator(*image, args.width_d, args.d_norm, init)
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None


def rank_without_fitness(mu, n_m, rng):
    """Scores (μ·n_m,) in F's place: by lot, or with one mutation in the order of the parents."""
    if n_m == 1:
        return -torch.arange(mu).float()
    return -torch.randperm(mu * n_m, generator=rng).argsort().float()


def main(argv=None):
    args = parse_args(argv)
    toy = args.dataset in MIXTURES
    wgan = args.mutations == ["wasserstein"]
    mu, n_m, m, n_D = args.mu, len(args.mutations), args.batch_size, args.n_d
    mutations = [GENERATOR_LOSSES[name] for name in args.mutations]
    D_loss = wasserstein_discriminator_loss if wgan else discriminator_loss

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    data, test_set = load_data(args), None
    if not toy:
        args.channels = data.to(device).channels
        if args.fid_samples and rank == 0:
            test_set = load_data(args, "test")
    progress = Progress(args, device, test_set)

    # --- networks and optimisers (Algorithm 1, "Require")
    parents, D = build(args)
    layout = torch.contiguous_format
    if args.amp == "bf16" and not toy:
        layout = torch.channels_last
    D.to(device, memory_format=layout)
    kind = args.population
    if kind == "auto":
        kind = "batch" if toy or device.type != "cpu" else "shared-loop"
    population = POPULATIONS[kind](
        [G.to(device, memory_format=layout) for G in parents],
        adam=lambda p: fused_adam(p, device, lr=args.lr_g, betas=(args.beta1, args.beta2)),
        context=lambda: autocast(device, args.amp),
    )
    if world > 1:
        population = Spread(population)
    opt_D = fused_adam(D.parameters(), device, lr=args.lr_d, betas=(args.beta1_d, args.beta2))
    selected = torch.zeros(n_m)  # survivors of each mutation since the last line of the log
    shape = (2,) if toy else (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", m, 1, (D, shape))
    check_batch_norm("--eval-batch", args.eval_batch, 1, (D, shape))

    # --- resume
    run = Run("egan", args, device, rank, {} if toy else data.identity())
    start, values = run.resume(population=population, D=D, opt_D=opt_D)
    selected = values.get("selected", selected)
    run.announce(
        f"E-GAN, μ = {mu}, mutations {', '.join(args.mutations)}, γ = {args.gamma}, "
        f"selection by {args.selection}, on {args.dataset}"
        + ("" if toy else f" ({len(data):,} images)")
        + f", {device} ({kind}): "
        f"generations {start + 1} to {args.steps} of {mu * n_m} children"
    )

    # --- Algorithm 1 (line 1)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, n_D * m + args.eval_batch, args.seed, device)
        x = x.contiguous(memory_format=layout)
        x_D, x_F = x[: n_D * m], x[n_D * m :]  # fitness: on what D has not seen (departure 12)

        for x_k in x_D.split(m):  # lines 2-3, departure 1
            z = sample_z((mu, m // mu), args, rng).to(device)  # m/μ for each parent (departure 3)
            fake = population.sample(z).flatten(0, 1)  # (m, …)
            with autocast(device, args.amp):
                real_logits, fake_logits = D(x_k).float(), D(fake).float()
            L_D = D_loss(real_logits, fake_logits)  # lines 4-5, departure 2
            opt_D.zero_grad()
            L_D.backward()
            if args.gp:  # E-GAN-GP
                epsilon = torch.rand(m, generator=rng).to(device)
                (args.gp * gradient_penalty(D, x_k, fake, epsilon)).backward()
            average_gradients(D)  # all processes take all of D's steps: this keeps D the same
            opt_D.step()  # line 6
            if args.clip:  # WGAN
                clip_weights(D, args.clip)

        # Lines 8-15 for all children at once: each has its own noise to learn from, and their
        # fitness is measured on a second z that all of them share.
        z = sample_z((mu * n_m, m), args, rng).to(device)  # line 10
        children = population.offspring(n_m)  # lines 8-9
        losses = children.mutate(D, z, mutations)  # lines 11-12
        healthy = losses.isfinite() & children.healthy()  # departure 16

        # Line 13. By lot, or with one mutation, F_q and F_d decide nothing and are only logged.
        by_fitness = args.selection == "fitness" and n_m > 1
        z_F = sample_z((args.eval_batch,), args, rng).to(device)
        # asked once: a signal may come before the line of the log is written
        judged = by_fitness or (run.due(step, args.log_every) and not wgan)
        if judged:
            F_q, F_d = children.evaluate(D, x_F, z_F)
        if by_fitness:
            F = fitness(F_q, F_d, args.gamma)
        else:
            F = rank_without_fitness(mu, n_m, rng).to(device)
        F = F.where(healthy, torch.nan)
        if not F.isfinite().any():
            raise UserError(
                f"step {step}: no child has finite loss, weights and fitness, and L_D is "
                f"{float(L_D.detach()):.4g}. {run.last_good()}"
            )
        places = select(F, mu)  # line 16
        population = children.survivors(places)  # line 17
        mutation = places.cpu() % n_m  # child j·n_m + h: parent j, mutation h
        selected += torch.bincount(mutation, minlength=n_m)

        # --- log, sample, save
        logged = {"L_D": L_D.detach()}
        if judged:
            logged |= {"F_q": F_q[places[0]], "F_d": F_d[places[0]]}
        run.check(step, **logged)
        if run.due(step, args.sample_every) and rank == 0:
            samples = progress.samples(population).cpu()
            run.check(step, samples=samples)
            picture = run.dir / "samples" / f"step_{step:08d}.png"
            draw_samples(samples, args.dataset, picture, f"generation {step}")
            logged |= progress.scores(population, samples, run, step)
        shares = selected / selected.sum()
        logged |= {f"selected_{name}": share for name, share in zip(args.mutations, shares)}
        run.log(step, **logged)
        if step % args.log_every == 0:
            selected = torch.zeros(n_m)
        if run.due(step, args.save_every):
            run.save(step, population=population, D=D, opt_D=opt_D, selected=selected)
            if rank == 0:
                log = read_log(run.dir / "log.jsonl")
                curves(log, panels(args), run.dir / "curves.png", smooth=10)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
