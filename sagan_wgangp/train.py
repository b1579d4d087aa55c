"""Train GAN, WGAN, WGAN-GP, SAGAN or SAGAN + WGAN-GP. Run from the repository's root:

  python -m sagan_wgangp.train                         the paper's: SAGAN + WGAN-GP on 8,000 CelebA faces at 200x200
  python -m sagan_wgangp.train --method wgan           gan, wgan, wgan_gp, sagan, sagan_wgan_gp
  python -m sagan_wgangp.train --quick --method gan    FashionMNIST 32x32, ten minutes on two CPU cores, each method
  python -m sagan_wgangp.train --method gan --gp 10 --batch-norm g     each ingredient is a flag of its own
  python -m sagan_wgangp.train --dataset folder --data-dir DIR --size 200        your own images
  python -m sagan_wgangp.train --dataset 25gaussians --method wgan_gp [--quick]  a toy, with the critic's surface
  python -m sagan_wgangp.train --resume DIR            go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m sagan_wgangp.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import sys
from pathlib import Path

import torch

if not __package__:  # started as a file: relative imports can't work
    print(
        "error: start this as a module from the repository's root: "
        f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}",
        file=sys.stderr,
    )
    sys.exit(2)

from common.cli import (
    UserError,
    add_run_args,
    check_ranges,
    fid_samples,
    new_parser,
    parse,
    positive_int,
    run_main,
)
from common.data import DATASETS, load_images
from common.device import autocast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.cuda import peak_memory
from common.rng import seed_all, step_rng
from common.metrics.images import Tracker
from common.toys import TOYS, toy_data
from common.metrics.toy import mode_metrics
from common.plots import curves, save_grid, surface
from common.runs import Run, read_log

from .model import (
    INITS,
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

FLAGS = (
    "loss",
    "clip",
    "gp",
    "batch_norm",
    "spectral",
    "attention",
    "n_critic",
    "n_critic_warm",
    "optimizer",
    "lr_g",
    "lr_d",
    "beta1",
    "beta2",
    "init",
    "z_dim",
)
METHODS = {
    name: dict(zip(FLAGS, values))
    for name, values in {  # each with its own paper's optimiser and schedule
        "gan": (
            "gan",
            0.0,
            0.0,
            "gd",
            "none",
            "none",
            1,
            0,
            "adam",
            2e-4,
            2e-4,
            0.5,
            0.999,
            "normal",
            100,
        ),
        "wgan": (
            "wasserstein",
            0.01,
            0.0,
            "gd",
            "none",
            "none",
            5,
            100,
            "rmsprop",
            5e-5,
            5e-5,
            0.0,
            0.99,
            "normal",
            100,
        ),
        "wgan_gp": (
            "wasserstein",
            0.0,
            10.0,
            "g",
            "none",
            "none",
            5,
            0,
            "adam",
            1e-4,
            1e-4,
            0.0,
            0.9,
            "he",
            128,
        ),
        "sagan": (
            "hinge",
            0.0,
            0.0,
            "g",
            "gd",
            "auto",
            1,
            0,
            "adam",
            1e-4,
            4e-4,
            0.0,
            0.9,
            "xavier",
            128,
        ),
        "sagan_wgan_gp": (
            "wasserstein",
            0.0,
            10.0,
            "g",
            "g",
            "auto",
            1,
            0,
            "adam",
            1e-4,
            4e-4,
            0.0,
            0.9,
            "xavier",
            128,
        ),
    }.items()
}
SMALL_IMAGES = {name: dict(size=32, images=0) for name in ("fashion-mnist", "mnist", "cifar10")}
TOY = dict(
    width=512,
    z_dim=2,
    batch_size=256,
    init="he",
    batch_norm="none",
    attention="none",
    steps=100_000,
    lr_g=1e-4,
    lr_d=1e-4,
    beta1=0.5,
)  # WGAN-GP's authors' code; with a penalty also λ = 0.1
QUICK = dict(dataset="fashion-mnist", size=32, images=0, width=32, batch_size=32)
QUICK_METHODS = {  # steps of about equal CPU time (within a factor of 2)
    "gan": dict(steps=14_000),
    "wgan": dict(steps=3400, lr_g=2e-4, lr_d=2e-4, n_critic_warm=10),
    "wgan_gp": dict(steps=2100, lr_g=5e-4, lr_d=5e-4),
    "sagan": dict(steps=5000, lr_g=3e-4, lr_d=1.2e-3),
    "sagan_wgan_gp": dict(steps=3100, lr_g=3e-4, lr_d=1.2e-3),
}
QUICK_TOY = dict(width=128, lr_g=5e-4, lr_d=5e-4, lr_decay=True, steps=10_000)
SMOKE = dict(
    dataset="synthetic",
    size=16,
    images=0,
    width=8,
    batch_size=8,
    n_critic=2,
    n_critic_warm=0,
    steps=12,
    log_every=2,
    sample_every=6,
    save_every=6,
)


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group(
        "paper (defaults: --method sagan_wgan_gp's; another method brings its own)"
    )
    paper.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="sagan_wgan_gp",
        help="sets the flags up to --z-dim",
    )
    paper.add_argument("--loss", choices=tuple(LOSSES), help="Eq. 1, Eq. 2-3, or SAGAN's")
    paper.add_argument(
        "--clip", type=float, metavar="c", help="clip D's weights to [-c, c], 0: not (WGAN: 0.01)"
    )
    paper.add_argument(
        "--gp",
        type=float,
        metavar="λ",
        help="weight of the gradient penalty (Eq. 4), 0: none "
        "(WGAN-GP: 10; toys 0.1: its authors' code)",
    )
    paper.add_argument(
        "--batch-norm", choices=("none", "g", "d", "gd"), help="in G, D or both (§3.2)"
    )
    paper.add_argument(
        "--spectral",
        choices=("none", "g", "d", "gd"),
        help="spectral normalisation in G, D or both "
        "(SAGAN: both; D's is off with the penalty, which pulls against it: ours)",
    )
    paper.add_argument(
        "--attention",
        metavar="{none,auto,SIDE,SIDE,…}",
        help="sides of the maps in G and D that have "
        "self-attention; auto: the largest up to 32 below the image's own (SAGAN: 32 of 128)",
    )
    paper.add_argument(
        "--n-critic", type=positive_int, help="D's steps for one of G (WGAN, WGAN-GP: 5; SAGAN: 1)"
    )
    paper.add_argument(
        "--n-critic-warm",
        type=int,
        help="the same in G's first 25 steps and in every 500th, 0: as "
        "always (WGAN's authors' code: 100)",
    )
    paper.add_argument("--optimizer", choices=("adam", "rmsprop"), help="WGAN: rmsprop")
    paper.add_argument("--lr-g", type=float, help="of G (TTUR: 1e-4)")
    paper.add_argument("--lr-d", type=float, help="of D (TTUR: 4e-4)")
    paper.add_argument(
        "--lr-decay",
        action="store_true",
        help="both rates fall linearly to 0 at --steps (WGAN-GP's authors' code on CIFAR-10)",
    )
    paper.add_argument("--beta1", type=float, help="Adam's β₁")
    paper.add_argument("--beta2", type=float, help="Adam's β₂, RMSProp's α")
    paper.add_argument(
        "--init", choices=tuple(INITS), help="initial weights (the authors' code of each)"
    )
    paper.add_argument("--z-dim", type=positive_int, help="N_z")
    paper.add_argument(
        "--width",
        type=positive_int,
        default=64,
        help="channels at half size; doubled up to 8 times (DCGAN: 64); toys: units a layer",
    )
    paper.add_argument("--size", type=int, default=200, help="image side (§4.2: 200), 6 or more")
    paper.add_argument("--channels", type=int, choices=(1, 3), help="none: the data set's own")
    paper.add_argument(
        "--images",
        type=int,
        default=8000,
        metavar="N",
        help="a random choice that --seed fixes (§4.1: 8,000), 0: all",
    )
    add_run_args(
        parser,
        datasets=DATASETS + TOYS + ("synthetic",),
        dataset="celeba",
        steps=10_000,
        batch_size=64,
        steps_help='updates of G (Fig. 4 goes to 10,000 "epochs"; steps are not given)',
        batch_help="(not given; WGAN, WGAN-GP: 64)",
    )
    parser.add_argument(
        "--fid-samples",
        type=fid_samples,
        default=0,
        metavar="N",
        help="images: at each "
        "--sample-every, FID and IS of N samples against the test split. 0: not",
    )
    parser.add_argument(
        "--extractor",
        choices=("auto", "lenet", "inception", "efficientnet"),
        default="auto",
        help="of --fid-samples; auto: the first that can be had",
    )
    parser.set_defaults(**METHODS["sagan_wgan_gp"])

    known, _ = parser.parse_known_args(argv)
    toy = known.dataset in TOYS
    toy_preset = TOY | ({"gp": 0.1} if METHODS[known.method]["gp"] else {})
    args = parse(
        parser,
        argv,
        {
            "method": METHODS,
            "dataset": SMALL_IMAGES | {"folder": dict(images=0)} | dict.fromkeys(TOYS, toy_preset),
            "quick": {True: QUICK_TOY if toy else QUICK | QUICK_METHODS[known.method]},
            "smoke": {True: SMOKE},
        },
    )
    check_ranges(
        args,
        **dict.fromkeys(("clip", "gp", "n_critic_warm", "lr_g", "lr_d", "images"), (0, None)),
        beta1=(0, 0.999999),
        beta2=(0, 0.999999),
    )
    if args.gp and "d" in args.batch_norm:
        raise UserError(
            f"--gp {args.gp} with --batch-norm {args.batch_norm}: the penalty needs each sample's own "
            "gradient, which BatchNorm in D mixes with the others'. Use --batch-norm g or none"
        )
    if args.dataset not in TOYS:
        attention_sides(args)
    elif args.attention != "none" or args.batch_norm != "none":
        raise UserError(
            f"--dataset {args.dataset}: its networks have no attention and no BatchNorm. Leave out "
            "--attention and --batch-norm"
        )
    return args


def attention_sides(args):
    """The sides of --attention, checked against the pyramid of --size."""
    try:
        sides = pyramid(args.size)[1:]
        wanted = {"none": [], "auto": [next(s for s in sides if s <= 32)]}.get(args.attention)
        wanted = [int(side) for side in args.attention.split(",")] if wanted is None else wanted
    except ValueError as e:
        raise UserError(f"--size {args.size}, --attention {args.attention}: {e}") from None
    if unknown := set(wanted) - set(sides):
        raise UserError(
            f"--attention {args.attention}: images of side {args.size} have maps of side "
            f"{', '.join(map(str, sides))}, not {', '.join(map(str, unknown))}"
        )
    return wanted


def build(args):
    """G and D of a run, from its arguments alone."""
    of_G, of_D = (
        {name: player in getattr(args, name) for name in ("spectral", "batch_norm")}
        for player in "gd"
    )
    if args.dataset in TOYS:
        return (
            ToyGenerator(args.z_dim, args.width, of_G["spectral"], args.init),
            ToyCritic(args.width, of_D["spectral"], args.init),
        )
    shape = dict(
        size=args.size,
        channels=args.channels,
        width=args.width,
        attention=attention_sides(args),
        init=args.init,
    )
    return Generator(args.z_dim, **shape, **of_G), Critic(**shape, **of_D)


def load_data(args, split="train"):
    """What is trained on: it has batch(step, batch_size, seed, device)."""
    if args.dataset in TOYS:
        return toy_data(args.dataset)
    limit = (args.images or None) if split == "train" else None
    return load_images(
        args.dataset,
        args.data_dir,
        split,
        args.size,
        args.channels,
        limit=limit,
        limit_seed=args.seed,
        skip_bad=getattr(args, "skip_bad", False),
    )


def make_optimizer(net, lr, args, device):
    if args.optimizer == "rmsprop":
        return torch.optim.RMSprop(net.parameters(), lr=lr, alpha=args.beta2)
    return fused_adam(net.parameters(), device, lr=lr, betas=(args.beta1, args.beta2))


def critic_steps(step, args):
    """D's updates before update `step` (1, 2, …) of G."""
    return (
        args.n_critic_warm
        if args.n_critic_warm and (step <= 25 or step % 500 == 1)
        else args.n_critic
    )


def gammas(net):
    """γ of each attention block."""
    return [block.gamma.detach() for block in net if isinstance(block, SelfAttention)]


def main(argv=None):
    args = parse_args(argv)
    toy, B = args.dataset in TOYS, args.batch_size

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    data = load_data(args)
    if not toy:
        args.channels = data.to(device).channels
        if args.fid_samples and rank == 0:
            track = Tracker(
                load_data(args, "test"), args.dataset, device, args.data_dir, args.extractor
            )

    # --- networks and optimisers (each method's own paper)
    G, D = (net.to(device) for net in build(args))
    opt_G, opt_D = (
        make_optimizer(G, args.lr_g, args, device),
        make_optimizer(D, args.lr_d, args, device),
    )
    critic_loss, generator_loss = LOSSES[args.loss]
    fixed_z = torch.randn(1000 if toy else 25, args.z_dim, generator=step_rng(args.seed, 0)).to(
        device
    )
    zero = torch.zeros((), device=device)

    shape = (2,) if toy else (args.channels, args.size, args.size)
    check_batch_norm("--batch-size", B, world, (G, (args.z_dim,)), (D, shape))

    # --- resume
    run = Run("sagan_wgangp", args, device, rank)
    start, values = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    batch = values.get("batch", 0)  # batches of data used: D's steps so far
    size = "" if toy else f" ({len(data):,} images at {args.size}x{args.size}x{args.channels})"
    flags = ", ".join(f"{flag} {getattr(args, flag)}" for flag in FLAGS)
    run.announce(
        f"{args.method}: {flags}; on {args.dataset}{size}, {device}: steps {start + 1} to {args.steps}, "
        f"batch {B}" + f" over {world} processes" * (world > 1)
    )

    # --- Algorithm (WGAN-GP Alg. 1; the other methods are its special cases)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        if args.lr_decay:
            for opt, lr in ((opt_G, args.lr_g), (opt_D, args.lr_d)):
                opt.param_groups[0]["lr"] = lr * (1 - (step - 1) / args.steps)
        for _ in range(critic_steps(step, args)):
            x, batch = shard(data.batch(batch, B, args.seed, device)[0]), batch + 1
            z = shard(torch.randn(B, args.z_dim, generator=rng)).to(device)
            with autocast(device, args.amp):
                with torch.no_grad():
                    fake = G(z)
                real_out, fake_out = D(x).float(), D(fake).float()
            L_D, GP = critic_loss(real_out, fake_out), zero
            if args.gp:
                GP = gradient_penalty(D, x, fake, shard(torch.rand(B, generator=rng)).to(device))
            opt_D.zero_grad()
            (L_D + args.gp * GP).backward()  # Eq. 4, in one backward
            average_gradients(D)
            opt_D.step()
            if args.clip:
                clip_weights(D, args.clip)

        D.requires_grad_(False)
        z = shard(torch.randn(B, args.z_dim, generator=rng)).to(device)
        with autocast(device, args.amp):
            L_G = generator_loss(D(G(z)).float())
        opt_G.zero_grad()
        L_G.backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)

        # --- log, sample, save
        logged = {"L_D": average(L_D), "L_G": average(L_G)}
        logged |= {
            f"gamma_{name}{i or ''}": gamma
            for name, net in (("G", G), ("D", D))
            for i, gamma in enumerate(gammas(net))
        }
        if args.loss == "wasserstein":
            logged["W"] = average(wasserstein_distance(real_out, fake_out))
        if args.gp:
            logged["GP"] = average(GP)
        if run.due(step, args.save_every):
            logged["peak_MiB"] = torch.tensor(peak_memory(device))
        run.check(step, **logged)
        if run.due(step, args.sample_every) and rank == 0:
            G.eval(), D.eval()  # running BatchNorm statistics, no power iteration
            with torch.no_grad():
                run.check(step, samples=G(fixed_z))
                draw(G, D, data, fixed_z, args, run.dir / "samples" / f"step_{step:08d}.png")
                if toy and hasattr(data, "centres"):
                    logged |= mode_metrics(G(fixed_z).cpu(), data)
                elif not toy and args.fid_samples:
                    z = torch.randn(
                        args.fid_samples, args.z_dim, generator=step_rng(args.seed, 0)
                    ).to(device)
                    images = (G(part).float() for part in z.split(250))
                    logged |= track(run.checked(step, images), args.fid_samples)
            G.train(), D.train()
        run.log(step, **logged)
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, batch=batch)
            if rank == 0:
                curves(
                    read_log(run.dir / "log.jsonl"), panels(args), run.dir / "curves.png", smooth=10
                )
    return run.metrics


def draw(G, D, data, z, args, path):
    """5x5 images (Fig. 2); of a toy, the critic's values in the plane with real and generated points."""
    if args.dataset not in TOYS:
        return save_grid(G(z).float(), path, nrow=5)
    real = data.sample(len(z), step_rng(args.seed, 0))[0]
    surface(
        lambda xy: D(xy.to(z.device)).float().cpu(),
        {data.name: real, "generated": G(z).cpu()},
        path,
        limit=2,
    )


def panels(args):
    """What curves.png shows (Fig. 3)."""
    attention = [["gamma_G", "gamma_D"]] if args.attention != "none" else []
    return (
        [["L_D"], ["L_G"]]
        + [["W"]] * (args.loss == "wasserstein")
        + [["GP"]] * (args.gp > 0)
        + attention
    )


if __name__ == "__main__":
    run_main(main)
