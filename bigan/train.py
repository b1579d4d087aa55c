"""Train BiGAN, ALI, or the baselines of the BiGAN paper. Run from the repository's root:

  python -m bigan.train --dataset mnist        the paper's MNIST, 400 epochs (a GPU's work)
  python -m bigan.train                        the same on FashionMNIST
  python -m bigan.train --quick                small: minutes on a CPU (README.md)
  python -m bigan.train --method latent-regressor      a baseline; also joint-lr, ae-l1, ae-l2
  python -m bigan.train --method ali --arch conv       ALI's stochastic encoder, convolutions
  python -m bigan.train --method ali --dataset 25gaussians     ALI's toy
  python -m bigan.train --hold-out Sandal      leave out a class; bigan.eval treats it as an anomaly
  python -m bigan.train --resume DIR           go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m bigan.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (G(z), then x above G(E(x))), last.pt.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m bigan.train", file=sys.stderr)
    sys.exit(2)

from common.arguments import ImageRunArgs, parse_args as parse_table
from common.cli import run_main
from common.data import DATASETS
from common.device import autocast, bf16_if_fast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError
from common.rng import seed_all, step_rng
from common.runs import Run
from common.toys import MIXTURES

from .batch_norm import fixed_batches, recompute_statistics
from .data import load_data, sample_eps, sample_z
from .model import (
    ConvFeatures,
    ConvGenerator,
    Discriminator,
    Encoder,
    MLPFeatures,
    MLPGenerator,
    discriminator_loss,
    encoder_generator_loss,
    generator_loss,
    latent_loss,
    reconstruction_loss,
)
from .progress import draw_curves, progress
from .toys import MaxoutFeatures, ToyEncoder, ToyGenerator, toy_progress

EPOCH = 469  # steps: 60,000 images in batches of 128
PAIRS = ("bigan", "ali")  # D sees (x, E(x)) and (G(z), z)
REGRESSORS = ("latent-regressor", "joint-lr")  # D sees x and G(z), E learns z from G(z), §4.1
AUTOENCODERS = {"ae-l1": 1, "ae-l2": 2}  # no D; the power p of |x − G(E(x))|, §4.2


@dataclass
class Args(ImageRunArgs):
    # --- paper (arXiv:1605.09782 §4.2 and the authors' code for it; toys: arXiv:1606.00704's)
    # §3; ali: stochastic E, normal prior; the others: the baselines of §4.1, §4.2
    method: Literal[*PAIRS, *REGRESSORS, *AUTOENCODERS] = "bigan"
    # mlp: permutation-invariant (§4.2); conv: any size 4·2^k; toy: ALI's, set by the data set
    arch: Literal["mlp", "conv", "toy"] = "mlp"
    size: int = 28  # image side (§4.2: 28; conv: 32)
    channels: Literal[1, 3] | None = None  # none: the data set's own
    # mlp: 1/16 of a layer's units (code: 64); conv: filters at half size; toy: units
    width: int = 64
    z_dim: int = 50  # N_z (§4.2: 50)
    prior: Literal["uniform", "normal"] = "uniform"  # p_z: uniform on [-1, 1] (§4.2); normal: ALI
    # stochastic: z = μ(x) + σ(x)·ε (ALI)
    encoder: Literal["deterministic", "stochastic"] = "deterministic"
    cycle: float = 0.0  # λ, bigan and ali: weight of mean|x − G(E(x))| in L_GE (ALICE); 0: none
    lr_weight: float = 0.25  # not a rate: weight of L(z, E(G(z))) in joint-lr's L_GE (code)
    lr: float = 2e-4  # Adam's learning rate, all networks (code)
    lr_ratio: float = 1.0  # of G's and E's learning rate to D's (ours); 1: the papers'
    # share of the rate left at the end, after an exponential decay over the second half
    # (code: 0.01), in (0, 1]; 1: none
    lr_final: float = 0.01
    lr_steps: int | None = None  # length of that schedule; none: --steps
    beta1: float = 0.5  # Adam's β₁, in [0, 0.999] (code); β₂ is 0.999
    weight_decay: float = 2.5e-5  # L2 added to gradients (code)
    hold_out: str | None = None  # train without this class (its name or number)

    # --- run
    # data to train on (§4.2: MNIST; departure 5)
    dataset: Literal[*DATASETS, *MIXTURES, "synthetic"] = "fashion-mnist"
    steps: int = 400 * EPOCH  # updates (code: 400 epochs of 469)
    batch_size: int = 128  # (code)


ALI = dict(prior="normal", encoder="stochastic")
TOY = dict(arch="toy", z_dim=2, width=400, prior="normal")  # the authors' ali_mixture.py
TOY |= dict(lr=1e-4, beta1=0.8, weight_decay=0.0, lr_final=1.0, batch_size=100, steps=200_000)
QUICK = dict(width=32, cycle=5.0, steps=20_000, amp=bf16_if_fast, sample_every=1000)
QUICK_TOY = dict(lr=1e-3, lr_ratio=0.1, beta1=0.5, lr_final=0.01)
QUICK_TOY |= dict(width=128, batch_size=256, steps=8000)
SMOKE = dict(dataset="synthetic", size=16, width=4, z_dim=8, batch_size=8, steps=12)
SMOKE |= dict(log_every=2, sample_every=6, save_every=6)


def presets(typed):
    no_cycle = dict.fromkeys((*REGRESSORS, *AUTOENCODERS), dict(cycle=0.0))
    return {
        "arch": {"conv": dict(size=32)},
        "dataset": dict.fromkeys(MIXTURES, TOY),
        "quick": {True: QUICK_TOY if typed.dataset in MIXTURES else QUICK},
        "method": {"ali": ALI, **no_cycle},
        "smoke": {True: SMOKE},
    }


def parse_args(argv=None):
    args = parse_table(Args, __doc__, argv, presets)
    args.lr_steps = args.lr_steps or args.steps
    if (args.arch == "toy") != (args.dataset in MIXTURES):
        raise UserError(
            f"--arch {args.arch} with --dataset {args.dataset}: "
            f"toy goes with {', '.join(MIXTURES)} only"
        )
    if args.hold_out is not None and args.arch == "toy":
        raise UserError(f"--hold-out {args.hold_out}: a toy has no classes to leave out")
    if args.cycle and args.method not in PAIRS:
        raise UserError(f"--cycle belongs to bigan and ali; {args.method} has no such term")
    if args.encoder == "stochastic" and args.method not in PAIRS:
        raise UserError(
            f"--encoder stochastic belongs to bigan and ali; {args.method} has a deterministic one"
        )
    return args


def build(args):
    """G, E and D of a run, from its arguments alone."""
    pairs, stochastic = args.method in PAIRS, args.encoder == "stochastic"
    z_dim, z_dim_D = args.z_dim, args.z_dim if pairs else 0
    if args.arch == "toy":
        G = ToyGenerator(z_dim, args.width)
        E = ToyEncoder(z_dim, args.width, args.prior, stochastic)
        return G, E, Discriminator(MaxoutFeatures(2 + z_dim_D, args.width), pairs)
    shape = args.size, args.channels, args.width
    make_G, make_features = MLPGenerator, MLPFeatures
    if args.arch == "conv":
        make_G, make_features = ConvGenerator, ConvFeatures
    try:
        G = make_G(z_dim, *shape)
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None
    E = Encoder(make_features(*shape), z_dim, args.prior, stochastic)
    norm_z = args.prior == "uniform"  # departure 4
    return G, E, Discriminator(make_features(*shape, z_dim_D, norm_z), pairs)


def decayed(step, args):
    """The learning rate's factor: 1 over the first half of --lr-steps, then down to --lr-final."""
    # departure 2: per step
    return args.lr_final ** min(1, max(0, 2 * step / args.lr_steps - 1))


def main(argv=None):
    args = parse_args(argv)
    toy = args.dataset in MIXTURES

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    data, test = load_data(args), load_data(args, "test")
    if not toy:
        args.channels = data.to(device).channels

    # --- networks and optimisers (§4.2)
    convolves_bf16 = args.arch == "conv" and args.amp == "bf16"
    layout = torch.channels_last if convolves_bf16 else torch.contiguous_format
    G, E, D = (net.to(device, memory_format=layout) for net in build(args))
    x_shape = (2,) if toy else (args.channels, args.size, args.size)
    z_shape = (args.z_dim,)
    nets = ((G, z_shape), (E, x_shape), (D, x_shape, z_shape))
    check_batch_norm("--batch-size", args.batch_size, world, *nets)
    adam = dict(lr=args.lr, betas=(args.beta1, 0.999), weight_decay=args.weight_decay)
    params_D = list(D.parameters())
    params_GE = [*G.parameters(), *E.parameters()]
    opt_D = fused_adam(params_D, device, **adam)
    opt_GE = fused_adam(params_GE, device, **adam)
    fixed_z = sample_z(2000 if toy else 64, args, step_rng(args.seed, 0)).to(device)

    # --- resume
    run = Run("bigan", args, device, rank, {} if toy else data.identity())
    start, _ = run.resume(G=G, E=E, D=D, opt_D=opt_D, opt_GE=opt_GE)
    run.announce(
        f"{args.method}, {args.arch}, on {args.dataset}"
        + (f" without {args.hold_out}" if args.hold_out else "")
        + ("" if toy else f" ({len(data):,} images)")
        + f", {device}: steps {start + 1} to {args.steps}, batch {args.batch_size}"
    )

    # --- Algorithm (§3.4): D against G and E, all at once from one forward pass
    for step in run.steps(start, args.steps):
        for group in opt_D.param_groups:
            group["lr"] = args.lr * decayed(step, args)
        for group in opt_GE.param_groups:
            group["lr"] = args.lr_ratio * args.lr * decayed(step, args)
        rng = step_rng(args.seed, step)
        x = shard(data.batch(step - 1, args.batch_size, args.seed, device)[0])
        x = x.contiguous(memory_format=layout)
        z = shard(sample_z(args.batch_size, args, rng)).to(device)
        eps = sample_eps(args.batch_size, args, rng, device)
        if eps is not None:
            eps = shard(eps)

        losses, L_D = {}, None
        with autocast(device, args.amp):
            if args.method in PAIRS:
                code = E(x, eps)
                real, fake = D(x, code).float(), D(G(z), z).float()
                L_D = discriminator_loss(real, fake)  # eq. 3
                L_GE = encoder_generator_loss(real, fake)  # §3.4: the labels swapped
                if args.cycle:
                    losses["cycle"] = reconstruction_loss(x, G(code))
                    L_GE = L_GE + args.cycle * losses["cycle"]  # ALICE
            elif args.method == "latent-regressor":
                image = G(z)
                real, fake = D(x).float(), D(image).float()
                L_D = discriminator_loss(real, fake)
                L_E = latent_loss(E.logits(image.detach()), z, args.prior)  # §4.1
                L_GE = generator_loss(fake) + L_E
                losses["L_E"] = L_E
            elif args.method == "joint-lr":
                image = G(z)
                real, fake = D(x).float(), D(image).float()
                L_D = discriminator_loss(real, fake)
                L_E = latent_loss(E.logits(image), z, args.prior)  # §4.1, G feels it, too
                L_GE = generator_loss(fake) + args.lr_weight * L_E
                losses["L_E"] = L_E
            else:
                L_GE = reconstruction_loss(x, G(E(x)), AUTOENCODERS[args.method])  # §4.2

        # Both gradients are taken at the same parameters: D's of L_D, G's and E's of L_GE.
        opt_GE.zero_grad()
        L_GE.backward(inputs=params_GE, retain_graph=L_D is not None)
        average_gradients(G)
        average_gradients(E)
        if L_D is not None:
            opt_D.zero_grad()
            L_D.backward(inputs=params_D)
            average_gradients(D)
            opt_D.step()
            losses |= {"L_D": L_D, "D_real": real.sigmoid().mean(), "D_fake": fake.sigmoid().mean()}
        opt_GE.step()

        # --- log, sample, save
        losses = {key: average(value) for key, value in ({"L_GE": L_GE} | losses).items()}
        run.check(step, **losses)
        measured = {}
        if run.due(step, args.sample_every) and rank == 0:
            recompute_statistics(G, E, D, fixed_batches(data, args, 50, device))
            with torch.no_grad():
                run.check(step, samples=G(fixed_z), reconstructions=G(E(x, eps)))
            picture = run.dir / "samples" / f"step_{step:08d}.png"
            if toy:
                measured = toy_progress(G, E, data, fixed_z, args, picture)
            else:
                measured = progress(G, E, data, test, fixed_z, picture)
            for net in (G, E, D):
                net.train()
        run.log(step, **losses, **measured)
        if run.due(step, args.save_every):
            run.save(step, G=G, E=E, D=D, opt_D=opt_D, opt_GE=opt_GE)
            if rank == 0:
                draw_curves(run.dir)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
