"""Train CA-GAN, or the AC-GANs it is compared with. Run from the repository's root:

  python -m cagan.train                        §5: CA-GAN, LSGAN, 100 epochs of MNIST (a GPU's work)
  python -m cagan.train --quick                small, on FashionMNIST: minutes on a CPU (README.md)
  python -m cagan.train --loss modified_ac --lambda-cls 0.1
  python -m cagan.train --unbalanced 5500 500 --norm batch --steps 46875 --mix-from 100       §6.3
  python -m cagan.train --dataset celeba --size 64 --attributes Male Black_Hair+Blond_Hair+Bald
  python -m cagan.train --resume DIR           go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m cagan.train …

Leaves in the run directory: log.jsonl, curves.png, last.pt, and samples/, where each row of a grid
is one condition and each column one z.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m cagan.train", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.cli import run_main
from common.data import DATASETS, load_images
from common.device import autocast, bf16_if_fast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError, say
from common.metrics.extractors import load_extractor
from common.plots import save_grid
from common.rng import seed_all, step_rng
from common.runs import Run

from .conditions import each_condition, set_conditions, unbalance, uniform_targets
from .metrics import ConditionalScores, draw_curves, refuse_unlabelled, score
from .model import (
    ADVERSARIAL,
    Discriminator,
    Generator,
    ac_discriminator_loss,
    ac_generator_loss,
    ca_discriminator_loss,
    ca_generator_loss,
    classification_loss,
    discriminate,
    gradient_penalty,
    modified_ac_discriminator_loss,
    modified_ac_generator_loss,
)


@dataclass
class Args(arguments.ImageRunArgs):
    # --- paper ("code": github.com/jeongik-jo/CAGAN-MNIST at commit 27391f8)
    # (17), (18); (1), (2); (7), (8); or §6.1's variant, which has L_cls^g in L_d
    loss: Literal["ca", "ac", "modified_ac", "modified_ac_with_generated"] = "ca"
    adv: Literal[*ADVERSARIAL] = "lsgan"  # adversarial loss (§5)
    lambda_cls: float = 0.1  # λ_cls, weight of modified AC-GAN's L_cls (§6.1; Fig. 13: 0.01 to 1)
    lambda_gp: float = 10.0  # weight of WGAN-GP's penalty (not given; Gulrajani et al. 2017)
    n_critic: int = 1  # steps of D per step of G (code)
    norm: Literal["instance", "batch", "none"] = "instance"  # D's normalisation (§5; §6.3: batch)
    norm_inner: bool = False  # leave D's first and last convolution unnormalised (ours; code: all)
    # epochs before batches are mixed, in [0, ∞) (§6.3: 100); none: never
    mix_from: int | None = None
    # the share of the batch that is exchanged grows by this per epoch, to a half (code: 0.01)
    mix_ramp: float | None = None
    # images to keep of class 0, and of each other class (§6.3: 5500 500); none: all
    unbalanced: tuple[int, int] | None = None
    # conditions asked of G: equally often, or as in the data (code: uniform)
    targets: Literal["uniform", "data"] = "uniform"
    # CelebA's attributes A as conditions A and not-A; join those of an exclusive group by +
    # (Figs. 5-8)
    attributes: list[str] | None = None
    z_dim: int = 256  # dimensions of z (§5)
    size: int = 28  # image side in pixels (§5)
    channels: Literal[1, 3] | None = None  # none: the data set's own (§5: 1)
    width: int = 64  # filters at full size (code)
    convs: int = 3  # convolutions per resolution (code)
    lr: float = 1e-5  # Adam's learning rate, of G and D (§6.2; Fig. 14: 3e-6)
    beta1: float = 0.9  # Adam's β₁ in [0, 1) (code: Keras' default)
    beta2: float = 0.999  # Adam's β₂ in [0, 1) (code: Keras' default)

    # --- run
    # data to train on; auto: MNIST (§5) where it can be had, else FashionMNIST
    dataset: Literal["auto", *DATASETS, "synthetic"] = "auto"
    steps: int = 187_500  # updates of D (code: 100 epochs of 1,875)
    batch_size: int = 32  # (code)
    # samples for FID and conditional accuracy against the test split, measured at each
    # --sample-every; in [0, ∞), 0: not
    fid_samples: int = 0


WGAN_GP = dict(n_critic=5, beta1=0.0, beta2=0.9, lr=1e-4)  # Gulrajani et al. 2017
QUICK = dict(
    dataset="fashion-mnist",
    width=32,
    z_dim=48,
    convs=1,
    norm="none",
    lr=1e-3,
    beta1=0.5,
    steps=6000,
    fid_samples=2000,
    sample_every=500,
    amp=bf16_if_fast,
)
SMOKE = dict(
    dataset="synthetic",
    size=16,
    width=8,
    convs=1,
    z_dim=16,
    batch_size=8,
    lr=1e-3,
    steps=12,
    log_every=2,
    sample_every=6,
    save_every=6,
)
PRESETS = {"adv": {"wgan-gp": WGAN_GP}, "quick": {True: QUICK}, "smoke": {True: SMOKE}}


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, PRESETS)
    if args.mix_from is not None and args.mix_ramp is not None:
        raise UserError(
            "--mix-from and --mix-ramp are two schedules for the same share: give one of them"
        )
    if args.adv == "wgan-gp" and args.norm == "batch":
        raise UserError(
            "--adv wgan-gp needs --norm instance or none: "
            "BatchNorm leaves no sample a gradient of its own"
        )
    if args.unbalanced and args.attributes:
        raise UserError("--unbalanced keeps images by class: it does not go with --attributes")
    if args.fid_samples and args.attributes:
        raise UserError("--fid-samples measures by class: with --attributes give --fid-samples 0")
    return args


def load_data(args, split="train"):
    """The images of --dataset, at --size; args.dataset "auto" becomes the name of what it found."""
    if args.dataset == "auto":
        try:
            load_images("mnist", args.data_dir, split)
            args.dataset = "mnist"
        except UserError as e:
            say(f"FashionMNIST instead of MNIST: {str(e).splitlines()[0]}")
            args.dataset = "fashion-mnist"
    return load_images(
        args.dataset, args.data_dir, split, args.size, args.channels, skip_bad=args.skip_bad
    )


def build(args, groups):
    """G and D of a run. groups: the sizes of the exclusive groups of its S conditions."""
    S = sum(groups)
    heads = S if args.loss == "ca" else 1 + S  # the AC-GANs' first one is D_adv
    shape = dict(size=args.size, channels=args.channels, width=args.width, convs=args.convs)
    try:
        G = Generator(S, args.z_dim, **shape)
        D = Discriminator(heads, norm=args.norm, inner=args.norm_inner, **shape)
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None
    return G, D


def losses(args, groups, real, cnd, fake, cnd_fake):
    """(L_d, L_g) from D's outputs on real and generated images."""
    if args.loss == "ca":
        L_d = ca_discriminator_loss(real, cnd, fake, cnd_fake, args.adv)  # (17)
        L_g = ca_generator_loss(fake, cnd_fake, args.adv)  # (18)
    elif args.loss == "ac":
        L_d = ac_discriminator_loss(real, cnd, fake, cnd_fake, groups, args.adv)  # (1)
        L_g = ac_generator_loss(fake, cnd_fake, groups, args.adv)  # (2)
    else:  # (7), (8)
        L_d = modified_ac_discriminator_loss(real, cnd, fake, args.lambda_cls, groups, args.adv)
        L_g = modified_ac_generator_loss(fake, cnd_fake, args.lambda_cls, groups, args.adv)
    if args.loss == "modified_ac_with_generated":  # §6.1, Fig. 12's blue graph
        L_d = L_d + args.lambda_cls * classification_loss(fake[:, 1:], cnd_fake, groups)
    return L_d, L_g


def active_heads(args, cnd):
    """Which outputs of D judge real against generated: (B, heads) in {0, 1}.

    cnd: (B, S), the images' conditions. CA-GAN: D_c of each condition; AC-GANs: D_adv alone.
    """
    if args.loss == "ca":
        return cnd
    return torch.cat([torch.ones_like(cnd[:, :1]), torch.zeros_like(cnd)], 1)


def mean_judgement(args, out, cnd):
    """Mean over all processes of D's outputs (B, heads) where it judges; 0 where it judges none."""
    active = active_heads(args, cnd)
    return average((out * active).sum()) / average(active.sum()).clamp(min=1e-6)


def mix_share(args, epoch):
    """How much of a batch is exchanged in this epoch (from 0): ½ is §4's mixed batch."""
    if args.mix_ramp is not None:
        return min(0.5, args.mix_ramp * epoch)
    if args.mix_from is not None and epoch >= args.mix_from:
        return 0.5
    return 0.0


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    data = load_data(args).to(device)
    args.channels = data.channels
    identity = data.identity()
    if args.unbalanced:
        unbalance(data, *args.unbalanced)  # §6.3
    names, groups = set_conditions(data, args.attributes)  # data's labels are now cnd (N, S)
    S = sum(groups)
    if 0 < args.fid_samples < 2 * S:
        raise UserError(
            f"--fid-samples {args.fid_samples}: {S} classes need two images each at least"
        )
    scores = None
    if args.fid_samples and rank == 0:
        test = load_data(args, "test")
        refuse_unlabelled(test, "give --fid-samples 0")
        extractor = load_extractor("auto", test.name, device, args.data_dir)
        if extractor is not None:
            scores = ConditionalScores(test, device, args.data_dir, extractor)

    # --- networks and optimisers (§5)
    G, D = build(args, groups)
    # On a CPU channels_last is slower in InstanceNorm, and no faster in BatchNorm.
    faster = args.amp == "bf16" and (device.type == "cuda" or args.norm == "none")
    layout = torch.channels_last if faster else torch.contiguous_format
    G, D = (net.to(device, memory_format=layout) for net in (G, D))
    adam = dict(lr=args.lr, betas=(args.beta1, args.beta2))
    opt_G = fused_adam(G.parameters(), device, **adam)
    opt_D = fused_adam(D.parameters(), device, **adam)
    image = (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", args.batch_size, world, (D, image))
    shown = each_condition(groups).repeat_interleave(8, 0).to(device)  # a row per condition
    fixed_z = torch.randn(8, args.z_dim, generator=step_rng(args.seed, 0)).repeat(S, 1).to(device)

    # --- resume
    run = Run("cagan", args, device, rank, identity)
    start, _ = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    run.announce(
        f"{args.loss} with {args.adv}, {S} conditions ({', '.join(names)}), on {args.dataset} "
        f"({len(data):,} images at {args.size}x{args.size}x{data.channels}), {device}: "
        f"steps {start + 1} to {args.steps}, batch {args.batch_size}"
    )

    # --- Algorithm (§2-§4; both networks step from one forward pass, as in the authors' code)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        epoch = (step - 1) * args.batch_size // len(data)
        x, cnd = map(shard, data.batch(step - 1, args.batch_size, args.seed, device))
        z = shard(torch.randn(args.batch_size, args.z_dim, generator=rng)).to(device)
        # drawn with every loss, so that one seed gives all of them the same z and cnd'
        z_penalty = shard(torch.randn(args.batch_size, args.z_dim, generator=rng)).to(device)
        if args.targets == "uniform":
            cnd_fake = uniform_targets(args.batch_size, groups, rng)
        else:
            cnd_fake = data.labels[torch.randint(len(data), (args.batch_size,), generator=rng)]
        cnd_fake = shard(cnd_fake).to(device)
        share = mix_share(args, epoch)

        # One forward pass gives both losses: L_d = E[f_r^d(D(x)) · cnd] + E[f_g^d(D(x')) · cnd'],
        # L_g = E[f_g^g(D(x')) · cnd'], or the AC-GANs'. D may see mixed batches.
        with autocast(device, args.amp):
            fake = G(z, cnd_fake)
            x_in = x.contiguous(memory_format=layout)
            real_out, fake_out = discriminate(D, x_in, fake, share)  # §4
        real_out, fake_out = real_out.float(), fake_out.float()
        L_d, L_g = losses(args, groups, real_out, cnd, fake_out, cnd_fake)
        if args.adv == "wgan-gp":
            with torch.no_grad():
                same = G(z_penalty, cnd)  # the real images' conditions
            epsilon = shard(torch.rand(args.batch_size, generator=rng)).to(device)
            active = active_heads(args, cnd)
            penalty = args.lambda_gp * gradient_penalty(D, x, same, epsilon, active)
            L_d = L_d + penalty

        # Both gradients are taken before D steps: L_d's in D's weights alone, L_g's in G's alone.
        opt_D.zero_grad()
        L_d.backward(inputs=list(D.parameters()), retain_graph=True)
        if step % args.n_critic == 0:
            opt_G.zero_grad()
            L_g.backward(inputs=list(G.parameters()))
            average_gradients(G)
            opt_G.step()
        average_gradients(D)
        opt_D.step()

        # --- log, sample, save
        logged = dict(
            L_d=average(L_d),
            L_g=average(L_g),
            D_real=mean_judgement(args, real_out, cnd),
            D_fake=mean_judgement(args, fake_out, cnd_fake),
            share=share,
        )
        if args.adv == "wgan-gp":
            logged["penalty"] = average(penalty)
        run.check(step, **logged)
        if run.due(step, args.sample_every) and rank == 0:
            with torch.no_grad():
                samples = G(fixed_z, shown)
            run.check(step, samples=samples)
            save_grid(samples, run.dir / "samples" / f"step_{step:08d}.png")
            if scores:
                checked = functools.partial(run.checked, step)
                logged |= score(scores, G, args.fid_samples, args, device, checked)
        run.log(step, **logged)
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, names=names, groups=groups)
            if rank == 0:
                draw_curves(run.dir)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
