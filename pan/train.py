"""Train PAN, or a loss that it is compared with. Run from the repository's root:

  python -m pan.train                              the authors' facades (a GPU's work)
  python -m pan.train --quick                      fill a hole in FashionMNIST: minutes on a CPU
  python -m pan.train --quick --task deraining     take rain away, likewise
  python -m pan.train --quick --loss l2            l1, l2 or context-encoder instead of PAN
  python -m pan.train --quick --task deraining --loss cgan     l1, l2, l2-cgan, pa-cgan, pix2pix
  python -m pan.train --quick --dataset folder --data-dir DIR        your own pairs at 64 pixels
  python -m pan.train --dataset folder --data-dir DIR                your own pairs
  python -m pan.train --task edges --dataset folder --data-dir DIR   pairs made of your own images
  python -m pan.train --resume DIR                 go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m pan.train …

Leaves in the run directory: log.jsonl, curves.png, last.pt, and samples/ of held-out pairs, each
x, T(x), y.
"""

import sys
from dataclasses import dataclass
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m pan.train", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import ImageRunArgs
from common.cli import run_main
from common.data import DATASETS
from common.device import autocast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError
from common.plots import save_grid
from common.rng import seed_all
from common.runs import Run, read_log

from . import model
from .model import (
    discriminator_loss,
    perceptual_distances,
    perceptual_loss,
    pixel_loss,
    transformation_loss,
)
from .pairs import PIX2PIX_SETS, load_pairs
from .pictures import draw_curves, in_rows, whole
from .presets import LOSSES, presets
from .tasks import TASKS, overlap


@dataclass
class Args(ImageRunArgs):
    # --- paper ("code": github.com/WANG-Chaoyue/PAN, its settings for facades)
    loss: Literal[*LOSSES] = "pan"  # sets the flags up to --lr-factor
    lambdas: tuple[float, float, float, float] = model.LAMBDAS  # λ_1 … λ_4 (code); 0: no P
    m: float = model.MARGIN  # margin up to which D makes P larger (code); 0: no hinge; in [0, ∞)
    lambda_gan: float = 1.0  # weight of T's GAN loss (code); 0 with all λ_j 0: no D
    # T's GAN loss: E log(1 − D(T(x))) (code) or −E log D(T(x)) (slides)
    adversarial: Literal["saturating", "nonsaturating"] = "saturating"
    label: float = 0.9  # what D(y) shall be, in (0, 1] (code; formula: 1)
    conditional: bool = False  # D sees x beside y or T(x), as pix2pix's (PAN's: not)
    pixel: Literal["none", "l1", "l2", "rim-l2"] = "none"  # T's loss in pixels; rim-l2: Pathak's
    lambda_pixel: float = 25.0  # its weight (code: 25, switched off)
    lr_factor: float = 1.0  # T's learning rate over D's (Context-Encoder: 10)
    lr: float = 2e-4  # Adam's learning rate (code)
    beta1: float = 0.5  # Adam's β₁, in [0, 1) (code); β₂ is 0.999
    same_batch: bool = False  # D and T step on one batch (slides); else each on its own (code)
    # what x is of y: pairs are files, the other tasks make x of an image y
    task: Literal["pairs", *TASKS] = "pairs"
    # T; auto: the task's own (inpainting, deraining), else unet, which has 8 + 8 layers (code), or
    # unet6 at sizes that only it can take
    net: Literal["auto", "unet", "unet6", "deraining", "inpainting"] = "auto"
    direction: Literal["AtoB", "BtoA"] | None = None  # of pairs; none: the set's own
    size: int = 256  # image side (code)
    channels: Literal[1, 3] | None = None  # none: the data's own (code: 3)
    width: int = 64  # channels of D's first layer (code)
    width_t: int = 64  # of T's (code)
    bottleneck: int = 4000  # channels of the in-painting net's middle (code)
    # rate after a U-Net's first three deconvolutions, in [0, 1) (code: 0, or 0.5)
    dropout: float = 0.0
    no_jitter: bool = False  # without random crops, from 286 pixels to 256 (code: with)
    no_flip: bool = False  # without mirroring at random (departure 8)

    # --- run
    dataset: Literal[*PIX2PIX_SETS, *DATASETS, "synthetic"] = "facades"
    steps: int = 50_050  # updates of T, and of D (code: 1,001 epochs of 50)
    batch_size: int = 4  # (code)


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, presets)
    if args.net == "auto":
        unet = "unet6" if args.size % 256 and args.size % 64 == 0 else "unet"
        args.net = args.task if args.task in ("inpainting", "deraining") else unet
    if (args.net == "inpainting") != (args.task == "inpainting"):
        raise UserError(
            f"--net {args.net} --task {args.task}: net and task inpainting only go together"
        )
    if args.task == "inpainting" and args.conditional:
        raise UserError(
            "--task inpainting with --conditional (set by --loss cgan, l2-cgan, pa-cgan, pix2pix): "
            "T(x) is only x's middle, so D can't see both. Give another task or loss"
        )
    if args.task != "inpainting" and args.pixel == "rim-l2":
        raise UserError(
            f"--pixel rim-l2 (set by --loss context-encoder) is of a hole's rim, and --task "
            f"{args.task} has none: give --task inpainting, or another loss"
        )
    if args.pixel == "rim-l2" and (
        any(args.lambdas) or not args.lambda_gan or args.adversarial == "saturating"
    ):
        raise UserError(
            "--pixel rim-l2 is the Context-Encoder's, whose T has a non-saturating GAN loss and "
            "no P: give --loss context-encoder"
        )
    if not has_discriminator(args) and args.pixel == "none":
        raise UserError("--lambda-gan 0 --lambdas 0 0 0 0 --pixel none: T has nothing to learn")
    if args.skip_bad and args.task == "pairs":
        raise UserError("--skip-bad is for single images: move the files of a bad pair away")
    if args.resume:  # older runs may have what is refused below; it changes nothing
        return args
    if args.direction and args.task != "pairs":
        raise UserError(
            f"--direction {args.direction} is for pairs of files, and --task {args.task} makes its "
            "own: leave it out, or give --task pairs"
        )
    if args.conditional and not has_discriminator(args):
        raise UserError(
            "--conditional (set by --loss cgan, l2-cgan, pa-cgan, pix2pix) shows x to D, and "
            "--lambda-gan 0 --lambdas 0 0 0 0 leave no D: leave it out, or give another loss"
        )
    return args


def has_discriminator(args):
    return args.lambda_gan > 0 or any(args.lambdas)


def load_data(args, split="train"):
    """Pairs: they have batch(step, batch_size, seed, device) and pairs_at(indices, device)."""
    return load_pairs(
        args.task,
        args.dataset,
        args.data_dir,
        split,
        args.size,
        args.channels,
        jitter=not args.no_jitter,
        flip=not args.no_flip,
        direction=args.direction,
        skip_bad=args.skip_bad,
    )


def build(args):
    """T and D of a run, from its arguments alone."""
    shape = dict(channels=args.channels, width=args.width_t)
    try:
        if args.net == "inpainting":
            T = model.InpaintingNet(args.size, bottleneck=args.bottleneck, **shape)
        elif args.net == "deraining":
            T = model.DerainingNet(**shape)
        else:
            T = model.UNet(8 if args.net == "unet" else 6, dropout=args.dropout, **shape)
            if args.size % T.multiple:
                raise ValueError(
                    f"--net {args.net} takes multiples of {T.multiple} pixels. Give another size, "
                    "--net unet6 (multiples of 64) or --net deraining (any)"
                )
        hole = args.net == "inpainting"  # T gives, and D sees, the middle half
        D = model.Discriminator(
            args.size // 2 if hole else args.size,
            args.channels * (2 if args.conditional else 1),
            args.width,
            centre=hole,
        )
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None
    return T, D


def transformation_objective(args, fake, y, fake_logits, P):
    """L_T = λ_gan · GAN loss + P + λ_pixel · loss in pixels; rim-l2: the Context-Encoder's L_T.

    fake_logits: None without D.
    """
    if args.pixel == "rim-l2":
        weights = args.lambda_pixel, args.lambda_gan
        return model.context_encoder_loss(fake, y, fake_logits, overlap(args.size), *weights)
    L_T = P
    if args.lambda_gan:
        saturating = args.adversarial == "saturating"
        L_T = L_T + args.lambda_gan * transformation_loss(fake_logits, saturating=saturating)
    if args.pixel != "none":
        L_T = L_T + args.lambda_pixel * pixel_loss(fake, y, p=1 if args.pixel == "l1" else 2)
    return L_T


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    data = load_data(args).to(device)
    args.channels = data.channels
    held_out = load_data(args, "test")
    x_shown, y_shown = held_out.pairs_at(range(min(12, len(held_out))), device)
    y_shown = whole(args.task, x_shown, y_shown)

    # --- networks and optimisers (authors' code)
    layout = torch.channels_last if args.amp == "bf16" else torch.contiguous_format
    T, D = (net.to(device, memory_format=layout) for net in build(args))
    betas = (args.beta1, 0.999)
    opt_T = fused_adam(T.parameters(), device, lr=args.lr * args.lr_factor, betas=betas)
    opt_D = fused_adam(D.parameters(), device, lr=args.lr, betas=betas)
    image = (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", args.batch_size, world, (T, image))
    state = dict(T=T, opt_T=opt_T)
    if has_discriminator(args):
        state |= dict(D=D, opt_D=opt_D)

    def pairs(number):
        """x and y of batch `number`: this process's share."""
        x, y = data.batch(number, args.batch_size, args.seed, device)
        x = shard(x).contiguous(memory_format=layout)
        y = shard(y).contiguous(memory_format=layout)
        return x, y

    def seen(x, image):
        """What D sees of an image."""
        return model.pair(x, image) if args.conditional else image

    # --- resume
    run = Run("pan", args, device, rank, data.identity())
    start, _ = run.resume(**state)
    run.announce(
        f"{args.loss}, {args.task} on {args.dataset} "
        f"({len(data):,} pairs at {args.size}x{args.size}x{args.channels}), T {args.net}, "
        f"{device}: steps {start + 1} to {args.steps}, "
        f"batch {args.batch_size}"
    )

    # --- Algorithm (authors' code: each batch serves one network, by turns)
    for step in run.steps(start, args.steps):
        batch_D = batch_T = step - 1
        if not args.same_batch:  # departure 9
            batch_D, batch_T = 2 * step - 2, 2 * step - 1
        logged = {}

        # D's step: L_D = −log D(y) − log(1 − D(T(x))) + [m − P]⁺. T is not in its graph.
        if has_discriminator(args):
            x, y = pairs(batch_D)
            with autocast(device, args.amp):
                with torch.no_grad():
                    fake = T(x)
                real_logits, real_features = D(seen(x, y))
                fake_logits, fake_features = D(seen(x, fake))
            P_j = perceptual_distances(real_features, fake_features)
            P = perceptual_loss(P_j, args.lambdas)
            # the value of the whole batch under torchrun: a mean of hinges is no hinge of a mean
            P = P + (average(P) - P.detach())
            hinged = P if args.m else None
            L_D = discriminator_loss(
                real_logits.float(), fake_logits.float(), hinged, args.m, args.label
            )
            opt_D.zero_grad()
            L_D.backward()
            average_gradients(D)
            opt_D.step()
            logged = dict(
                L_D=average(L_D),
                hinge_active=average((P < args.m).float()),
                D_real=average(real_logits.float().sigmoid().mean()),
                D_fake=average(fake_logits.float().sigmoid().mean()),
            )

        # T's step: L_T = log(1 − D(T(x))) + P against the new D, whose weights are fixed here.
        x, y = pairs(batch_T)
        P = torch.zeros((), device=device)
        fake_logits = None
        D.requires_grad_(False)
        with autocast(device, args.amp):
            fake = T(x)
        if has_discriminator(args):
            with autocast(device, args.amp):
                real_features = D(seen(x, y))[1]
                fake_logits, fake_features = D(seen(x, fake))
            fake_logits = fake_logits.float()
            P_j = perceptual_distances(real_features, fake_features)
            P = perceptual_loss(P_j, args.lambdas)
            logged |= {f"P_{j}": average(distance) for j, distance in enumerate(P_j, 1)}
            logged |= dict(P=average(P))
        L_T = transformation_objective(args, fake.float(), y, fake_logits, P)
        opt_T.zero_grad()
        L_T.backward()
        average_gradients(T)
        opt_T.step()
        D.requires_grad_(True)

        # --- log, sample, save
        logged |= dict(L_T=average(L_T), pixel_l1=average(pixel_loss(fake.float(), y, p=1)))
        run.check(step, **logged)
        if run.due(step, args.sample_every) and rank == 0:
            T.eval()  # running BatchNorm statistics
            with torch.no_grad():
                samples = T(x_shown).float()
            T.train()
            run.check(step, samples=samples)
            grid = in_rows(x_shown, whole(args.task, x_shown, samples), y_shown)
            save_grid(grid, run.dir / "samples" / f"step_{step:08d}.png", nrow=9)
        run.log(step, **logged)
        if run.due(step, args.save_every):
            run.save(step, **state)
            if rank == 0:
                draw_curves(read_log(run.dir / "log.jsonl"), run.dir / "curves.png")
    return run.metrics


if __name__ == "__main__":
    run_main(main)
