"""Train E-GAN. Run from the repository's root:

  python -m egan.train                                 8 Gaussians as in the paper (an hour or two on one CPU core)
  python -m egan.train --quick                         smaller, as E-GAN-GP: some minutes
  python -m egan.train --dataset 25gaussians --gamma 0
  python -m egan.train --mutations minimax             one mutation and μ = 1: the plain GAN of that loss
  python -m egan.train --dataset cifar10 --mu 4        images (a GPU's work); also fashion-mnist, celeba, folder
  python -m egan.train --mutations wasserstein --clip 0.01         no E-GAN: WGAN, a row of the paper's tables
  python -m egan.train --resume DIR                    go on, exactly where last.pt stands

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import functools
import os
import sys
from pathlib import Path

import torch

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common.cli import UserError, add_run_args, check_ranges, fid_samples, new_parser, parse, positive_int, run_main
from common.data import DATASETS, load_images
from common.device import autocast, check_batch_norm, choose_device, fused_adam, seed_all, step_rng
from common.metrics.images import Tracker
from common.metrics.toy import MIXTURES, mixture, mmd2, mode_metrics
from common.plots import curves, densities, save_grid
from common.runs import Run, read_log

from .model import (MUTATIONS, ConvDiscriminator, ConvGenerator, ToyDiscriminator, ToyGenerator, clip_weights,
                    discriminator_loss, fitness, gradient_penalty, select, wasserstein, wasserstein_discriminator_loss)
from .population import POPULATIONS

IMAGES = dict(width_g=128, width_d=128, z_dim=100, batch_size=32, n_d=3, lr_g=2e-4, lr_d=2e-4, beta1_d=0.5, gamma=0.01)
SMALL = dict(width_g=128, width_d=128, init="he", d_norm="none", lr_g=5e-4, lr_d=5e-4)
PRESETS = {
    "dataset": {name: IMAGES for name in DATASETS + ("synthetic",)},
    "quick": {True: SMALL | dict(steps=8000, gp=1.0)},         # without the penalty modes are lost: see README
    "smoke": {True: dict(width_g=16, width_d=16, size=8, batch_size=8, eval_batch=16, steps=12, log_every=2,
                         sample_every=6, save_every=6)},
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group("paper (defaults: the toys'; with images those of Algorithm 1, CIFAR-10)")
    paper.add_argument("--mu", type=positive_int, default=1, help="μ, parents (Table III: 1, 2, 4, 8)")
    paper.add_argument("--mutations", nargs="+", choices=(*MUTATIONS, "wasserstein"), default=list(MUTATIONS),
                       help="each parent has one child per mutation. wasserstein: no E-GAN but the tables' WGAN, "
                       "alone and with its own loss of D; needs --clip or --gp")
    paper.add_argument("--selection", choices=("fitness", "random"), default="fitness",
                       help="random: not in the paper, an ablation")
    paper.add_argument("--gamma", type=float, default=0.5, help="γ, weight of F_d (Table II: 0.5, there called λ; "
                       "images 0.01: not given; the authors' code uses)")
    paper.add_argument("--n-d", type=positive_int, default=1,
                       help="n_D, discriminator steps a generation (Algorithm 1: 3; toys 1: the authors' code)")
    paper.add_argument("--eval-batch", type=positive_int, default=256,
                       help="real and generated samples that fitness is measured on (not given; the authors' code)")
    paper.add_argument("--gp", type=float, default=0.0, metavar="λ_GP", help="gradient penalty in D's loss, 0: none "
                       "(Table III's E-GAN-GP; weight not given; the authors' code uses 2 and 10)")
    paper.add_argument("--clip", type=float, default=0.0, metavar="C", help="D's weights are clipped to [-C, C] after "
                       "each of its steps, 0: not (the tables' WGAN; Arjovsky et al. 2017: 0.01)")
    paper.add_argument("--z-dim", type=positive_int, default=2, help="N_z; z is uniform in [-1, 1] (authors' code)")
    paper.add_argument("--width-g", type=positive_int, default=512, help="units a layer; images: filters "
                       "at half size (authors' code: 512; 128). Weak G: fewer")
    paper.add_argument("--width-d", type=positive_int, default=512, help="the same of D; images: of its first layer")
    paper.add_argument("--d-norm", choices=("batch", "none"), default="batch", help="D's normalisation (authors' code)")
    paper.add_argument("--init", choices=("normal", "he"), default="normal", help="normal: N(0, 0.02²) (authors' code)")
    paper.add_argument("--lr-g", type=float, default=1e-4, help="Adam's α for G (Algorithm 1: 2e-4; toys: the code)")
    paper.add_argument("--lr-d", type=float, default=1e-4, help="Adam's α for D")
    paper.add_argument("--beta1", type=float, default=0.5, help="Adam's β₁ for G (Algorithm 1)")
    paper.add_argument("--beta1-d", type=float, default=0.0, help="Adam's β₁ for D (Algorithm 1: 0.5; toys: the code)")
    paper.add_argument("--beta2", type=float, default=0.999, help="Adam's β₂ (authors' code; Algorithm 1 prints 0.99)")
    paper.add_argument("--size", type=int, default=32, help="image side: 32, 64, 128")
    paper.add_argument("--channels", type=int, choices=(1, 3), help="none: the data set's own")
    add_run_args(parser, datasets=MIXTURES + DATASETS + ("synthetic",), dataset="8gaussians", steps=100_000,
                 batch_size=64, steps_help="generations (authors' code: 100,000)",
                 batch_help="m (Algorithm 1: 32; toys: authors' code)")
    parser.add_argument("--fid-samples", type=fid_samples, default=0, metavar="N", help="images: at each "
                        "--sample-every, FID of N samples of the fittest, against the test split. 0: not")
    parser.add_argument("--population", choices=("auto",) + tuple(POPULATIONS), default="auto",
                        help="how children are computed; auto: shared-loop for images on a CPU, else batch")
    args = parse(parser, argv, PRESETS)
    check_ranges(args, gamma=(0, None), gp=(0, None), clip=(0, None), lr_g=(0, None), lr_d=(0, None),
                 beta1=(0, 0.999999), beta1_d=(0, 0.999999), beta2=(0, 0.999999))
    args.mutations = [name for name in (*MUTATIONS, "wasserstein") if name in args.mutations]
    if "wasserstein" in args.mutations and len(args.mutations) > 1:
        raise UserError("--mutations wasserstein is a baseline with its own loss of D: "
                        "leave the other mutations out")
    if "wasserstein" in args.mutations and not (args.clip or args.gp):
        raise UserError("--mutations wasserstein needs a bounded D: --clip 0.01 (WGAN) or "
                        "--gp 10 --d-norm none (WGAN-GP)")
    if args.batch_size % args.mu:
        raise UserError(f"--batch-size {args.batch_size} can't be shared evenly by --mu {args.mu} parents")
    if args.gp and args.d_norm == "batch":
        raise UserError("--gp needs --d-norm none: under BatchNorm a single sample has no gradient of its own")
    if args.quick and args.dataset not in MIXTURES:
        raise UserError(f"--quick is a toy problem: choose --dataset {' or '.join(MIXTURES)}")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("E-GAN's population lives in one process: start it without torchrun")
    return args


def load_data(args, split="train"):
    """What is trained on: it has batch(step, batch_size, seed, device)."""
    if args.dataset in MIXTURES:
        return mixture(args.dataset)
    return load_images(args.dataset, args.data_dir, split, size=args.size, channels=args.channels,
                       skip_bad=getattr(args, "skip_bad", False))


def build(args):
    """G_θ of the μ parents and D_w of a run, from its arguments alone."""
    if args.dataset in MIXTURES:
        return ([ToyGenerator(args.z_dim, args.width_g, args.init) for _ in range(args.mu)],
                ToyDiscriminator(args.width_d, args.d_norm, args.init))
    try:
        return ([ConvGenerator(args.z_dim, args.size, args.channels, args.width_g, args.init) for _ in range(args.mu)],
                ConvDiscriminator(args.size, args.channels, args.width_d, args.d_norm, args.init))
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None


def sample_z(*shape, args, rng):
    """z (…, N_z), uniform in [-1, 1]."""
    return torch.rand(*shape, args.z_dim, generator=rng) * 2 - 1


def main(argv=None):
    args = parse_args(argv)
    toy, n_m, m = args.dataset in MIXTURES, len(args.mutations), args.batch_size

    # --- setup
    device = choose_device(args.device)
    seed_all(args.seed)

    # --- data
    data = load_data(args)
    if not toy:
        args.channels = data.to(device).channels
        if args.fid_samples:
            track = Tracker(load_data(args, "test"), args.dataset, device, args.data_dir, "auto")
    z_of = functools.partial(sample_z, args=args)

    # --- networks and optimisers (Algorithm 1, "Require")
    networks, D = build(args)
    D.to(device)
    kind = args.population if args.population != "auto" else "batch" if toy or device.type != "cpu" else "shared-loop"
    population = POPULATIONS[kind]([G.to(device) for G in networks],
                                   adam=lambda p: fused_adam(p, device, lr=args.lr_g, betas=(args.beta1, args.beta2)),
                                   context=lambda: autocast(device, args.amp))
    opt_D = fused_adam(D.parameters(), device, lr=args.lr_d, betas=(args.beta1_d, args.beta2))
    wgan = args.mutations == ["wasserstein"]
    D_loss = wasserstein_discriminator_loss if wgan else discriminator_loss
    mutations = [wasserstein] if wgan else [MUTATIONS[name] for name in args.mutations]
    selected = torch.zeros(n_m)                  # survivors of each mutation since the last line of the log
    F_q = F_d = torch.zeros(args.mu * n_m, device=device)
    fixed_z = z_of(2000 if toy else 64, rng=step_rng(args.seed, 0)).to(device)

    shape = (2,) if toy else (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", m, 1, (D, shape))
    check_batch_norm("--eval-batch", args.eval_batch, 1, (D, shape))

    # --- resume
    run = Run("egan", args, device)
    start, values = run.resume(population=population, D=D, opt_D=opt_D)
    selected = values.get("selected", selected)
    run.announce(f"E-GAN, μ = {args.mu}, mutations {', '.join(args.mutations)}, γ = {args.gamma}, selection by "
                 f"{args.selection}, on {args.dataset}, {device} ({kind}): generations {start + 1} to {args.steps}")

    # --- Algorithm 1 (line 1)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, args.n_d * m + args.eval_batch, args.seed, device)

        for x_k in x[:args.n_d * m].split(m):                                                # lines 2-3
            z = z_of(args.mu, m // args.mu, rng=rng).to(device)                              # m/μ for each parent
            fake = population.sample(z).flatten(0, 1)                                        # (m, …)
            with autocast(device, args.amp):
                real_logits, fake_logits = D(x_k).float(), D(fake).float()
            L_D = D_loss(real_logits, fake_logits)                                           # lines 4-5
            opt_D.zero_grad()
            L_D.backward()
            if args.gp:                                                                      # E-GAN-GP
                (args.gp * gradient_penalty(D, x_k, fake, torch.rand(m, generator=rng).to(device))).backward()
            opt_D.step()                                                                     # line 6
            if args.clip:                                                                    # WGAN
                clip_weights(D, args.clip)

        z = z_of(args.mu * n_m, m, rng=rng).to(device)                                       # line 10
        children = population.offspring(n_m)                                                 # lines 8-9
        losses = children.mutate(D, z, mutations)                                            # lines 11-12
        healthy = losses.isfinite() & children.healthy()

        by_fitness = args.selection == "fitness" and n_m > 1                                 # else F is only logged
        if by_fitness or (run.due(step, args.log_every) and not wgan):
            z = z_of(args.eval_batch, rng=rng).to(device)
            F_q, F_d = children.evaluate(D, x[args.n_d * m:], z)                             # line 13
        if by_fitness:
            F = fitness(F_q, F_d, args.gamma)
        elif n_m > 1:
            F = -torch.randperm(args.mu * n_m, generator=rng).argsort().float().to(device)   # in a random order
        else:
            F = -torch.arange(args.mu, device=device).float()                                # in theirs
        F = F.where(healthy, torch.nan)
        if not F.isfinite().any():
            raise UserError(f"step {step}: no child has finite loss, weights and fitness, and L_D is "
                            f"{float(L_D.detach()):.4g}. {run._last_good()}")
        places = select(F, args.mu)                                                          # line 16
        population = children.survivors(places)                                              # line 17
        selected += torch.bincount(places.cpu() % n_m, minlength=n_m)

        # --- log, sample, save
        logged = {"L_D": L_D.detach()}
        if not wgan:
            logged |= {"F_q": F_q[places[0]], "F_d": F_d[places[0]]}
        run.check(step, **logged)
        measured = {}
        if run.due(step, args.sample_every):
            samples = population.sample(fixed_z.expand(args.mu, -1, -1))[0].cpu()            # of the fittest
            run.check(step, samples=samples)
            if toy:
                real, _ = data.sample(len(samples), step_rng(args.seed, 0))
                measured = mode_metrics(samples, data) | {"mmd2": mmd2(samples, real, 1.0, unbiased=True)}
                densities({data.name: real, f"generation {step}": samples},
                          run.dir / "samples" / f"step_{step:08d}.png", limit=2)
            else:
                save_grid(samples, run.dir / "samples" / f"step_{step:08d}.png")
                if args.fid_samples:
                    z = z_of(args.fid_samples, rng=step_rng(args.seed, 0)).to(device)
                    images = (population.sample(part.expand(args.mu, -1, -1))[0] for part in z.split(250))
                    measured = track(run.checked(step, images), args.fid_samples)
        run.log(step, **logged, **measured,
                **{f"selected_{name}": share for name, share in zip(args.mutations, selected / selected.sum())})
        if step % args.log_every == 0:
            selected = torch.zeros(n_m)
        if run.due(step, args.save_every):
            run.save(step, population=population, D=D, opt_D=opt_D, selected=selected)
            curves(read_log(run.dir / "log.jsonl"), panels(args), run.dir / "curves.png", smooth=10)
    return run.metrics


def panels(args):
    """What curves.png shows."""
    found = [["L_D"], ["F_q"], ["F_d"], [f"selected_{name}" for name in args.mutations]]
    if args.mutations == ["wasserstein"]:        # F takes D as sigmoid(l), which a WGAN's critic is not
        found = [["L_D"]]
    return found + ([["mmd2"], ["modes"]] if args.dataset in MIXTURES else [])


if __name__ == "__main__":
    run_main(main)
