"""Train BEGAN. Run from the repository's root:

  python -m began.train                     the thesis: FashionMNIST 64x64, 8 epochs (a GPU's work)
  python -m began.train --quick             small: minutes on a CPU (README.md)
  python -m began.train --arch berthelot    the original convolutional autoencoder
  python -m began.train --resume DIR        go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m began.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m began.train", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import FilePath, ImageRunArgs
from common.cli import run_main
from common.data import DATASETS, load_images
from common.device import autocast, bf16_if_fast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError
from common.plots import save_grid
from common.rng import seed_all, step_rng
from common.runs import Run, read_log

from .model import (
    Autoencoder,
    Generator,
    autoencoder_error,
    convergence_measure,
    discriminator_loss,
    generator_loss,
    update_k,
)
from .pretrained import encoder_weights
from .thesis_log import draw_curves


@dataclass
class Args(ImageRunArgs):
    # --- paper (thesis; --arch berthelot takes arXiv:1703.10717's)
    arch: Literal["thesis", "berthelot"] = "thesis"  # networks and settings: §3.1 / arXiv §3.5
    encoder: Literal["resnet18", "conv"] = "resnet18"  # D's encoder (§3.1)
    # ResNet-18's: imagenet (§3.1), none or a file; none without ResNet-18
    encoder_weights: FilePath = "imagenet"
    size: int = 64  # image side (appendix: 64)
    channels: Literal[1, 3] | None = None  # none: the data set's own (appendix: 1)
    width: int = 64  # filters: base_dim (appendix) / n (arXiv §4.1: 128)
    z_dim: int = 48  # N_z, length of z (appendix; §3.1: 64; departure 3)
    z_dist: Literal["normal", "uniform"] = "normal"  # of z (appendix; §2.3: uniform on [-1, 1])
    code_dim: int = 512  # N_h, length of D's code (§3.1: 512, ResNet-18's; arXiv §4.1: 64)
    gamma: float = 0.5  # γ, diversity ratio in [0, 1] (appendix)
    lambda_k: float = 0.001  # λ_k, gain of k, in [0, ∞) (§2.3)
    target_norm: Literal[1, 2] = 1  # η, exponent of the pixel error (appendix: 1)
    lr_g: float = 1e-4  # Adam's learning rate for G, in [0, ∞) (appendix)
    lr_d: float = 1e-5  # Adam's learning rate for D, in [0, ∞) (appendix)
    beta1: float = 0.5  # Adam's β₁ in [0, 0.999] (appendix); β₂ is 0.999
    # both rates are halved after each so many steps whose mean M is no new minimum, in [0, ∞);
    # 0: never (arXiv §4.1: halved when M stalls; over how many steps is not given)
    lr_halve_patience: int = 0

    # --- run
    dataset: Literal[*DATASETS, "synthetic"] = "fashion-mnist"
    steps: int = 8 * 938  # updates of G, and of D (appendix: 8 epochs of 938)
    batch_size: int = 64  # images per step (appendix; departure 5)


BERTHELOT = dict(
    width=128,
    z_dim=64,
    z_dist="uniform",
    code_dim=64,
    encoder="conv",
    encoder_weights="none",
    batch_size=16,
    lr_g=1e-4,
    lr_d=1e-4,
    beta1=0.9,
    steps=200_000,
)
QUICK = dict(
    size=32,
    width=32,
    encoder="conv",
    encoder_weights="none",
    batch_size=32,
    gamma=0.8,
    lr_g=1e-3,
    lr_d=1e-4,
    steps=5000,
    amp=bf16_if_fast,
)
SMOKE = dict(
    dataset="synthetic",
    size=16,
    width=8,
    encoder="conv",
    encoder_weights="none",
    batch_size=8,
    steps=12,
    log_every=2,
    sample_every=6,
    save_every=6,
)
PRESETS = {"arch": {"berthelot": BERTHELOT}, "quick": {True: QUICK}, "smoke": {True: SMOKE}}


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, PRESETS)
    if args.resume:  # older runs may have what is refused below; it changes nothing
        return args
    if args.encoder == "resnet18":
        if args.arch == "berthelot":
            raise UserError(
                "--encoder resnet18 --arch berthelot: its autoencoder has an encoder of its own. "
                "Leave one of them out"
            )
        if args.code_dim != 512:
            raise UserError(
                f"--code-dim {args.code_dim}: the code of ResNet-18 has 512 numbers. Leave it out, "
                "or give --encoder conv"
            )
    elif args.encoder_weights not in ("imagenet", "none"):
        raise UserError(
            f"--encoder-weights {args.encoder_weights} is for ResNet-18: leave it out, or give "
            "--encoder resnet18"
        )
    else:
        args.encoder_weights = "none"
    return args


def build(args, encoder_state=None):
    """G and D of a run, from its arguments alone."""
    shape = dict(size=args.size, channels=args.channels, width=args.width, arch=args.arch)
    try:
        G = Generator(args.z_dim, **shape)
        D = Autoencoder(args.code_dim, encoder=args.encoder, encoder_state=encoder_state, **shape)
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None
    return G, D


def sample_z(n, args, generator):
    """z_D or z_G: (n, N_z), uniform on [-1, 1] (§2.3) or normal (appendix)."""
    if args.z_dist == "uniform":
        return torch.rand(n, args.z_dim, generator=generator) * 2 - 1
    return torch.randn(n, args.z_dim, generator=generator)


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    data = load_images(
        args.dataset, args.data_dir, "train", args.size, args.channels, skip_bad=args.skip_bad
    ).to(device)
    args.channels = data.channels

    # --- networks and optimisers (§3.1, appendix)
    encoder_state = None
    resumes = args.resume and Path(args.resume, "last.pt").exists()  # which has D's weights
    if args.encoder == "resnet18" and not resumes:
        encoder_state, args.encoder_weights = encoder_weights(args.encoder_weights)
    G, D = build(args, encoder_state)
    layout = torch.channels_last if args.amp == "bf16" else torch.contiguous_format
    G.to(device, memory_format=layout)
    D.to(device, memory_format=layout)
    opt_G = fused_adam(G.parameters(), device, lr=args.lr_g, betas=(args.beta1, 0.999))
    opt_D = fused_adam(D.parameters(), device, lr=args.lr_d, betas=(args.beta1, 0.999))
    fixed_z = sample_z(64, args, step_rng(args.seed, 0)).to(device)
    inputs = (G, (args.z_dim,)), (D, (args.channels, args.size, args.size))
    check_batch_norm("--batch-size", args.batch_size, world, *inputs)

    # --- resume
    run = Run("began", args, device, rank, data.identity())
    start, values = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    k_t = values.get("k_t", torch.tensor(0.0)).to(device)  # k_0 = 0, §2.3
    M_sum = values.get("M_sum", torch.tensor(0.0)).to(device)
    M_best = values.get("M_best", torch.tensor(1e9)).to(device)
    run.announce(
        f"BEGAN, {args.arch} preset, encoder {args.encoder} (weights: {args.encoder_weights}), on "
        f"{args.dataset} ({len(data):,} images at {args.size}x{args.size}x{data.channels}), "
        f"{device}: steps {start + 1} to {args.steps}, batch {args.batch_size}"
    )

    # --- Algorithm (§2.3, §3.2; order of the appendix)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, args.batch_size, args.seed, device)
        x = shard(x).contiguous(memory_format=layout)
        z_D = shard(sample_z(args.batch_size, args, rng)).to(device)
        z_G = shard(sample_z(args.batch_size, args, rng)).to(device)

        # D's step: L_D = L(x) − k_t·L(G(z_D)). G is not in its graph.
        with autocast(device, args.amp):
            with torch.no_grad():
                fake = G(z_D)
            real_error = autoencoder_error(x, D(x), args.target_norm)
            # departure 1: of G(z), not x
            fake_error = autoencoder_error(fake, D(fake), args.target_norm)
        L_D = discriminator_loss(real_error, fake_error, k_t)
        opt_D.zero_grad()
        L_D.backward()
        average_gradients(D)
        opt_D.step()

        # G's step: L_G = L(G(z_G)) against the new D (departure 8), whose weights are fixed here.
        D.requires_grad_(False)
        with autocast(device, args.amp):
            fake = G(z_G)
            L_G = generator_loss(autoencoder_error(fake, D(fake), args.target_norm))
        opt_G.zero_grad()
        L_G.backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)

        # k_{t+1} = k_t + λ_k (γ L(x) − L(G(z_G))) and M = L(x) + |γ L(x) − L(G(z_G))|
        L_x, L_G = average(real_error.mean()), average(L_G)
        k_t = update_k(k_t, L_x, L_G, args.gamma, args.lambda_k)
        M = convergence_measure(L_x, L_G, args.gamma)

        # arXiv §4.1: halve both learning rates when M stalls. Adam keeps its moments.
        if args.lr_halve_patience:
            M_sum = M_sum + M
            if step % args.lr_halve_patience == 0:
                if M_sum >= M_best:
                    for group in opt_G.param_groups + opt_D.param_groups:
                        group["lr"] /= 2
                M_best = torch.minimum(M_best, M_sum)
                M_sum = torch.zeros_like(M_sum)

        # --- log, sample, save
        run.log(step, L_x=L_x, L_G=L_G, L_D=average(L_D), k=k_t, M=M)
        if run.due(step, args.sample_every) and rank == 0:
            G.eval()  # running BatchNorm statistics, as in the appendix
            with torch.no_grad():
                samples = G(fixed_z)
            G.train()
            run.check(step, samples=samples)
            save_grid(samples, run.dir / "samples" / f"step_{step:08d}.png")
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, k_t=k_t, M_sum=M_sum, M_best=M_best)
            if rank == 0:
                draw_curves(read_log(run.dir / "log.jsonl"), args, run.dir / "curves.png")
    return run.metrics


if __name__ == "__main__":
    run_main(main)
