"""Train BiGAN, ALI, or the baselines of the BiGAN paper. Run from the repository's root:

  python -m bigan.train --dataset mnist        the paper's permutation-invariant MNIST, 400 epochs (a GPU's work)
  python -m bigan.train                        the same on FashionMNIST
  python -m bigan.train --quick                ten minutes on two CPU cores
  python -m bigan.train --method latent-regressor      a baseline; also joint-lr, ae-l1, ae-l2
  python -m bigan.train --method ali --arch conv       ALI's stochastic encoder, convolutions
  python -m bigan.train --method ali --dataset 25gaussians     ALI's toy
  python -m bigan.train --hold-out Sandal      train without a class: bigan.eval then scores it as an anomaly
  python -m bigan.train --resume DIR           go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m bigan.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (G(z) of fixed z, then x above G(E(x))), last.pt.
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
    new_parser,
    parse,
    positive_int,
    run_main,
)
from common.data import DATASETS, load_images
from common.device import autocast, bf16_if_fast, check_batch_norm, choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.rng import seed_all, step_rng
from common.metrics import count_tag
from common.toys import MIXTURES, mixture
from common.metrics.toy import mode_metrics
from common.plots import curves, densities, save_grid
from common.runs import Run, read_log

from .features import one_nn_accuracy
from .model import (
    ARCHS,
    Discriminator,
    Encoder,
    Generator,
    discriminator_loss,
    encoder_generator_loss,
    generator_loss,
    latent_loss,
    recompute_statistics,
    reconstruction_loss,
)

EPOCH = 469  # steps: 60,000 images in batches of 128
PAIRS, REGRESSORS, AUTOENCODERS = (
    ("bigan", "ali"),
    ("latent-regressor", "joint-lr"),
    {"ae-l1": 1, "ae-l2": 2},
)
METHODS = (*PAIRS, *REGRESSORS, *AUTOENCODERS)
TOY = dict(
    arch="toy",
    z_dim=2,
    width=400,
    prior="normal",
    lr=1e-4,
    beta1=0.8,
    weight_decay=0.0,
    lr_final=1.0,
    batch_size=100,
    steps=200_000,
)
QUICK = dict(width=32, cycle=5.0, steps=20_000, amp=bf16_if_fast(), sample_every=1000)
QUICK_TOY = dict(
    width=128, batch_size=256, lr=1e-3, lr_ratio=0.1, beta1=0.5, lr_final=0.01, steps=8000
)
PRESETS = {
    "arch": {"conv": dict(size=32)},
    "dataset": {name: TOY for name in MIXTURES},
    "quick": {True: QUICK},
    "method": {
        "ali": dict(prior="normal", encoder="stochastic"),
        **{name: dict(cycle=0.0) for name in (*REGRESSORS, *AUTOENCODERS)},
    },
    "smoke": {
        True: dict(
            dataset="synthetic",
            size=16,
            width=4,
            z_dim=8,
            batch_size=8,
            steps=12,
            log_every=2,
            sample_every=6,
            save_every=6,
        )
    },
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group(
        "paper (arXiv:1605.09782 §4.2 and the authors' code for it; toys: arXiv:1606.00704's)"
    )
    paper.add_argument(
        "--method",
        choices=METHODS,
        default="bigan",
        help="§3; ali: stochastic E, normal prior; the others: the baselines of §4.1, §4.2",
    )
    paper.add_argument(
        "--arch",
        choices=ARCHS,
        default="mlp",
        help="mlp: permutation-invariant (§4.2); conv: any size "
        "4·2^k; toy: ALI's, set by the data set",
    )
    paper.add_argument("--size", type=int, default=28, help="image side (§4.2: 28; conv: 32)")
    paper.add_argument("--channels", type=int, choices=(1, 3), help="none: the data set's own")
    paper.add_argument(
        "--width",
        type=positive_int,
        default=64,
        help="mlp: 1/16 of a layer's units (code: 64); conv: filters at half size; toy: units",
    )
    paper.add_argument("--z-dim", type=positive_int, default=50, help="N_z (§4.2: 50)")
    paper.add_argument(
        "--prior",
        choices=("uniform", "normal"),
        default="uniform",
        help="p_z: uniform on [-1, 1] (§4.2); normal: ALI",
    )
    paper.add_argument(
        "--encoder",
        choices=("deterministic", "stochastic"),
        default="deterministic",
        help="stochastic: z = μ(x) + σ(x)·ε (ALI)",
    )
    paper.add_argument(
        "--cycle",
        type=float,
        default=0.0,
        metavar="λ",
        help="bigan, ali: weight of mean|x − G(E(x))| in the loss of G and E (ALICE); 0: none",
    )
    paper.add_argument(
        "--lr-weight",
        type=float,
        default=0.25,
        help="joint-lr: weight of L(z, E(G(z))) in the loss of G and E (code: 0.25)",
    )
    paper.add_argument(
        "--lr", type=float, default=2e-4, help="Adam's learning rate, all networks (code)"
    )
    paper.add_argument(
        "--lr-ratio",
        type=float,
        default=1.0,
        metavar="RATIO",
        help="of G's and E's learning rate to D's (ours); 1: the papers'",
    )
    paper.add_argument(
        "--lr-final",
        type=float,
        default=0.01,
        help="share of it left at the end, after an exponential "
        "decay over the second half (code: 0.01); 1: none",
    )
    paper.add_argument(
        "--lr-steps", type=positive_int, help="length of that schedule; none: --steps"
    )
    paper.add_argument("--beta1", type=float, default=0.5, help="Adam's β₁ (code); β₂ is 0.999")
    paper.add_argument(
        "--weight-decay", type=float, default=2.5e-5, help="L2 added to gradients (code)"
    )
    paper.add_argument(
        "--hold-out", metavar="CLASS", help="train without this class (its name or number)"
    )
    add_run_args(
        parser,
        datasets=DATASETS + MIXTURES + ("synthetic",),
        dataset="fashion-mnist",
        steps=400 * EPOCH,
        batch_size=128,
        steps_help="updates (code: 400 epochs of 469)",
        batch_help="(code)",
    )
    known, _ = parser.parse_known_args(argv)
    args = parse(
        parser, argv, PRESETS | ({"quick": {True: QUICK_TOY}} if known.dataset in MIXTURES else {})
    )
    args.lr_steps = args.lr_steps or args.steps
    if (args.arch == "toy") != (args.dataset in MIXTURES):
        raise UserError(
            f"--arch {args.arch} with --dataset {args.dataset}: toy goes with {', '.join(MIXTURES)} only"
        )
    if args.hold_out is not None and args.arch == "toy":
        raise UserError(f"--hold-out {args.hold_out}: a toy has no classes to leave out")
    if args.cycle and args.method not in PAIRS:
        raise UserError(f"--cycle belongs to bigan and ali; {args.method} has no such term")
    if args.encoder == "stochastic" and args.method not in PAIRS:
        raise UserError(
            f"--encoder stochastic belongs to bigan and ali; {args.method} has a deterministic one"
        )
    check_ranges(
        args,
        lr_final=(1e-9, 1),
        beta1=(0, 0.999),
        **dict.fromkeys(("cycle", "lr_weight", "lr", "lr_ratio", "weight_decay"), (0, None)),
    )
    return args


def load_data(args, split="train"):
    """Images, or a mixture, with batch(step, batch_size, seed, device); the train split lacks the class --hold-out."""
    if args.dataset in MIXTURES:
        return mixture(args.dataset, standardised=False)
    data = load_images(
        args.dataset,
        args.data_dir,
        split,
        size=args.size,
        channels=args.channels,
        skip_bad=getattr(args, "skip_bad", False),
    )
    if args.hold_out is not None:
        held_out = class_index(data, args.hold_out)
        if split == "train":
            keep = data.labels != held_out
            data.images, data.labels = data.images[keep], data.labels[keep]
    return data


def class_index(data, name):
    """Number of the class with this name or number."""
    if data.labels is None or data.images is None:
        raise UserError(
            f"--hold-out {name}: {data.name} has no labels in memory. Choose a data set with classes"
        )
    lower = [c.lower() for c in data.classes]
    index = (
        lower.index(name.lower())
        if name.lower() in lower
        else int(name)
        if name.isdecimal()
        else -1
    )
    if not 0 <= index < len(data.classes):
        raise UserError(
            f"--hold-out {name}: {data.name} has the classes {', '.join(data.classes)} (0 to "
            f"{len(data.classes) - 1})"
        )
    return index


def build(args):
    """G, E and D of a run, from its arguments alone."""
    shape = dict(
        arch=args.arch, z_dim=args.z_dim, size=args.size, channels=args.channels, width=args.width
    )
    try:
        return (
            Generator(**shape),
            Encoder(prior=args.prior, stochastic=args.encoder == "stochastic", **shape),
            Discriminator(pairs=args.method in PAIRS, prior=args.prior, **shape),
        )
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None


def sample_z(n, args, rng):
    """z ~ p_z: (n, N_z)."""
    if args.prior == "uniform":
        return torch.rand(n, args.z_dim, generator=rng) * 2 - 1
    return torch.randn(n, args.z_dim, generator=rng)


def sample_eps(n, args, rng):
    """ε of a stochastic encoder: (n, N_z), or None."""
    return torch.randn(n, args.z_dim, generator=rng) if args.encoder == "stochastic" else None


def fixed_batches(data, args, n, device):
    """n batches (x, z, ε) for BatchNorm's statistics; z is None where G is only ever given E(x)."""
    rng = step_rng(args.seed, 0)
    for i in range(n):
        z, eps = sample_z(args.batch_size, args, rng), sample_eps(args.batch_size, args, rng)
        yield (
            data.batch(i, args.batch_size, args.seed, device)[0],
            None if args.method in AUTOENCODERS else z.to(device),
            None if eps is None else eps.to(device),
        )


def main(argv=None):
    args = parse_args(argv)
    toy = args.dataset in MIXTURES

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    data, test = load_data(args), load_data(args, "test")
    if not toy:
        args.channels = data.to(device).channels

    # --- networks and optimisers (§4.2)
    G, E, D = (net.to(device) for net in build(args))
    adam = dict(lr=args.lr, betas=(args.beta1, 0.999), weight_decay=args.weight_decay)
    params_D, params_GE = list(D.parameters()), [*G.parameters(), *E.parameters()]
    opt_D, opt_GE = fused_adam(params_D, device, **adam), fused_adam(params_GE, device, **adam)
    fixed_z = sample_z(2000 if toy else 64, args, step_rng(args.seed, 0)).to(device)

    shape = (2,) if toy else (args.channels, args.size, args.size)
    check_batch_norm(
        "--batch-size",
        args.batch_size,
        world,
        (G, (args.z_dim,)),
        (E, shape),
        (D, shape, (args.z_dim,)),
    )

    # --- resume
    run = Run("bigan", args, device, rank)
    start, _ = run.resume(G=G, E=E, D=D, opt_D=opt_D, opt_GE=opt_GE)
    run.announce(
        f"{args.method}, {args.arch}, on {args.dataset}"
        + (f" without {args.hold_out}" * bool(args.hold_out))
        + f", {device}: steps {start + 1} to {args.steps}, batch {args.batch_size}"
        + f" over {world} processes" * (world > 1)
    )

    # --- Algorithm (§3.4): D against G and E, all at once from one forward pass
    for step in run.steps(start, args.steps):
        decay = args.lr_final ** min(1, max(0, 2 * step / args.lr_steps - 1))
        for optimiser, ratio in ((opt_D, 1), (opt_GE, args.lr_ratio)):
            for group in optimiser.param_groups:
                group["lr"] = ratio * args.lr * decay
        rng = step_rng(args.seed, step)
        x = shard(data.batch(step - 1, args.batch_size, args.seed, device)[0])
        z, eps = (
            shard(sample_z(args.batch_size, args, rng)).to(device),
            sample_eps(args.batch_size, args, rng),
        )
        eps = None if eps is None else shard(eps).to(device)

        losses, L_D = {}, None
        with autocast(device, args.amp):
            if args.method in PAIRS:  # D sees (x, E(x)) and (G(z), z)
                code = E(x, eps)
                real, fake = D(x, code).float(), D(G(z), z).float()
                L_D = discriminator_loss(real, fake)  # eq. 3
                L_GE = encoder_generator_loss(real, fake)  # the labels swapped
                if args.cycle:  # ALICE
                    losses["cycle"] = reconstruction_loss(x, G(code))
                    L_GE = L_GE + args.cycle * losses["cycle"]
            elif args.method in REGRESSORS:  # D sees x and G(z), E only G(z)
                joint, image = args.method == "joint-lr", G(z)
                real, fake = D(x).float(), D(image).float()
                L_D = discriminator_loss(real, fake)
                losses["L_E"] = latent_loss(
                    E.logits(image if joint else image.detach()), z, args.prior
                )
                L_GE = generator_loss(fake) + (args.lr_weight if joint else 1) * losses["L_E"]
            else:
                L_GE = reconstruction_loss(x, G(E(x)), AUTOENCODERS[args.method])

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
        losses = {"L_GE": average(L_GE)} | {key: average(value) for key, value in losses.items()}
        run.check(step, **losses)
        measured = {}
        if run.due(step, args.sample_every) and rank == 0:
            recompute_statistics(G, E, D, fixed_batches(data, args, 50, device))
            with torch.no_grad():
                run.check(step, samples=G(fixed_z), reconstructions=G(E(x, eps)))
            measured = (progress_toy if toy else progress)(
                G, E, data, test, fixed_z, args, run.dir / "samples" / f"step_{step:08d}.png"
            )
            for net in (G, E, D):
                net.train()
        run.log(step, **losses, **measured)
        if run.due(step, args.save_every):
            run.save(step, G=G, E=E, D=D, opt_D=opt_D, opt_GE=opt_GE)
            if rank == 0:
                draw_curves(run.dir)
    return run.metrics


def draw_curves(folder):
    """curves.png of a run's log: losses, D's answers, 1NN accuracies, reconstruction error or modes."""
    log = read_log(folder / "log.jsonl")
    panels = [
        sorted({key for line in log for key in line if key.startswith(start)})
        for start in ("L_", "D_", "1nn", ("recon", "modes"))
    ]
    curves(log, [keys for keys in panels if keys], folder / "curves.png")


@torch.no_grad()
def encode(net, data, n, device, batch_size=500):
    """net(x) of the first n images (all, if there are fewer): (n, F)."""
    return torch.cat(
        [
            net(data.images_at(part, device)).float()
            for part in torch.arange(min(n, len(data))).split(batch_size)
        ]
    )


@torch.no_grad()
def progress(G, E, data, test, z, args, path, n_bank=10_000, n_queries=2000):
    """1NN accuracies and the reconstruction error on a part of the data, so as to cost seconds; a grid to `path`."""
    device, n_bank, n_queries = z.device, min(n_bank, len(data)), min(n_queries, len(test))
    tag, scores = f"{count_tag(n_bank)}_{count_tag(n_queries)}", {}
    if data.labels is not None:
        for name, net in (("E", E), ("features", E.features)):
            bank, queries = encode(net, data, n_bank, device), encode(net, test, n_queries, device)
            scores[f"1nn_{name}_{tag}"] = one_nn_accuracy(
                bank, data.labels[:n_bank], queries, test.labels[:n_queries]
            )
    x = test.images_at(torch.arange(n_queries), device)
    rec = torch.cat([G(E(part)) for part in x.split(500)]).float()
    own, other = ((a - rec).flatten(1).norm(dim=1).mean().item() for a in (x, x.roll(1, 0)))
    scores[f"recon_ratio_{count_tag(n_queries)}"] = own / other
    pairs = [t for i in (0, 16) for t in (x[i : i + 16], rec[i : i + 16])]
    save_grid(torch.cat([G(z).float(), *pairs]), path, nrow=16)
    return scores


@torch.no_grad()
def progress_toy(G, E, data, _, z, args, path):
    """Modes that samples and reconstructions cover, of 2,000 points each; their densities to `path`."""
    x, _ = data.sample(len(z), step_rng(args.seed, 0))
    shown = {"samples": G(z).cpu(), "reconstructions": G(toy_codes(E, x.to(z.device), args)).cpu()}
    densities({data.name: x, **shown}, path, limit=toy_limit(data))
    found = {
        end: mode_metrics(points, data) for end, points in zip(("2k", "recon_2k"), shown.values())
    }
    return {
        f"{key}_{end}": metrics[key]
        for key in ("modes", "modes_hit")
        for end, metrics in found.items()
    }


def toy_codes(E, x, args):
    """E(x) of points x (n, 2), of a stochastic encoder one draw each: (n, N_z)."""
    eps = sample_eps(len(x), args, step_rng(args.seed, 1))
    return E(x, None if eps is None else eps.to(x.device))


def toy_limit(data):
    """Half the side of the square that a mixture is drawn in."""
    return 1.4 * data.centres.abs().max().item()


if __name__ == "__main__":
    run_main(main)
