"""Train BEGAN. Run from the repository's root:

  python -m began.train                        the thesis' experiment: FashionMNIST 64x64, 8 epochs (a GPU's work)
  python -m began.train --quick                ten minutes on two CPU cores
  python -m began.train --arch berthelot       the original convolutional autoencoder
  python -m began.train --resume DIR           go on, exactly where last.pt stands
  torchrun --standalone --nproc-per-node=2 -m began.train …

Leaves in the run directory: log.jsonl, curves.png, samples/ (fixed z), last.pt.
"""

import sys
from pathlib import Path

import torch

if not __package__:                          # started as a file: relative imports can't work
    print("error: start this as a module from the repository's root: "
          f"python -m {Path(__file__).resolve().parent.name}.{Path(__file__).stem}", file=sys.stderr)
    sys.exit(2)

from common.cli import UserError, add_run_args, check_ranges, new_parser, parse, positive_int, run_main
from common.data import DATASETS, load_images
from common.device import (autocast, average, average_gradients, bf16_if_fast, choose_device, fused_adam,
                           init_processes, seed_all, shard, step_rng)
from common.plots import curves, save_grid
from common.runs import Run, read_log

from .model import (Autoencoder, Generator, ResNet18Encoder, autoencoder_error, convergence_measure,
                    discriminator_loss, generator_loss, update_k)

IMAGENET = "https://download.pytorch.org/models/resnet18-f37072fd.pth"           # torchvision's ResNet18_Weights
EPOCH = 938                                  # steps: 60,000 images in batches of 64 (appendix)
PRESETS = {
    "arch": {"berthelot": dict(width=128, z_dim=64, code_dim=64, batch_size=16, lr_g=1e-4, lr_d=1e-4, encoder="conv",
                               encoder_weights="none", z_dist="uniform", beta1=0.9, steps=200_000)},
    "quick": {True: dict(size=32, width=32, encoder="conv", encoder_weights="none", batch_size=32, gamma=0.8,
                         lr_g=1e-3, lr_d=1e-4, steps=5000, amp=bf16_if_fast())},
    "smoke": {True: dict(dataset="synthetic", size=16, width=8, encoder="conv", encoder_weights="none", code_dim=16,
                         batch_size=8, steps=12, log_every=2, sample_every=6, save_every=6)},
}
# The thesis' printed log (§4): step 900 of each epoch. D_loss, G_loss, k, M.
THESIS_LOG = [(0.1967, 0.1152, 0.0770, 0.2177), (0.1248, 0.0733, 0.0660, 0.1383), (0.1183, 0.0754, 0.0480, 0.1362),
              (0.0964, 0.0706, 0.0320, 0.1198), (0.0900, 0.0507, 0.0191, 0.0962), (0.0857, 0.0442, 0.0112, 0.0873),
              (0.0783, 0.0470, 0.0073, 0.0862), (0.0796, 0.0359, 0.0060, 0.0839)]
THESIS_POINTS = {key: ([900 + EPOCH * i for i in range(8)], [row[j] for row in THESIS_LOG], "thesis")
                 for j, key in enumerate(("L_D", "L_G", "k", "M"))}


def parse_args(argv=None):
    parser = new_parser(__doc__)
    paper = parser.add_argument_group("paper (thesis; --arch berthelot takes arXiv:1703.10717's)")
    paper.add_argument("--arch", choices=("thesis", "berthelot"), default="thesis", help="§3.1 / arXiv §3.5")
    paper.add_argument("--encoder", choices=("resnet18", "conv"), default="resnet18", help="D's encoder (§3.1)")
    paper.add_argument("--encoder-weights", default="imagenet", metavar="{imagenet,none,FILE}",
                       help="what ResNet-18 starts from (§3.1: pretrained)")
    paper.add_argument("--size", type=int, default=64, help="image side (appendix: 64)")
    paper.add_argument("--channels", type=int, choices=(1, 3), help="none: the data set's own (appendix: 1)")
    paper.add_argument("--width", type=positive_int, default=64,
                       help="filters: base_dim (appendix) / n (arXiv §4.1: 128)")
    paper.add_argument("--z-dim", type=positive_int, default=48, help="N_z (appendix; §3.1 says 64)")
    paper.add_argument("--z-dist", choices=("normal", "uniform"), default="normal",
                       help="appendix: normal; §2.3: uniform in [-1, 1]")
    paper.add_argument("--code-dim", type=positive_int, default=512, help="N_h (§3.1: 512; arXiv §4.1: 64)")
    paper.add_argument("--gamma", type=float, default=0.5, help="γ, diversity ratio in [0, 1] (appendix)")
    paper.add_argument("--lambda-k", type=float, default=0.001, help="λ_k, gain of k (§2.3)")
    paper.add_argument("--target-norm", type=int, choices=(1, 2), default=1, help="η (appendix: 1)")
    paper.add_argument("--lr-g", type=float, default=1e-4, help="Adam's learning rate for G (appendix)")
    paper.add_argument("--lr-d", type=float, default=1e-5, help="Adam's learning rate for D (appendix)")
    paper.add_argument("--beta1", type=float, default=0.5, help="Adam's β₁ (appendix); β₂ is 0.999")
    paper.add_argument("--lr-halve-patience", type=int, default=0, metavar="STEPS",
                       help="halve both rates when M's mean over STEPS did not fall; 0: never (arXiv §4.1: halved "
                            "when M stalls; over how many steps is not given)")
    add_run_args(parser, datasets=DATASETS + ("synthetic",), dataset="fashion-mnist", steps=8 * EPOCH, batch_size=64,
                 steps_help="updates of G, and of D (appendix: 8 epochs of 938)", batch_help="(appendix)")
    args = parse(parser, argv, PRESETS)
    check_ranges(args, gamma=(0, 1), lambda_k=(0, None), lr_g=(0, None), lr_d=(0, None), beta1=(0, 0.999),
                 lr_halve_patience=(0, None))
    return args


def encoder_weights(which):
    """ResNet-18's state dict for --encoder-weights, and the name of what was really used."""
    if which.startswith("none"):
        return None, which
    if which == "imagenet":
        try:
            state = torch.hub.load_state_dict_from_url(IMAGENET, map_location="cpu", progress=False, check_hash=True,
                                                       weights_only=True)
            return state, "imagenet"
        except Exception as e:               # any network failure: urllib, ssl, socket, hash mismatch
            print(f"warning: ResNet-18's ImageNet weights can't be had ({e}); going on from random weights. By hand: "
                  "--encoder-weights FILE with torchvision's resnet18-f37072fd.pth", file=sys.stderr)
            return None, "none (imagenet could not be had)"
    if not Path(which).is_file():
        raise UserError(f"--encoder-weights {which}: must be imagenet, none or an existing file")
    try:
        state = torch.load(which, map_location="cpu", weights_only=True)
        ResNet18Encoder(1, state)
    except Exception:                        # damaged, no dict, or another network's
        raise UserError(f"--encoder-weights {which}: not a state dict of torchvision's ResNet-18") from None
    return state, which


def build(args, channels, encoder_state=None):
    """G and D of a run, from its arguments alone."""
    try:
        shape = dict(size=args.size, channels=channels, width=args.width, arch=args.arch)
        return (Generator(args.z_dim, **shape),
                Autoencoder(args.code_dim, encoder=args.encoder, encoder_state=encoder_state, **shape))
    except ValueError as e:
        raise UserError(f"--size {args.size}: {e}") from None


def sample_z(n, args, rng):
    """z_D or z_G: (n, N_z), uniform in [-1, 1] (§2.3) or normal (appendix)."""
    if args.z_dist == "uniform":
        return torch.rand(n, args.z_dim, generator=rng) * 2 - 1
    return torch.randn(n, args.z_dim, generator=rng)


def main(argv=None):
    args = parse_args(argv)

    # --- setup
    device = choose_device(args.device)
    rank, world = init_processes(device)
    seed_all(args.seed)

    # --- data
    data = load_images(args.dataset, args.data_dir, "train", size=args.size, channels=args.channels).to(device)
    args.channels = data.channels

    # --- networks and optimisers (§3.1, appendix)
    state = None
    if args.encoder == "resnet18" and not (args.resume and Path(args.resume, "last.pt").exists()):
        state, args.encoder_weights = encoder_weights(args.encoder_weights)
    layout = torch.channels_last if args.amp == "bf16" else torch.contiguous_format
    G, D = (net.to(device, memory_format=layout) for net in build(args, args.channels, state))
    opt_G = fused_adam(G.parameters(), device, lr=args.lr_g, betas=(args.beta1, 0.999))
    opt_D = fused_adam(D.parameters(), device, lr=args.lr_d, betas=(args.beta1, 0.999))
    k_t = torch.zeros((), device=device)                                          # k_0 = 0, §2.3
    M_sum, M_best = torch.zeros((), device=device), torch.full((), 1e9, device=device)
    fixed_z = sample_z(64, args, step_rng(args.seed, 0)).to(device)

    # --- resume
    run = Run("began", args, device, rank)
    start, values = run.resume(G=G, D=D, opt_G=opt_G, opt_D=opt_D)
    k_t, M_sum, M_best = (values[name].to(device) if start else now for name, now in
                          (("k_t", k_t), ("M_sum", M_sum), ("M_best", M_best)))
    run.announce(f"BEGAN, {args.arch} preset, encoder {args.encoder} (weights: {args.encoder_weights}), on "
                 f"{args.dataset} ({len(data):,} images at {args.size}x{args.size}x{data.channels}), {device}: steps "
                 f"{start + 1} to {args.steps}, batch {args.batch_size}" + (f" over {world} processes" * (world > 1)))

    # --- Algorithm (§2.3, §3.2; order of the appendix)
    for step in run.steps(start, args.steps):
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, args.batch_size, args.seed, device)
        x = shard(x).contiguous(memory_format=layout)
        z_D, z_G = (shard(sample_z(args.batch_size, args, rng)).to(device) for _ in range(2))

        # D's step: L_D = L(x) − k_t·L(G(z_D)). G is not in its graph.
        with autocast(device, args.amp):
            with torch.no_grad():
                fake = G(z_D)
            real_error = autoencoder_error(x, D(x), args.target_norm)
            fake_error = autoencoder_error(fake, D(fake), args.target_norm)
        L_D = discriminator_loss(real_error, fake_error, k_t)
        opt_D.zero_grad()
        L_D.backward()
        average_gradients(D)
        opt_D.step()

        # G's step: L_G = L(G(z_G)) against the new D, whose weights take no gradient.
        D.requires_grad_(False)
        with autocast(device, args.amp):
            fake = G(z_G)
            L_G = generator_loss(autoencoder_error(fake, D(fake), args.target_norm))
        opt_G.zero_grad()
        L_G.backward()
        average_gradients(G)
        opt_G.step()
        D.requires_grad_(True)

        # k_{t+1} = k_t + λ_k (γ L(x) − L(G(z_G)))
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
                M_best, M_sum = torch.minimum(M_best, M_sum), torch.zeros_like(M_sum)

        # --- log, sample, save
        run.log(step, L_x=L_x, L_G=L_G, L_D=average(L_D), k=k_t, M=M)
        if run.due(step, args.sample_every) and rank == 0:
            G.eval()                                     # running BatchNorm statistics, as in the appendix
            with torch.no_grad():
                save_grid(G(fixed_z), run.dir / "samples" / f"step_{step:08d}.png")
            G.train()
        if run.due(step, args.save_every):
            run.save(step, G=G, D=D, opt_G=opt_G, opt_D=opt_D, k_t=k_t, M_sum=M_sum, M_best=M_best)
            if rank == 0:
                curves(read_log(run.dir / "log.jsonl"), [["L_x", "L_G"], ["L_D"], ["k"], ["M"]], run.dir / "curves.png",
                       smooth=10, points=THESIS_POINTS if args.arch == "thesis" and not args.quick else None)
    return run.metrics


if __name__ == "__main__":
    run_main(main)
