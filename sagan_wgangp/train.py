"""Train GAN, WGAN, WGAN-GP, SAGAN or SAGAN + WGAN-GP. Run from the repository's root:

  python -m sagan_wgangp.train                     SAGAN + WGAN-GP on 8,000 CelebA faces at 200x200
  python -m sagan_wgangp.train --method wgan       gan, wgan, wgan_gp, sagan, sagan_wgan_gp
  python -m sagan_wgangp.train --quick --method gan     FashionMNIST 32x32: minutes on a CPU
  python -m sagan_wgangp.train --method gan --gp 10 --batch-norm g      each ingredient is a flag
  python -m sagan_wgangp.train --dataset folder --data-dir DIR          your own images
  python -m sagan_wgangp.train --dataset 25gaussians --method wgan_gp   a toy, its critic's surface
  python -m sagan_wgangp.train --resume DIR        go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m sagan_wgangp.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import torch

if not __package__:  # started as a file
    print(
        "error: start this from the repository's root: python -m sagan_wgangp.train",
        file=sys.stderr,
    )
    sys.exit(2)

from common import arguments
from common.arguments import ImageRunArgs
from common.cli import read_args, run_main
from common.cuda import peak_memory
from common.data import DATASETS, load_images
from common.device import autocast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError
from common.metrics.images import Tracker
from common.metrics.toy import mode_metrics
from common.plots import curves
from common.rng import seed_all, step_rng
from common.runs import Run, read_log
from common.toys import MIXTURES, TOYS, toy_data

from .methods import METHODS, presets
from .model import (
    LOSSES,
    Critic,
    Generator,
    SelfAttention,
    ToyCritic,
    ToyGenerator,
    clip_weights,
    gradient_penalty,
    pyramid,
    wasserstein_distance,
)
from .pictures import draw, panels


@dataclass
class Args(ImageRunArgs):
    # --- paper (defaults: --method sagan_wgan_gp's; another method brings its own)
    # sets the flags up to --z-dim
    method: Literal["gan", "wgan", "wgan_gp", "sagan", "sagan_wgan_gp"] = "sagan_wgan_gp"
    loss: Literal["gan", "wasserstein", "hinge"] = "wasserstein"  # Eq. 1, Eq. 2-3, or SAGAN's
    clip: float = 0.0  # c, D's weights are clipped to [-c, c]; 0: not (WGAN: 0.01)
    # λ, weight of the gradient penalty (Eq. 4), 0: none (WGAN-GP: 10; toys 0.1: its authors' code)
    gp: float = 10.0
    batch_norm: Literal["none", "g", "d", "gd"] = "g"  # BatchNorm in G, D or both (§3.2)
    # spectral normalisation in G, D or both (SAGAN: both; D's is off with the penalty, which pulls
    # against it: ours)
    spectral: Literal["none", "g", "d", "gd"] = "g"
    # none, auto or SIDE,SIDE,…: sides of the maps in G and D that have self-attention; auto: the
    # largest up to 32 below the image's own (SAGAN: 32 of 128), with the penalty up to 25 (ours)
    attention: str = "auto"
    n_critic: int = 1  # D's steps for one of G (WGAN, WGAN-GP: 5; SAGAN: 1)
    # the same in G's first 25 steps and in every 500th, 0: as always (WGAN's authors' code: 100);
    # in [0, ∞)
    n_critic_warm: int = 0
    optimizer: Literal["adam", "rmsprop"] = "adam"  # of G and D (WGAN: rmsprop, the others: adam)
    lr_g: float = 1e-4  # learning rate of G (TTUR: 1e-4)
    lr_d: float = 4e-4  # learning rate of D (TTUR: 4e-4)
    beta1: float = 0.0  # Adam's β₁, in [0, 1) (each method's paper)
    beta2: float = 0.9  # Adam's β₂, RMSProp's α, in [0, 1) (each method's paper)
    init: Literal["normal", "he", "xavier"] = "xavier"  # initial weights (each one's authors' code)
    z_dim: int = 128  # N_z, length of z (each method's authors' code)
    # both rates fall linearly to 0 at --steps (WGAN-GP's authors' code on CIFAR-10)
    lr_decay: bool = False
    # channels at half size, doubled at each halving up to 8 times as many (DCGAN: 64); toys: units
    # of each layer
    width: int = 64
    size: int = 200  # image side, 6 or more (§4.2: 200)
    channels: Literal[1, 3] | None = None  # none: the data set's own
    images: int = 8000  # a random choice that --seed fixes, 0: all (§4.1: 8,000); in [0, ∞)

    # --- run
    dataset: Literal[*DATASETS, *TOYS, "synthetic"] = "celeba"
    steps: int = 10_000  # updates of G (Fig. 4 counts over 10,000 "epochs", no steps)
    batch_size: int = 64  # (not given; WGAN, WGAN-GP: 64)
    # images: at each --sample-every, FID and IS of this many samples against the test split; 0:
    # not; in [0, ∞)
    fid_samples: int = 0
    # of --fid-samples; auto: the first that can be had
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, presets)
    if args.fid_samples == 1:
        raise UserError("--fid-samples 1: must be 0 or at least 2, which a covariance needs")
    if args.gp and "d" in args.batch_norm:
        raise UserError(
            f"--gp {args.gp} with --batch-norm {args.batch_norm}: the penalty needs each sample's "
            "own gradient, which BatchNorm in D mixes with the others'. Use --batch-norm g or none"
        )
    if args.resume and args.lr_decay:
        end = read_args(args.resume)["steps"]
        if args.steps != end:
            raise UserError(
                f"--steps {args.steps}: the rates of the run in {args.resume} fall to 0 at step "
                f"{end} (--lr-decay) and would jump. Leave --steps out, or start a new run with "
                "--out"
            )
    if args.dataset not in TOYS:
        sides = attention_sides(args, largest=25 if args.gp else 32)  # departure 15
        if args.attention == "auto" and not args.resume:
            args.attention = str(sides[0])
    elif args.attention != "none" or args.batch_norm != "none":
        raise UserError(
            f"--dataset {args.dataset}: its networks have no attention and no BatchNorm. Leave out "
            "--attention and --batch-norm"
        )
    return args


def attention_sides(args, largest=32):
    """The sides of --attention, checked against the pyramid of --size.

    A checkpoint that has "auto" instead of a side is an older one: its map is the largest up to 32.
    """
    try:
        sides = pyramid(args.size)[1:]
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None
    if args.attention == "none":
        return []
    if args.attention == "auto":
        return [next(side for side in sides if side <= largest)]
    try:
        asked = [int(side) for side in args.attention.split(",")]
    except ValueError:
        raise UserError(
            f"--attention {args.attention}: give none, auto, or sides such as 32,16"
        ) from None
    if unknown := set(asked) - set(sides):
        raise UserError(
            f"--attention {args.attention}: images of side {args.size} have maps of side "
            f"{', '.join(map(str, sides))}, not {', '.join(map(str, unknown))}"
        )
    return asked


def load_data(args, split="train"):
    """What is trained on: it has batch(step, batch_size, seed, device)."""
    if args.dataset in TOYS:
        return toy_data(args.dataset)
    return load_images(
        args.dataset,
        args.data_dir,
        split,
        args.size,
        args.channels,
        limit=args.images if args.images and split == "train" else None,
        limit_seed=args.seed,
        skip_bad=getattr(args, "skip_bad", False),  # older checkpoints have no such argument
    )


def build(args):
    """G and D of a run, from its arguments alone."""
    if args.dataset in TOYS:
        G = ToyGenerator(args.z_dim, args.width, "g" in args.spectral, args.init)
        D = ToyCritic(args.width, "d" in args.spectral, args.init)
        return G, D
    shape = dict(size=args.size, channels=args.channels, width=args.width)
    shape |= dict(attention=attention_sides(args), init=args.init)
    G = Generator(
        args.z_dim, batch_norm="g" in args.batch_norm, spectral="g" in args.spectral, **shape
    )
    D = Critic(batch_norm="d" in args.batch_norm, spectral="d" in args.spectral, **shape)
    return G, D


def make_optimizer(net, lr, args, device):
    if args.optimizer == "rmsprop":
        return torch.optim.RMSprop(net.parameters(), lr=lr, alpha=args.beta2)
    return fused_adam(net.parameters(), device, lr=lr, betas=(args.beta1, args.beta2))


def sample_z(n, args, generator):
    """z (n, N_z) ~ N(0, I)."""
    return torch.randn(n, args.z_dim, generator=generator)  # departure 9


def critic_steps(step, args):
    """D's updates before update `step` (1, 2, …) of G."""
    warm = step <= 25 or step % 500 == 1
    return args.n_critic_warm if args.n_critic_warm and warm else args.n_critic


def attention_gammas(**nets):
    """γ of each attention block, as gamma_G, gamma_G1, …"""
    gammas = {}
    for name, net in nets.items():
        blocks = [layer for layer in net if isinstance(layer, SelfAttention)]
        for i, block in enumerate(blocks):
            gammas[f"gamma_{name}{i or ''}"] = block.gamma.detach()
    return gammas


def main(argv=None):
    args = parse_args(argv)
    toy = args.dataset in TOYS
    B = args.batch_size

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    data = load_data(args)
    track = None
    if not toy:
        args.channels = data.to(device).channels
        if args.fid_samples and rank == 0:
            test = load_data(args, "test")
            track = Tracker(test, args.dataset, device, args.data_dir, args.extractor)

    # --- networks and optimisers (each method's own paper)
    convolves_bf16 = args.amp == "bf16" and not toy
    layout = torch.channels_last if convolves_bf16 else torch.contiguous_format
    G, D = (net.to(device, memory_format=layout) for net in build(args))
    opt_G = make_optimizer(G, args.lr_g, args, device)
    opt_D = make_optimizer(D, args.lr_d, args, device)
    discriminator_loss, generator_loss = LOSSES[args.loss]
    fixed_z = sample_z(1000 if toy else 25, args, step_rng(args.seed, 0)).to(device)
    zero = torch.zeros((), device=device)

    shape = (2,) if toy else (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", B, world, (G, (args.z_dim,)), (D, shape))

    # --- resume
    run = Run("sagan_wgangp", args, device, rank, {} if toy else data.identity())
    start, values = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    d_steps = values.get("batch", 0)  # of D so far, each on a new batch of data
    size = "" if toy else f" ({len(data):,} images at {args.size}x{args.size}x{args.channels})"
    flags = ", ".join(f"{flag} {getattr(args, flag)}" for flag in METHODS[args.method])
    run.announce(
        f"{args.method}: {flags}; on {args.dataset}{size}, {device}: "
        f"steps {start + 1} to {args.steps}, batch {B}"
    )

    # --- Algorithm (WGAN-GP Alg. 1; the other methods are its special cases)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        if args.lr_decay:
            left = 1 - (step - 1) / args.steps
            opt_G.param_groups[0]["lr"] = args.lr_g * left
            opt_D.param_groups[0]["lr"] = args.lr_d * left

        # D's steps: L_D + λ·GP, each on new x and z. G is not in their graph.
        for _ in range(critic_steps(step, args)):
            x = shard(data.batch(d_steps, B, args.seed, device)[0])
            x = x.contiguous(memory_format=layout)
            d_steps += 1
            z = shard(sample_z(B, args, rng)).to(device)
            with autocast(device, args.amp):
                with torch.no_grad():
                    fake = G(z)
                D_real, D_fake = D(x).float(), D(fake).float()
            L_D = discriminator_loss(D_real, D_fake)  # Ding's Eq. 1 or 2-3, or SAGAN's Eq. 4
            GP = zero
            if args.gp:
                epsilon = shard(torch.rand(B, generator=rng)).to(device)
                GP = gradient_penalty(D, x, fake, epsilon)
            opt_D.zero_grad()
            (L_D + args.gp * GP).backward()  # Ding's Eq. 4
            average_gradients(D)
            opt_D.step()
            if args.clip:
                clip_weights(D, args.clip)  # §3.2.1

        # G's step: L_G against the new D, whose weights are fixed here.
        D.requires_grad_(False)
        z = shard(sample_z(B, args, rng)).to(device)
        with autocast(device, args.amp):
            L_G = generator_loss(D(G(z)).float())
        opt_G.zero_grad()
        L_G.backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)

        # --- log, sample, save
        logged = {"L_D": average(L_D), "L_G": average(L_G)} | attention_gammas(G=G, D=D)
        if args.loss == "wasserstein":
            logged["W"] = average(wasserstein_distance(D_real, D_fake))  # Eq. 2
        if args.gp:
            logged["GP"] = average(GP)
        if run.due(step, args.save_every):
            logged["peak_MiB"] = torch.tensor(peak_memory(device))
        run.check(step, **logged)
        if run.due(step, args.sample_every) and rank == 0:
            for net in (G, D):
                net.eval()  # running BatchNorm statistics, no power iteration
            with torch.no_grad():
                samples = G(fixed_z)
                run.check(step, samples=samples)
                draw(G, D, data, fixed_z, args, run.dir / "samples" / f"step_{step:08d}.png")
                if args.dataset in MIXTURES:
                    logged |= mode_metrics(samples.cpu(), data)
                if track is not None:
                    z = sample_z(args.fid_samples, args, step_rng(args.seed, 0)).to(device)
                    images = (G(part).float() for part in z.split(250))
                    logged |= track(run.checked(step, images), args.fid_samples)
            for net in (G, D):
                net.train()
        run.log(step, **logged)
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, batch=d_steps)
            if rank == 0:
                log = read_log(run.dir / "log.jsonl")
                curves(log, panels(args), run.dir / "curves.png", smooth=10)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
