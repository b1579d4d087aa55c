"""Train MDMA. Run from the repository's root:

  python -m mdma.train                               JetNet's top jets of 150 particles as in the paper (a GPU's work)
  python -m mdma.train --dataset pythia              the same on jets simulated here (make data-jets)
  python -m mdma.train --quick                       30 particles, simulated top jets: about 15 minutes on two cores
  python -m mdma.train --jet-type g --num-particles 30
  python -m mdma.train --dataset my_jets.h5          any HDF5 or NPZ of (jets, particles, 3) and a mask
  python -m mdma.train --paper-code                  the published networks, padding and all
  python -m mdma.train --resume DIR                  go on, exactly where last.pt stands

Leaves in the run directory: log.jsonl, curves.png, samples/ (Fig. 2 in small), last.pt and best.pt: the lowest W1M on
the validation jets among those that the Fréchet distance of EFPs does not veto (§3.1).
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common.cli import UserError, add_run_args, check_ranges, new_parser, parse, positive_int, run_main
from common.device import (EMA, GraphedStep, average, average_gradients, choose_device, fused_adam, init_processes,
                           seed_all, shard, step_rng)
from common.metrics.jets import efps, frechet_of_all, jet_mass, present, w1m_disjoint
from common.plots import curves, plt, ratio_histogram, save_figure
from common.runs import Run, read_log

from .jets import FEATURES, JET_TYPES, bucketed_indices, load_jets
from .model import OBJECTIVES, Critic, Generator, gradient_penalty, mean_field_matching, sample_jets

EPOCHS = 3000
STEPS = f"{EPOCHS} epochs"                   # the default of --steps, whose number follows from the jets
QUICK = dict(dataset="pythia", num_particles=30, steps=10_000, lr_total=10_000, warmup=500, lr=1e-3, matching=2000,
             ema=0.999, valid_batches=2, sample_every=500, save_every=500)
PRESETS = {
    "quick": {True: QUICK},
    "smoke": {True: dict(dataset="synthetic", num_particles=8, l=4, h_g=8, heads_g=2, blocks_g=2, h_d=8, heads_d=2,
                         batch_size=16, steps=12, lr_total=12, warmup=2, matching=6, valid_batches=2, log_every=2,
                         sample_every=6, save_every=6)},
}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group("paper")
    paper.add_argument("--jet-type", choices=JET_TYPES, default="t", help="gluon, light quark, top, W, Z (Table 1)")
    paper.add_argument("--num-particles", type=positive_int, default=150, help="the hardest ones of a jet (§2: 150)")
    paper.add_argument("--l", type=positive_int, default=16, help="l, latent dimension (not given; authors' code)")
    paper.add_argument("--h-g", type=positive_int, default=48, help="h of the generator (authors' code)")
    paper.add_argument("--blocks-g", type=positive_int, default=7, help="blocks of the generator (authors' code)")
    paper.add_argument("--heads-g", type=positive_int, default=8, help="its attention heads (authors' code)")
    paper.add_argument("--h-d", type=positive_int, default=64, help="h of the critic (authors' code)")
    paper.add_argument("--blocks-d", type=positive_int, default=2, help="blocks of the critic (authors' code)")
    paper.add_argument("--heads-d", type=positive_int, default=4, help="its attention heads (authors' code)")
    paper.add_argument("--bucket", type=positive_int, default=64, metavar="BATCHES", help="so many batches of jets are "
                       "sorted by n together (§3: similar n; how many is not given), 1: random batches (authors' code)")
    paper.add_argument("--n-mean", type=float, default=70.0, help="the constant of sums and n (authors' code)")
    paper.add_argument("--aggregate", choices=("attention", "mean", "sum"), default="attention",
                       help="particles to mean field (§3: attention)")
    paper.add_argument("--update", choices=("layer", "add"), default="layer",
                       help="mean field to particles (§3: a layer; adding is the tried alternative)")
    paper.add_argument("--glu", action="store_true", help="n enters through a gated linear unit (§3: tried, worse)")
    paper.add_argument("--paper-code", action="store_true", help="the authors' networks where they leave the paper")
    paper.add_argument("--objective", choices=tuple(OBJECTIVES), default="lsgan", help="(§3.1: LSGAN is most stable)")
    paper.add_argument("--gp", type=float, default=10.0, metavar="λ", help="gradient penalty of wgan-gp (not given)")
    paper.add_argument("--matching", type=int, default=30_000, metavar="STEPS",
                       help="steps with mean-field matching (§3.2), 0: never")
    paper.add_argument("--matching-weight", type=float, default=1.0, help="of its loss (authors' code)")
    paper.add_argument("--lr", type=float, default=1e-4, help="highest learning rate (§3.1)")
    paper.add_argument("--warmup", type=positive_int, default=2000, help="steps to it, linear (authors' code)")
    paper.add_argument("--lr-total", type=positive_int, default=3_000_000,
                       help="steps after which the cosine is at 0 (authors' code)")
    paper.add_argument("--veto", type=float, default=1.2, metavar="FACTOR",
                       help="best.pt: no checkpoint whose FPD, not extrapolated, is this many times the lowest so far "
                       "(§3.1: by eye)")
    paper.add_argument("--beta1", type=float, default=0.0, help="Adam's β₁ (authors' code)")
    paper.add_argument("--beta2", type=float, default=0.999, help="Adam's β₂ (authors' code)")
    paper.add_argument("--weight-decay", type=float, default=0.01, help="of the critic, decoupled (§3.1: 0.01)")
    extras = parser.add_argument_group("not in the paper (off); --jitter, --head-start, --adaptive: authors' code")
    extras.add_argument("--jitter", type=float, default=0.0, help="real particles x (1 + N(0, jitter²)); there 1e-3")
    extras.add_argument("--head-start", type=int, default=0, metavar="STEPS",
                        help="critic alone at first; there 1000, or till L_D < 0.3")
    extras.add_argument("--lr-ratio", type=float, default=1.0, metavar="RATIO",
                        help="of the generator's learning rate to the critic's")
    extras.add_argument("--g-every", type=positive_int, default=1, metavar="STEPS",
                        help="the generator learns at each so-many-th step only, the critic always")
    extras.add_argument("--adaptive", action="store_true", help="--g-every by itself: up to 5 while the critic's loss "
                        "stays near its balance 1/2, 1 below 0.4; after --adaptive-after steps")
    extras.add_argument("--adaptive-after", type=int, default=50_000, metavar="STEPS", help="there 50,000")
    extras.add_argument("--pt", choices=("linear", "log", "softplus"), default="linear",
                        help="the networks see pt_rel, its ln (the authors' code of 2024: Box-Cox, whose exponent "
                        "comes out as 0), or x of pt_rel = s·softplus(x) (ours), s the median: ln where soft, linear "
                        "where hard. With both no pt is below 0")
    extras.add_argument("--ema", type=float, default=0.0, metavar="DECAY",
                        help="jets come from a moving average of G's weights (ours). 0: from G, as the paper's")
    add_run_args(parser, datasets=None, dataset="jetnet", steps=STEPS, batch_size=128,
                 steps_help="batches to train on (§3.1: 3,000 epochs; of JetNet's top jets 2,919,000)",
                 batch_help="(authors' code)")
    run = parser.add_argument_group("run (mdma)")
    run.add_argument("--valid-batches", type=positive_int, default=10,
                     help="generated jets per validation jet for W1M, each --sample-every (authors' code: 10)")
    run.add_argument("--eager", action="store_true", help="CUDA: no graphs, each kernel is launched by itself")
    parser.set_defaults(sample_every=2000, save_every=2000, log_every=50)
    args = parse(parser, argv, PRESETS)
    for side in "gd":
        if getattr(args, f"h_{side}") % getattr(args, f"heads_{side}"):
            raise UserError(f"--h-{side} {getattr(args, f'h_{side}')} is no multiple of --heads-{side}")
    check_ranges(args, n_mean=(1e-6, None), gp=(0, None), jitter=(0, None), lr=(0, None), lr_ratio=(0, None),
                 matching=(0, None), ema=(0, 0.999999), beta1=(0, 0.999999), beta2=(0, 0.999999),
                 weight_decay=(0, None), veto=(1, None))
    if args.adaptive and args.objective != "lsgan":
        raise UserError(f"--adaptive watches LSGAN's balance, which {args.objective} doesn't have: use --g-every")
    if args.amp != "off":
        raise UserError("--amp bf16: jets need float32, a particle's pt can be 1e-4 of the jet's. Leave it out")
    return args


def build(args):
    """G and D of a run, from its arguments alone."""
    shared = dict(l=args.l, features=len(FEATURES), aggregate=args.aggregate, update=args.update, glu=args.glu,
                  n_mean=args.n_mean, paper_code=args.paper_code)
    return (Generator(h=args.h_g, blocks=args.blocks_g, heads=args.heads_g, **shared),
            Critic(h=args.h_d, blocks=args.blocks_d, heads=args.heads_d, **shared))


def transform(pt, stats):
    """pt_rel -> what the networks see of it before its z-score (--pt)."""
    if stats["pt"] == "softplus":
        y = pt / stats["pt_scale"]
        return y + torch.log(-torch.expm1(-y))                           # ln(eʸ − 1)
    return pt.log() if stats["pt"] == "log" else pt


def inverse_transform(x, stats):
    if stats["pt"] == "softplus":
        return stats["pt_scale"] * F.softplus(x)
    return x.exp() if stats["pt"] == "log" else x


def statistics(jets, pt="linear"):
    """What generating needs to know of the training jets: each feature's mean and sd over particles (the authors'
    z-scores; of `transform`'s pt_rel), the range of pt_rel, and how many jets have n = 0 … N particles."""
    real = jets.particles[jets.mask].double()
    low, high, scale = (float(v) for v in (real[:, 2].min(), real[:, 2].max(), real[:, 2].median()))
    found = {"pt": pt, "pt_scale": scale, "pt_min": low, "pt_max": high}
    real[:, 2] = transform(real[:, 2], found)
    constant = real.amax(0) == real.amin(0)
    if constant.all():
        raise UserError("all particles of the training jets are the same: there is nothing to learn")
    for k in constant.nonzero()[:, 0]:
        print(f"{FEATURES[k]} has one value in all training jets: it can't be learnt", file=sys.stderr)
    std = real.std(0).masked_fill_(constant, 1)                          # pt_rel is 1 in jets of one particle
    return found | {"mean": real.mean(0).float(), "std": std.float(),
                    "counts": torch.bincount(jets.n, minlength=jets.mask.shape[1] + 1)}


def standardise(jets, stats):
    """(eta_rel, phi_rel, pt_rel) of Jets as z-scores (J, N, 3), padding 0: what the networks see."""
    x = jets.particles.clone()
    x[..., 2] = transform(x[..., 2], stats)
    return ((x - stats["mean"]) / stats["std"]).masked_fill_(~jets.mask[..., None], 0)


def to_jets(x, mask, stats):
    """standardise's inverse, with pt_rel kept in the training jets' range. x: (J, N, 3), mask: (J, N)."""
    x = x * stats["std"].to(x.device) + stats["mean"].to(x.device)
    x[..., 2] = inverse_transform(x[..., 2], stats).clamp(stats["pt_min"], stats["pt_max"])
    return x.masked_fill_(~mask[..., None], 0)


def generate(G, J, stats, num_particles, rng, chunk_size=1000):
    """J jets (J, N, 3) whose numbers of particles follow the training jets'. rng: a CPU generator.

    A jet's particles come in no order; `jets.hardest_first` brings them into JetNet's.
    """
    n = torch.multinomial(stats["counts"].double(), J, replacement=True, generator=rng)
    seed = int(torch.randint(2**62, (), generator=rng))
    device = next(G.parameters()).device
    x, mask = sample_jets(G, n, num_particles, chunk_size=chunk_size,
                          generator=torch.Generator(device).manual_seed(seed))
    return to_jets(x, mask, stats)


def lr_factor(step, warmup, total):
    """Linear warm-up times cosine annealing, §3.1: 0 at step 0, 1 after `warmup` steps, 0 at `total` and after."""
    return min(1, step / warmup) * (1 + math.cos(math.pi * min(1, step / total))) / 2


def steps_per_epoch(jets, batch_size):
    """Whole batches of an epoch; 1 where there is none, so that the first one is refused."""
    return max(1, jets // batch_size)


def choose_best(best, w1m, frechet, veto):
    """Whether this step becomes best.pt (§3.1), and `best` after it.

    It does if its W1M is lower than best.pt's, or best.pt is vetoed now, unless it is vetoed itself.
    Vetoed is a Fréchet distance of more than `veto` times the lowest so far.
    best: {"w1m", "frechet"} of best.pt and the "lowest" Fréchet distance of all steps.
    """
    lowest = min(best["lowest"], frechet)
    vetoed = frechet > veto * lowest
    best_vetoed = best["frechet"] > veto * lowest
    if not vetoed and (best_vetoed or w1m < best["w1m"]):
        return True, {"w1m": w1m, "frechet": frechet, "lowest": lowest}
    return False, best | {"lowest": lowest}


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    train, valid = (load_jets(args.dataset, args.jet_type, args.num_particles, args.data_dir, split)
                    for split in ("train", "valid"))
    if args.steps == STEPS:
        args.steps = EPOCHS * steps_per_epoch(len(train), args.batch_size)
    stats, N = statistics(train, args.pt), args.num_particles
    particles = standardise(train, stats).to(device)
    if len(valid) < 2:
        raise UserError(f"{args.dataset}: {len(valid)} jet to validate with, a covariance needs two: use more jets")
    masks, n, held = train.mask.to(device), train.n, valid.particles.to(device)
    held_mass, held_efps = jet_mass(held), efps(held)

    # --- networks and optimisers (§3, §3.1)
    G, D = (net.to(device) for net in build(args))
    critic_loss, generator_loss = OBJECTIVES[args.objective]
    lr = torch.zeros((), device=device)                                  # a tensor: CUDA graphs read it where it stands
    lr_G = torch.zeros_like(lr)
    adam = dict(betas=(args.beta1, args.beta2), eps=1e-14, capturable=device.type == "cuda")
    opt_G = fused_adam(G.parameters(), device, lr=lr_G, **adam)
    fused = opt_G.defaults["fused"]
    opt_D = torch.optim.AdamW(D.parameters(), lr=lr, weight_decay=args.weight_decay, fused=fused, **adam)
    shadow = EMA(G, args.ema)
    best = {"w1m": 1e9, "frechet": 1e9, "lowest": 1e9}                  # of best.pt; lowest: of all. Saved, so finite
    balance, pause = torch.ones((), device=device), args.g_every         # the second one changes by --adaptive

    # --- resume
    run = Run("mdma", args, device, rank)
    start, values = run.resume(G=G, D=D, G_ema=shadow, opt_G=opt_G, opt_D=opt_D)
    best, balance, pause = (values.get(name, now) for name, now in (("best", best), ("balance", balance),
                                                                    ("pause", pause)))
    for opt, rate in ((opt_G, lr_G), (opt_D, lr)):                       # not the checkpoint's: the device may differ
        opt.param_groups[0].update(lr=rate, capturable=adam["capturable"], fused=fused)
    run.announce(f"MDMA, {args.objective}, {sum(p.numel() for p in G.parameters()):,} + "
                 f"{sum(p.numel() for p in D.parameters()):,} parameters, on {args.dataset} {args.jet_type} "
                 f"({len(train):,} jets of up to {N} particles), {device}: steps {start + 1} to {args.steps}, "
                 f"batch {args.batch_size}" + f" over {world} processes" * (world > 1))

    # --- Algorithm (§3.1, §3.2)
    def update(x, mask, z, u, train_G, matching):
        fake = G(z, mask)

        # Critic, on real and generated jets of the same n. G is not in its graph.
        scores, fields = D(torch.cat([x, fake.detach()]), torch.cat([mask, mask]))
        real_score, fake_score = scores.chunk(2)
        L_D = critic_loss(real_score, fake_score)
        if args.objective == "wgan-gp":
            L_D = L_D + args.gp * gradient_penalty(D, x, fake, mask, u)
        opt_D.zero_grad()
        L_D.backward()
        average_gradients(D)
        opt_D.step()
        if not train_G:
            return L_D.detach(), *torch.zeros(2, device=device)

        # Generator, against the new critic; mean fields against those of the real jets before its update (§3.2).
        D.requires_grad_(False)
        fake_score, fake_field = D(fake, mask)
        L_G = generator_loss(fake_score)
        L_match = mean_field_matching(fake_field, fields.chunk(2)[0])
        opt_G.zero_grad()
        (L_G + args.matching_weight * L_match if matching else L_G).backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)
        if args.ema:
            shadow.update(G)
        return L_D.detach(), L_G.detach(), L_match.detach()

    graphed = update if args.eager else GraphedStep(update, device)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        index = bucketed_indices(n, args.batch_size, args.seed, step - 1, args.bucket)
        longest = int(n[index].max())                                    # padded to the batch's largest n only (§3)
        longest = N if args.paper_code else longest
        z, u = torch.randn(len(index), longest, 3, generator=rng), torch.rand(len(index), generator=rng)
        noise = torch.randn(len(index), longest, 3, generator=rng) if args.jitter else None
        index, z, u = shard(index).to(device), shard(z).to(device), shard(u).to(device)
        x, mask = particles[index, :longest], masks[index, :longest]
        if args.jitter:
            x = x * (1 + args.jitter * shard(noise).to(device))
        lr.fill_(args.lr * lr_factor(step, args.warmup, args.lr_total))
        lr_G.copy_(lr * args.lr_ratio)

        train_G = step > args.head_start and step % pause == 0
        L_D, L_G, L_match = graphed(x, mask, z, u, train_G, step <= args.matching)
        if args.adaptive:                                                                    # authors' code
            balance = balance.to(device).lerp(average(L_D), 0.01)
            if step > args.adaptive_after:
                pause = 1 if balance < 0.4 else min(5, pause + 1) if balance > 0.499 else pause

        # --- log, sample, save
        losses = dict(L_D=average(L_D), L_G=average(L_G), L_match=average(L_match), lr=lr)
        run.check(step, **losses)
        measured, better = {}, False
        if step % args.sample_every == 0 or step == args.steps:
            fake = generate(shadow.net if args.ema else G, args.valid_batches * len(held), stats, N,
                            step_rng(args.seed, 0), 1000 if device.type == "cpu" else 20_000)
            run.check(step, jets=fake)
            w1m = w1m_disjoint(held_mass, jet_mass(fake), args.valid_batches)[0]
            distance = frechet_of_all(held_efps, efps(fake[:len(held)]))
            measured = {"w1m_valid": w1m, "frechet_valid": distance}
            better, best = choose_best(best, w1m, distance, args.veto)                           # §3.1
            if rank == 0:
                draw_features({"data": valid.particles, f"step {step}": fake[:len(held)].cpu()},
                              run.dir / "samples" / f"step_{step:08d}.png")
        run.log(step, **losses, **measured)
        state = dict(G=G, D=D, G_ema=shadow, opt_G=opt_G, opt_D=opt_D, stats=stats, best=best, balance=balance,
                     pause=pause)
        if better:
            run.save(step, "best.pt", **state)
        if run.due(step, args.save_every):
            run.save(step, **state)
            if rank == 0:
                curves(read_log(run.dir / "log.jsonl"), [["L_D"], ["L_G", "L_match"], ["w1m_valid"], ["frechet_valid"]],
                       run.dir / "curves.png", smooth=10)
    return run.metrics


def draw_features(jets, path):
    """Fig. 2: densities of eta, phi, pt of all particles and of the jet's mass, and here n and sum of pt, with the
    ratio to the first of `jets`, {label: particles (J, N, 3), padding 0}. Bands: one Poisson sd."""
    figure, axes = plt.subplots(4, 3, figsize=(12, 8), height_ratios=[3, 1, 3, 1], sharex=False)
    values = {}
    for label, x in jets.items():
        found = (*x[present(x)].T, jet_mass(x), present(x).sum(1), x[..., 2].sum(1))
        values[label] = dict(zip(("η rel", "φ rel", "p_T rel", "mass", "n", "Σ p_T rel"), (v.numpy() for v in found)))
    reference = next(iter(jets))
    for i, name in enumerate(values[reference]):
        axis, below = axes[2 * (i // 3), i % 3], axes[2 * (i // 3) + 1, i % 3]
        v = values[reference][name]
        low, high = np.quantile(v, [0.0005, 0.9995])
        if low == high:                                                  # as the mass of jets of one particle
            low, high = low - 0.1 * (1 + abs(low)), high + 0.1 * (1 + abs(high))
        bins = np.geomspace(max(low, 1e-5), high, 50) if name == "p_T rel" else (
            np.arange(int(low), int(high) + 2) - 0.5 if name == "n" else np.linspace(low, high, 50))
        ratio_histogram(axis, below, {label: found[name] for label, found in values.items() if label != reference},
                        (reference, v), bins)
        axis.set(yscale="log" if name in ("η rel", "φ rel", "p_T rel") else "linear")
        below.set_xlabel(name)
        if name == "p_T rel":
            axis.set_xscale("log")
            below.set_xscale("log")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


if __name__ == "__main__":
    run_main(main)
