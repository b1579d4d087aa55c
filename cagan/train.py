"""Train CA-GAN, or the AC-GANs it is compared with. Run from the repository's root:

  python -m cagan.train                        §5: CA-GAN, LSGAN, 100 epochs of MNIST (a GPU's work)
  python -m cagan.train --quick                ten minutes on two CPU cores, FashionMNIST
  python -m cagan.train --loss modified_ac --lambda-cls 0.1
  python -m cagan.train --unbalanced 5500 500 --norm batch --steps 46875 --mix-from 100       §6.3: mixed batches
  python -m cagan.train --dataset celeba --size 64 --attributes Male Black_Hair+Blond_Hair+Bald
  python -m cagan.train --resume DIR           go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m cagan.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z, one row a condition), last.pt.
"""

import functools
import sys
from pathlib import Path

import torch

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common.cli import UserError, add_run_args, check_ranges, fid_samples, new_parser, parse, positive_int, run_main
from common.data import DATASETS, load_images
from common.device import (autocast, average, average_gradients, bf16_if_fast, check_batch_norm,
                           choose_device, fused_adam, init_processes, seed_all, shard, step_rng)
from common.metrics.images import load_extractor
from common.plots import curves, save_grid
from common.runs import Run, read_log

from .conditions import each_condition, set_conditions, unbalance, uniform_targets
from .metrics import ConditionalScores
from .model import (ADVERSARIAL, Discriminator, Generator, ac_discriminator_loss, ac_generator_loss,
                    ca_discriminator_loss, ca_generator_loss, classification_loss, discriminate, gradient_penalty,
                    modified_ac_discriminator_loss, modified_ac_generator_loss)

LOSSES = ("ca", "ac", "modified_ac", "modified_ac_with_generated")
PRESETS = {
    "adv": {"wgan-gp": dict(n_critic=5, beta1=0.0, beta2=0.9, lr=1e-4)},           # Gulrajani et al. 2017
    "quick": {True: dict(dataset="fashion-mnist", width=32, convs=1, norm="none", lr=1e-3, beta1=0.5, steps=6000,
                         fid_samples=2000, sample_every=500, amp=bf16_if_fast())},
    "smoke": {True: dict(dataset="synthetic", size=16, width=8, convs=1, z_dim=16, batch_size=8, lr=1e-3, steps=12,
                         log_every=2, sample_every=6, save_every=6)},
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group("paper")
    paper.add_argument("--loss", choices=LOSSES, default="ca", help="(17), (18); (1), (2); (7), (8); §6.1")
    paper.add_argument("--adv", choices=tuple(ADVERSARIAL), default="lsgan", help="adversarial loss (§5)")
    paper.add_argument("--lambda-cls", type=float, default=0.1, help="λ_cls of modified AC-GAN (§6.1; Fig. 13: .01-1)")
    paper.add_argument("--lambda-gp", type=float, default=10.0, help="weight of WGAN-GP's penalty (not given)")
    paper.add_argument("--n-critic", type=positive_int, default=1, help="D's steps for one of G (authors' code: 1)")
    paper.add_argument("--norm", choices=("instance", "batch", "none"), default="instance",
                       help="D's normalisation (§5: instance; §6.3: batch)")
    paper.add_argument("--norm-inner", action="store_true", help="leave D's first and last convolution unnormalised "
                       "(ours; the authors' code normalises all)")
    paper.add_argument("--mix-from", type=int, metavar="EPOCH", help="mixed batches after so many epochs (§6.3: 100); "
                       "none: never")
    paper.add_argument("--mix-ramp", type=float, metavar="RATE", help="exchange epoch · RATE of the batch, at most "
                       "half (authors' code: 0.01)")
    paper.add_argument("--unbalanced", type=int, nargs=2, metavar=("FIRST", "REST"),
                       help="keep FIRST images of class 0, REST of each other one (§6.3: 5500 500)")
    paper.add_argument("--targets", choices=("uniform", "data"), default="uniform",
                       help="conditions asked of G: equally often, or as in the data (authors' code: uniform)")
    paper.add_argument("--attributes", nargs="+", metavar="A", help="CelebA's, as conditions A and not-A; those of an "
                       "exclusive group joined by + (Figs. 5-8)")
    paper.add_argument("--z-dim", type=positive_int, default=256, help="latent dimensions (§5)")
    paper.add_argument("--size", type=int, default=28, help="image side (§5)")
    paper.add_argument("--channels", type=int, choices=(1, 3), help="none: the data set's own (§5: 1)")
    paper.add_argument("--width", type=positive_int, default=64, help="filters at full size (authors' code)")
    paper.add_argument("--convs", type=positive_int, default=3, help="convolutions per resolution (authors' code)")
    paper.add_argument("--lr", type=float, default=1e-5, help="Adam's learning rate, G and D (§6.2; Fig. 14: 3e-6)")
    paper.add_argument("--beta1", type=float, default=0.9, help="Adam's β₁ (authors' code: Keras' default)")
    paper.add_argument("--beta2", type=float, default=0.999, help="Adam's β₂ (authors' code: Keras' default)")
    add_run_args(parser, datasets=("auto",) + DATASETS + ("synthetic",), dataset="auto", steps=187_500, batch_size=32,
                 steps_help="updates of D (authors' code: 100 epochs of 1,875)", batch_help="(authors' code)")
    parser.add_argument("--fid-samples", type=fid_samples, default=0, metavar="N", help="at each --sample-every: FID "
                        "and conditional accuracy of N images, against the test split. 0: not")
    args = parse(parser, argv, PRESETS)
    check_ranges(args, lambda_cls=(0, None), lambda_gp=(0, None), lr=(0, None), beta1=(0, 0.999999),
                 beta2=(0, 0.999999), mix_from=(0, None), mix_ramp=(0, None))
    if args.unbalanced and min(args.unbalanced) < 1:
        raise UserError(f"--unbalanced {' '.join(map(str, args.unbalanced))}: each class needs an image at least")
    if args.mix_from is not None and args.mix_ramp is not None:
        raise UserError("--mix-from and --mix-ramp are two schedules for the same share: give one of them")
    if args.adv == "wgan-gp" and args.norm == "batch":
        raise UserError("--adv wgan-gp needs --norm instance or none: BatchNorm leaves no sample a gradient of its own")
    if args.unbalanced and args.attributes:
        raise UserError("--unbalanced keeps images by class: it does not go with --attributes")
    if args.fid_samples and args.attributes:
        raise UserError("--fid-samples measures by class: with --attributes give --fid-samples 0")
    return args


def load_data(args, split="train"):
    """The images, --dataset auto being MNIST where it can be had, else FashionMNIST."""
    if args.dataset == "auto":
        try:
            load_images("mnist", args.data_dir, split)
            args.dataset = "mnist"
        except UserError:
            args.dataset = "fashion-mnist"
    return load_images(args.dataset, args.data_dir, split, size=args.size, channels=args.channels,
                       skip_bad=getattr(args, "skip_bad", False))


def build(args, groups):
    """G and D of a run, from its arguments and the sizes of its groups of conditions."""
    S, shape = sum(groups), dict(size=args.size, channels=args.channels, width=args.width, convs=args.convs)
    try:
        return (Generator(S, args.z_dim, **shape),
                Discriminator(S if args.loss == "ca" else 1 + S, norm=args.norm, inner=args.norm_inner, **shape))
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None


def losses(args, groups, real, cnd, fake, cnd_fake):
    """(L_d, L_g) of D's outputs on real and generated images."""
    if args.loss == "ca":
        return ca_discriminator_loss(real, cnd, fake, cnd_fake, args.adv), ca_generator_loss(fake, cnd_fake, args.adv)
    if args.loss == "ac":
        return (ac_discriminator_loss(real, cnd, fake, cnd_fake, groups, args.adv),
                ac_generator_loss(fake, cnd_fake, groups, args.adv))
    L_d = modified_ac_discriminator_loss(real, cnd, fake, args.lambda_cls, groups, args.adv)
    if args.loss == "modified_ac_with_generated":                                   # §6.1, Fig. 12's blue graph
        L_d = L_d + args.lambda_cls * classification_loss(fake[:, 1:], cnd_fake, groups)
    return L_d, modified_ac_generator_loss(fake, cnd_fake, args.lambda_cls, groups, args.adv)


def active_heads(args, cnd):
    """(B, heads) in {0, 1}: which outputs of D judge real against generated for images with conditions cnd (B, S)."""
    return cnd if args.loss == "ca" else torch.cat([torch.ones_like(cnd[:, :1]), torch.zeros_like(cnd)], 1)


def mean_judgement(args, out, cnd):
    """Mean of D's outputs (B, heads) where it judges; 0 where no image of the batch activates a condition."""
    active = active_heads(args, cnd)
    return (out * active).sum() / active.sum().clamp(min=1)


def mix_share(args, epoch):
    """How much of a batch is exchanged in this epoch (from 0): ½ is §4's mixed batch."""
    if args.mix_ramp is not None:
        return min(0.5, args.mix_ramp * epoch)
    return 0.5 if args.mix_from is not None and epoch >= args.mix_from else 0.0


@torch.no_grad()
def sample(G, cnd, args, device, seed=0, batch_size=250):
    """Yield images (B, C, H, W) asked to have the conditions in the rows of cnd (n, S)."""
    rng = torch.Generator().manual_seed(seed)
    for part in cnd.split(batch_size):
        with autocast(device, args.amp):
            images = G(torch.randn(len(part), args.z_dim, generator=rng).to(device), part.to(device))
        yield images.float()


def score(scores, G, n, args, device, check=iter):
    """The conditional scores of n images, the classes asked for in turn. check: sees the batches as they come."""
    asked = torch.arange(n) % len(scores.class_moments)
    cnd = torch.nn.functional.one_hot(asked, len(scores.class_moments)).float()
    return scores(*scores.collect(check(sample(G, cnd, args, device)), n), asked)


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    data = load_data(args).to(device)
    args.channels = data.channels
    if args.unbalanced:
        unbalance(data, *args.unbalanced)
    names, groups = set_conditions(data, args.attributes)                          # data's labels are now cnd (N, S)
    if 0 < args.fid_samples < 2 * sum(groups):
        raise UserError(f"--fid-samples {args.fid_samples}: {sum(groups)} classes need two images each at least")
    scores = None
    if args.fid_samples and rank == 0:
        test = load_data(args, "test")
        if (extractor := load_extractor("auto", test.name, device, args.data_dir)) is not None:
            scores = ConditionalScores(test, device, args.data_dir, extractor)

    # --- networks and optimisers (§5)
    layout = torch.channels_last if args.amp == "bf16" and device.type == "cuda" else torch.contiguous_format
    G, D = (net.to(device, memory_format=layout) for net in build(args, groups))
    opt_G, opt_D = (fused_adam(net.parameters(), device, lr=args.lr, betas=(args.beta1, args.beta2)) for net in (G, D))
    shown = each_condition(groups).repeat_interleave(8, 0)                         # a row of 8 for each condition
    fixed_z = torch.randn(8, args.z_dim, generator=step_rng(args.seed, 0)).repeat(sum(groups), 1).to(device)

    check_batch_norm("--batch-size", args.batch_size, world, (D, (args.channels, args.size, args.size)))

    # --- resume
    run = Run("cagan", args, device, rank)
    start, _ = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    run.announce(f"{args.loss} with {args.adv}, {sum(groups)} conditions ({', '.join(names)}), on {args.dataset} "
                 f"({len(data):,} images at {args.size}x{args.size}x{data.channels}), {device}: steps {start + 1} to "
                 f"{args.steps}, batch {args.batch_size}" + (f" over {world} processes" * (world > 1)))

    # --- Algorithm (§2-§4; both networks step from one forward pass, as in the authors' code)
    for step in run.steps(start, args.steps):
        rng, epoch = step_rng(args.seed, step), (step - 1) * args.batch_size // len(data)
        x, cnd = map(shard, data.batch(step - 1, args.batch_size, args.seed, device))
        z, z_gp = (shard(torch.randn(args.batch_size, args.z_dim, generator=rng)).to(device) for _ in range(2))
        if args.targets == "uniform":
            cnd_fake = uniform_targets(args.batch_size, groups, rng)
        else:
            cnd_fake = data.labels[torch.randint(len(data), (args.batch_size,), generator=rng)]
        cnd_fake, share = shard(cnd_fake).to(device), mix_share(args, epoch)

        with autocast(device, args.amp):
            fake = G(z, cnd_fake)
            real_out, fake_out = discriminate(D, x.contiguous(memory_format=layout), fake, share)         # §4
        real_out, fake_out = real_out.float(), fake_out.float()
        L_d, L_g = losses(args, groups, real_out, cnd, fake_out, cnd_fake)
        penalty = {}
        if args.adv == "wgan-gp":
            with torch.no_grad():
                same = G(z_gp, cnd)                                                # the real images' conditions
            eps = shard(torch.rand(args.batch_size, generator=rng)).to(device)
            GP = args.lambda_gp * gradient_penalty(D, x, same, active_heads(args, cnd), eps)
            L_d, penalty = L_d + GP, {"penalty": average(GP)}

        opt_D.zero_grad()
        L_d.backward(inputs=list(D.parameters()), retain_graph=True)
        if step % args.n_critic == 0:
            opt_G.zero_grad()
            L_g.backward(inputs=list(G.parameters()))                              # through D as it was, not into it
            average_gradients(G)
            opt_G.step()
        average_gradients(D)
        opt_D.step()

        # --- log, sample, save
        D_real, D_fake = mean_judgement(args, real_out, cnd), mean_judgement(args, fake_out, cnd_fake)
        logged = dict(L_d=average(L_d), L_g=average(L_g), D_real=average(D_real), D_fake=average(D_fake),
                      share=share, **penalty)
        run.check(step, **logged)
        measured = {}
        if run.due(step, args.sample_every) and rank == 0:
            with torch.no_grad():
                samples = G(fixed_z, shown.to(device))
            run.check(step, samples=samples)
            save_grid(samples, run.dir / "samples" / f"step_{step:08d}.png")
            if scores:
                measured = score(scores, G, args.fid_samples, args, device, functools.partial(run.checked, step))
        run.log(step, **logged, **measured)
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, names=names, groups=groups)
            if rank == 0:
                log = read_log(run.dir / "log.jsonl")
                keys = sorted({key for line in log for key in line if key.startswith(("fid", "conditional"))})
                curves(log, [["L_d", "L_g"], ["D_real", "D_fake"], *([key] for key in keys)], run.dir / "curves.png")
    return run.metrics


if __name__ == "__main__":
    run_main(main)
