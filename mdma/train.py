"""Train MDMA. Run from the repository's root:

  python -m mdma.train                    as in the paper: JetNet's top jets (a GPU's work)
  python -m mdma.train --dataset pythia   the same on jets simulated here (make data-jets)
  python -m mdma.train --quick            30 particles, simulated: minutes on a CPU (README.md)
  python -m mdma.train --jet-type g --num-particles 30
  python -m mdma.train --dataset my.h5    HDF5 or NPZ of (jets, particles, 3) and a mask
  python -m mdma.train --dataset TTBar_000.root    JetClass's jets (pip install uproot awkward)
  python -m mdma.train --paper-code       the published networks, padding and all
  python -m mdma.train --model epic       EPiC-GAN, which the paper compares with
  python -m mdma.train --resume DIR       go on, exactly where last.pt stands

Leaves in the run directory: log.jsonl, curves.png, samples/ (Fig. 2 at each validation), last.pt
and best.pt: the lowest W1M on the validation jets among those that the Fréchet distance of EFPs
does not veto (§3.1).
"""

import math
import sys
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m mdma.train", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import FilePath, RunArgs
from common.cli import run_main
from common.cuda import GraphedStep
from common.device import choose_device, fused_adam
from common.distributed import average, average_gradients, init_processes, shard
from common.errors import UserError
from common.metrics.jets import efps, frechet_of_all, jet_mass, w1m_disjoint
from common.plots import curves
from common.rng import seed_all, step_rng
from common.runs import Run, read_log

from . import epic
from .features import generate, identity, noise_rows, standardise, statistics
from .figures import CURVES, draw_features
from .jets import FEATURES, JET_TYPES, bucketed_indices, data_name, load_jets
from .model import OBJECTIVES, Critic, Generator, gradient_penalty, mean_field_matching

EPOCHS = 3000  # §3.1


@dataclass
class Args(RunArgs):
    # --- paper (arXiv:2305.15254)
    # epic: EPiC-GAN (Table 1; arXiv:2301.08128), of fixed size: it refuses flags of MDMA's networks
    model: Literal["mdma", "epic"] = "mdma"
    jet_type: Literal[*JET_TYPES] = "t"  # gluon, light quark, top, W, Z (Table 1)
    num_particles: int = 150  # N, the hardest ones of a jet (§2)
    l: int = 16  # l, latent dimension (authors' code)
    h_g: int = 48  # h of the generator (authors' code)
    blocks_g: int = 7  # blocks of the generator (authors' code)
    heads_g: int = 8  # its attention heads (authors' code)
    h_d: int = 64  # h of the critic (authors' code)
    blocks_d: int = 2  # blocks of the critic (authors' code)
    heads_d: int = 4  # its attention heads (authors' code)
    # so many batches of jets are sorted by n together (§3: similar n; 64 is ours), 1: random
    # batches, as the authors' code has them
    bucket: int = 64
    n_mean: float = 70.0  # const, of sums and n; in (0, ∞) (authors' code)
    aggregate: Literal["attention", "mean", "sum"] = "attention"  # particles to mean field (§3)
    # mean field to particles (§3: a layer; adding is the tried alternative)
    update: Literal["layer", "add"] = "layer"
    glu: bool = False  # n enters through a gated linear unit (§3: tried, worse)
    paper_code: bool = False  # the authors' networks where they leave the paper
    objective: Literal[*OBJECTIVES] = "lsgan"  # (§3.1: LSGAN is most stable)
    gp: float = 10.0  # λ, gradient penalty of wgan-gp (not given)
    matching: int = 30_000  # steps with mean-field matching, 0: never; in [0, ∞) (§3.2)
    matching_weight: float = 1.0  # weight of L_match (authors' code)
    lr: float = 1e-4  # highest learning rate (§3.1)
    warmup: int = 2000  # steps to it, linear (authors' code)
    lr_total: int = 3_000_000  # steps after which the cosine is at 0 (authors' code)
    # best.pt: no checkpoint whose FPD, not extrapolated, is this many times the lowest so far;
    # in [1, ∞) (§3.1 vetoes by FPD and gives no threshold: 1.2 is ours, departure 13)
    veto: float = 1.2
    beta1: float = 0.0  # Adam's β₁ in [0, 1) (authors' code)
    beta2: float = 0.999  # Adam's β₂ in [0, 1) (authors' code)
    weight_decay: float = 0.01  # of the critic (§3.1), decoupled (authors' code)

    # --- not in the paper (off)
    lr_ratio: float = 1.0  # the generator's learning rate over the critic's
    g_every: int = 1  # G learns only every this many steps, the critic at every one
    # how the networks see pt_rel: as it is, its ln (the authors' code of 2024: Box-Cox, whose
    # exponent comes out as 0), or x of pt_rel = s·softplus(x) (ours), s the median: ln where soft,
    # linear where hard. With both no pt is below 0
    pt: Literal["linear", "log", "softplus"] = "linear"
    # decay in [0, 1) of a moving average of G's weights, which then makes the jets (ours); 0: G
    ema: float = 0.0

    # --- run
    # jetnet, pythia, synthetic, your own .hdf5, .h5 or .npz, or JetClass's .root
    dataset: FilePath = "jetnet"
    train_jets: int | None = None  # train on the first so many training jets only; none: on all
    # batches to train on; none: 3,000 epochs (§3.1), of JetNet's top jets 2,919,000
    steps: int | None = None
    batch_size: int = 128  # jets per step (authors' code)
    # generated jets per validation jet for W1M, each --sample-every (authors' code)
    valid_batches: int = 10
    eager: bool = False  # CUDA: no graphs, each kernel is launched by itself
    log_every: int = 50  # steps between lines of log.jsonl
    sample_every: int = 2000  # steps between validations
    save_every: int = 2000  # steps between checkpoints


QUICK = dict(
    dataset="pythia",
    num_particles=30,
    steps=10_000,
    lr_total=10_000,
    warmup=500,
    lr=1e-3,
    matching=2000,
    ema=0.999,
    valid_batches=2,
    sample_every=500,
    save_every=500,
)
SMOKE = dict(
    dataset="synthetic",
    num_particles=8,
    l=4,
    h_g=8,
    heads_g=2,
    blocks_g=2,
    h_d=8,
    heads_d=2,
    batch_size=16,
    steps=12,
    lr_total=12,
    warmup=2,
    matching=6,
    valid_batches=2,
    log_every=2,
    sample_every=6,
    save_every=6,
)
EPIC = dict(
    matching=0,
    beta1=0.9,  # with β₂ 0.999, lr 1e-4 and ε 1e-14 (EPiC-GAN's code)
    weight_decay=0.0,  # plain Adam (EPiC-GAN's code)
    # a constant learning rate (EPiC-GAN's code): the cosine doesn't come within any run
    warmup=1,
    lr_total=10**12,
)
# MDMA's networks and losses: these flags EPiC-GAN can't have
MDMA_ONLY = (
    "l h_g blocks_g heads_g h_d blocks_d heads_d n_mean "
    "aggregate update glu paper_code matching matching_weight"
).split()
NAMES = {"mdma": "MDMA", "epic": "EPiC-GAN"}
# Flags that no longer exist. At these values they did nothing, so such a run can be resumed.
RETIRED = {"jitter": 0.0, "head_start": 0, "adaptive": False, "adaptive_after": 50_000}


def presets(args):
    """What --model, --quick and --smoke set, in this order; of EPiC-GAN nothing of MDMA_ONLY."""
    left_out = MDMA_ONLY if args.model == "epic" else []
    quick = {flag: value for flag, value in QUICK.items() if flag not in left_out}
    smoke = {flag: value for flag, value in SMOKE.items() if flag not in left_out}
    return {"model": {"epic": EPIC}, "quick": {True: quick}, "smoke": {True: smoke}}


def parse_args(argv=None):
    args = arguments.parse_args(Args, __doc__, argv, presets, RETIRED)
    if args.model == "epic":
        for name in MDMA_ONLY:
            if getattr(args, name) != EPIC.get(name, getattr(Args, name)):
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} is for MDMA only: leave it out with --model epic")
    for side in "gd":
        h, heads = getattr(args, f"h_{side}"), getattr(args, f"heads_{side}")
        if h % heads:
            raise UserError(f"--h-{side} {h} is no multiple of --heads-{side} {heads}")
    if args.amp != "off":
        raise UserError(
            "--amp bf16: jets need float32, a particle's pt can be 1e-4 of the jet's. Leave it out"
        )
    return args


def build(args):
    """G and D of a run, from its arguments alone."""
    if args.model == "epic":
        return epic.Generator(features=len(FEATURES)), epic.Discriminator(features=len(FEATURES))
    shared = dict(
        l=args.l,
        features=len(FEATURES),
        aggregate=args.aggregate,
        update=args.update,
        glu=args.glu,
        n_mean=args.n_mean,
        paper_code=args.paper_code,
    )
    G = Generator(h=args.h_g, blocks=args.blocks_g, heads=args.heads_g, **shared)
    D = Critic(h=args.h_d, blocks=args.blocks_d, heads=args.heads_d, **shared)
    return G, D


def lr_factor(step, warmup, total):
    """min(1, step / warmup) · (1 + cos(π · step / total)) / 2, §3.1; 0 from `total` on."""
    return min(1, step / warmup) * (1 + math.cos(math.pi * min(1, step / total))) / 2


def steps_per_epoch(jets, batch_size):
    """Whole batches of an epoch; 1 where there is none, so that the first one is refused."""
    return max(1, jets // batch_size)


def validate(fake, real_mass, real_efps, batches):
    """W1M and the Fréchet distance of EFPs, §3.1, of generated against validation jets.

    fake: `batches` disjoint generated batches of as many jets as are real, (J, N, 3); real_mass,
    real_efps: of the validation jets. The distance of EFPs that overflow is infinite.
    """
    w1m, _ = w1m_disjoint(real_mass, jet_mass(fake), batches)
    fake_efps = efps(fake[: len(real_efps)])
    if not fake_efps.isfinite().all():
        return w1m, math.inf
    return w1m, frechet_of_all(real_efps, fake_efps)


def choose_best(best, w1m, frechet, veto):
    """Whether this step becomes best.pt (§3.1), and `best` after it.

    It does if its W1M is lower than best.pt's, or best.pt is vetoed now, unless it is vetoed
    itself. A step is vetoed if its Fréchet distance is more than `veto` times the lowest so far.
    best: {"w1m", "frechet"} of best.pt and the "lowest" Fréchet distance of all steps.
    """
    lowest = min(best["lowest"], frechet)
    vetoed = frechet > veto * lowest
    best_vetoed = best["frechet"] > veto * lowest
    if not vetoed and (best_vetoed or w1m < best["w1m"]):
        return True, {"w1m": w1m, "frechet": frechet, "lowest": lowest}
    return False, best | {"lowest": lowest}


def set_options(opt, **options):
    """Options in place of a checkpoint's; Adam's counts of steps go where these want them."""
    opt.param_groups[0].update(options)
    for p, state in opt.state.items():  # of a run on an Apple GPU they are on the CPU
        state["step"] = state["step"].to(p.device if options["fused"] else "cpu")


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, _ = init_processes(device, args.batch_size)
    seed_all(args.seed)

    # --- data
    where = (args.dataset, args.jet_type, args.num_particles, args.data_dir)
    train, valid = load_jets(*where, "train"), load_jets(*where, "valid")
    if args.train_jets is not None:
        if args.train_jets > len(train):
            raise UserError(f"--train-jets {args.train_jets}: there are {len(train)} training jets")
        train = train[: args.train_jets]
    if len(valid) < 2:
        raise UserError(
            f"{args.dataset}: {len(valid)} jet to validate with, a covariance needs two: "
            "use more jets"
        )
    if args.steps is None:
        args.steps = EPOCHS * steps_per_epoch(len(train), args.batch_size)
    stats, n, N = statistics(train, args.pt), train.n, args.num_particles
    particles, masks = standardise(train, stats).to(device), train.mask.to(device)
    real = valid.particles.to(device)
    real_mass, real_efps = jet_mass(real), efps(real)

    # --- networks and optimisers (§3, §3.1)
    G, D = (net.to(device) for net in build(args))
    objective = OBJECTIVES[args.objective]
    lr_G = torch.zeros((), device=device)  # tensors: CUDA graphs read them where they stand
    lr_D = torch.zeros((), device=device)
    adam = dict(betas=(args.beta1, args.beta2), eps=1e-14, capturable=device.type == "cuda")
    opt_G = fused_adam(G.parameters(), device, lr=lr_G, **adam)
    adam["fused"] = opt_G.defaults["fused"]
    opt_D = torch.optim.AdamW(D.parameters(), lr=lr_D, weight_decay=args.weight_decay, **adam)
    G_ema = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.ema)).requires_grad_(False)
    G_ema.n_averaged += 1  # it begins as the initial G, not as the first one that is averaged
    best = {"w1m": 1e9, "frechet": 1e9, "lowest": 1e9}  # saved, so finite

    # --- resume
    bucketed_indices(train.n, args.batch_size, args.seed, 0)  # refuses too few jets before a run
    run = Run("mdma", args, device, rank, identity(train))
    start, values = run.resume(G=G, D=D, G_ema=G_ema.module, opt_G=opt_G, opt_D=opt_D)
    best = values.get("best", best)
    data = data_name(args.dataset, args.jet_type)
    for opt, lr in ((opt_G, lr_G), (opt_D, lr_D)):  # not the checkpoint's: the device may differ
        set_options(opt, lr=lr, capturable=adam["capturable"], fused=adam["fused"])
    sizes = [sum(p.numel() for p in net.parameters()) for net in (G, D)]
    run.announce(
        f"{NAMES[args.model]}, {args.objective}, {sizes[0]:,} + {sizes[1]:,} parameters, "
        f"on {data} ({len(train):,} jets of up to {N} particles), "
        f"{device}: steps {start + 1} to {args.steps}, batch {args.batch_size}"
    )
    if rank == 0 and args.steps > args.lr_total:
        print(
            f"--lr-total {args.lr_total}: the learning rate is 0 from there on, so the last "
            f"{args.steps - args.lr_total:,} of {args.steps:,} steps teach nothing",
            file=sys.stderr,
        )

    # --- Algorithm (§3.1, §3.2)
    # A step is a function so that CUDA can replay it as a graph. L_D = E (D(x) − 1)² + E D(G(z))²,
    # L_G = ½ E (D(G(z)) − 1)², and while `matching` + E ‖c_D(G(z)) − c_D(x)‖² / l.
    def training_step(x, mask, z, epsilon, train_G, matching):
        fake = G(z, mask)

        # Critic, on real and generated jets of the same n. G is not in its graph.
        scores, fields = D(torch.cat([x, fake.detach()]), torch.cat([mask, mask]))
        real_score, fake_score = scores.chunk(2)
        real_field, _ = fields.chunk(2)
        L_D = objective.discriminator_loss(real_score, fake_score)
        if args.objective == "wgan-gp":
            L_D = L_D + args.gp * gradient_penalty(D, x, fake, epsilon, mask)
        opt_D.zero_grad()
        L_D.backward()
        average_gradients(D)
        opt_D.step()
        if not train_G:
            zero = torch.zeros((), device=device)
            return L_D.detach(), zero, zero

        # Generator, against the updated critic, with mean-field matching (§3.2): the real jets'
        # mean fields are from before the critic's update.
        D.requires_grad_(False)
        fake_score, fake_field = D(fake, mask)
        L_G = objective.generator_loss(fake_score)
        L_match = mean_field_matching(fake_field, real_field)
        loss = L_G + args.matching_weight * L_match if matching else L_G
        opt_G.zero_grad()
        loss.backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)
        return L_D.detach(), L_G.detach(), L_match.detach()

    run_step = training_step if args.eager else GraphedStep(training_step, device)
    losses_of_G = {}  # of its last step
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        index = bucketed_indices(n, args.batch_size, args.seed, step - 1, args.bucket)
        longest = N if args.paper_code else int(n[index].max())  # of the batch: its padding (§3)
        z = torch.randn(len(index), noise_rows(G, longest), len(FEATURES), generator=rng)
        epsilon = torch.rand(len(index), generator=rng)
        index, z, epsilon = (shard(part).to(device) for part in (index, z, epsilon))
        x, mask = particles[index, :longest], masks[index, :longest]
        lr_D.fill_(args.lr * lr_factor(step, args.warmup, args.lr_total))
        lr_G.copy_(lr_D * args.lr_ratio)

        train_G, matching = step % args.g_every == 0, step <= args.matching
        L_D, L_G, L_match = run_step(x, mask, z, epsilon, train_G, matching)
        if train_G:
            losses_of_G = dict(L_G=average(L_G), L_match=average(L_match))
            if args.ema:
                G_ema.update_parameters(G)

        # --- log, sample, save
        losses = dict(L_D=average(L_D), **losses_of_G, lr=lr_D)
        run.check(step, **losses)
        measured, better = {}, False
        if step % args.sample_every == 0 or step == args.steps:
            net = G_ema.module if args.ema else G
            count = args.valid_batches * len(valid)
            fake = generate(net, count, stats, N, step_rng(args.seed, 0))
            run.check(step, jets=fake)
            w1m, frechet = validate(fake, real_mass, real_efps, args.valid_batches)
            measured = {"w1m_valid": w1m, "frechet_valid": frechet}
            better, best = choose_best(best, w1m, frechet, args.veto)
            if rank == 0:
                drawn = {"data": valid.particles, f"step {step}": fake[: len(valid)].cpu()}
                draw_features(drawn, run.dir / "samples" / f"step_{step:08d}.png")
        run.log(step, **losses, **measured)
        state = dict(G=G, D=D, G_ema=G_ema.module, opt_G=opt_G, opt_D=opt_D, stats=stats, best=best)
        if better:
            run.save(step, "best.pt", **state)
        if run.due(step, args.save_every):
            run.save(step, **state)
            if rank == 0:
                log = read_log(run.dir / "log.jsonl")
                curves(log, CURVES, run.dir / "curves.png", smooth=10)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
