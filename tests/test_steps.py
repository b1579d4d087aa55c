"""The first steps of each folder's training loop against the same steps written out by hand.

By hand: plain autograd and torch.optim after the papers' formulas. Of ours are only the networks
(`build`) and what a run's reproducibility promises: batch number step − 1 of the data, and
`step_rng(seed, step)`, from which a step draws its noise in the order of the algorithm. After three
steps, so that Adam's moments, BatchNorm's statistics, k_t and schedules carry over, every weight of
every network agrees to 1e-6, and so does what the last step has logged.
"""

import copy
import importlib
import math
from argparse import Namespace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.rng import seed_all, step_rng
from tests.helpers import smoke_run

STEPS = 3


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """Both sides: where a gradient is 0, Adam would make a whole step of float32's rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(folder, out, flags, *more):
    """(the folder's train module, args of the run, its last.pt's state and "metrics")."""
    words = ["--steps", STEPS, "--log-every", 1, "--seed", 5, *flags.split(), *more]
    checkpoint = smoke_run(folder, out, *words)
    args = Namespace(**checkpoint["args"])
    seed_all(args.seed)  # which the networks are the first to draw from
    state = checkpoint["state"] | {"metrics": checkpoint["metrics"]}
    return importlib.import_module(f"{folder}.train"), args, state


def assert_agree(found, expected, what, ignore=()):
    """Two state dicts are equal to 1e-6, but for entries whose name has a part of `ignore`."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if any(part in name for part in ignore):
            continue
        difference = (found[name] - value).abs().max().item()
        assert difference <= 1e-6, f"{what}.{name} differs by {difference:.1e}"


def assert_logged(state, **expected):
    """The last line of the log has these values."""
    found = {name: state["metrics"].get(name) for name in expected}
    expected = {name: float(torch.as_tensor(value).detach()) for name, value in expected.items()}
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def descend(opt, loss, **kwargs):
    """One step of `opt` down the gradient of `loss` in its own parameters, and in nothing else."""
    params = [p for group in opt.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, params, allow_unused=True, **kwargs)
    for p, gradient in zip(params, gradients):
        p.grad = gradient
    opt.step()


def interpolate(a, b, u):
    """u a + (1 − u) b with a number u for each sample, as a leaf with gradient."""
    u = u.view(-1, *[1] * (a.ndim - 1))
    return (u * a + (1 - u) * b).detach().requires_grad_()


def penalty(D, x_hat):
    """E (‖∇_x̂ D(x̂)‖ − 1)²."""
    with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention with a second derivative
        (gradient,) = torch.autograd.grad(D(x_hat).sum(), x_hat, create_graph=True)
    return ((gradient.square().flatten(1).sum(1).sqrt() - 1) ** 2).mean()


# --- BEGAN: L_D = L(x) − k L(G(z_D)), L_G = L(G(z_G)), k += λ_k (γ L(x) − L_G)


@pytest.mark.parametrize(
    "flags",
    [
        "--lambda-k 2 --gamma 1",
        "--lambda-k 2 --gamma 1 --z-dist uniform --target-norm 2 --beta1 0.3",
        "--arch berthelot --width 4 --code-dim 8 --z-dim 6 --lambda-k 3 --gamma 0.9 --beta1 0.4",
        "--lambda-k 0.1 --lr-halve-patience 2 --steps 6 --lr-g 0.05 --lr-d 0.1 --gamma 0.2",
    ],
)
def test_began(tmp_path, flags):
    rates = "" if "--lr-g" in flags else " --lr-g 1e-3 --lr-d 3e-3"
    train, args, state = trained("began", tmp_path / "run", flags + rates, "--sample-every", 2)
    G, D = train.build(args)
    opt_G = torch.optim.Adam(G.parameters(), lr=args.lr_g, betas=(args.beta1, 0.999))
    opt_D = torch.optim.Adam(D.parameters(), lr=args.lr_d, betas=(args.beta1, 0.999))
    data = train.load_images("synthetic", "none", "train", size=args.size, channels=args.channels)
    k, window, lowest = 0.0, 0.0, math.inf

    def noise(rng):
        if args.z_dist == "uniform":
            return 2 * torch.rand(args.batch_size, args.z_dim, generator=rng) - 1
        return torch.randn(args.batch_size, args.z_dim, generator=rng)

    def error(v):
        return ((v - D(v)).abs() ** args.target_norm).mean()

    for step in range(1, args.steps + 1):
        x, _ = data.batch(step - 1, args.batch_size, args.seed)
        rng = step_rng(args.seed, step)
        z_D, z_G = noise(rng), noise(rng)
        fake = G(z_D).detach()
        L_x = error(x)
        L_D = L_x - k * error(fake)
        descend(opt_D, L_D)
        L_G = error(G(z_G))
        descend(opt_G, L_G)
        balance = (args.gamma * L_x - L_G).item()
        k = min(max(k + args.lambda_k * balance, 0), 1)
        M = L_x.item() + abs(balance)
        window += M
        if args.lr_halve_patience and step % args.lr_halve_patience == 0:
            if window >= lowest:
                opt_G.param_groups[0]["lr"] /= 2
                opt_D.param_groups[0]["lr"] /= 2
            window, lowest = 0.0, min(lowest, window)
    assert_agree(state["G"], G.state_dict(), "G")
    assert_agree(state["D"], D.state_dict(), "D")
    assert_logged(state, L_x=L_x, L_G=L_G, L_D=L_D, k=k, M=M)
    assert float(state["k_t"]) == pytest.approx(k, abs=1e-8)
    assert k > 0.01 or args.lr_halve_patience, "k plays no part"
    for opt, name in ((opt_G, "opt_G"), (opt_D, "opt_D")):
        assert state[name]["param_groups"][0]["lr"] == opt.param_groups[0]["lr"]
    if args.lr_halve_patience:
        assert opt_G.param_groups[0]["lr"] < args.lr_g, "no rate was halved"


# --- E-GAN, Algorithm 1


MUTATIONS = {
    "heuristic": lambda l: -torch.sigmoid(l).log().mean(),
    "minimax": lambda l: (1 - torch.sigmoid(l)).log().mean(),
    "least-squares": lambda l: ((torch.sigmoid(l) - 1) ** 2).mean(),
}


@pytest.mark.parametrize(
    "flags",
    [
        "--population loop",
        "--population batch --mu 2",
        "--population batch --mu 2 --n-d 2 --gamma 20 --eval-batch 5",
        "--mutations least-squares --beta1 0.7 --beta1-d 0.3 --beta2 0.9",
        "--mutations minimax heuristic --selection random --mu 4",
        "--gp 3 --d-norm none --init he --n-d 2 --mu 2",
        "--dataset synthetic --width-g 4 --width-d 4 --mu 2 --gamma 0.5 --n-d 1",
        "--dataset synthetic --width-g 4 --width-d 4 --population batch --gp 10 --d-norm none",
    ],
)
def test_egan(tmp_path, flags):
    train, args, state = trained(
        "egan", tmp_path / "run", flags, "--lr-g", 2e-3, "--lr-d", 5e-3, "--z-dim", 3
    )
    parents, D = train.build(args)
    opt_D = torch.optim.Adam(D.parameters(), lr=args.lr_d, betas=(args.beta1_d, args.beta2))
    data, m, mu = train.load_data(args), args.batch_size, args.mu
    wanted = [name for name in ("heuristic", "minimax", "least-squares") if name in args.mutations]
    n_m = len(wanted)

    def adam(G, moments=None):
        opt = torch.optim.Adam(G.parameters(), lr=args.lr_g, betas=(args.beta1, args.beta2))
        if moments:
            opt.load_state_dict(copy.deepcopy(moments))
        return opt

    def noise(*shape, rng):
        return 2 * torch.rand(*shape, args.z_dim, generator=rng) - 1

    def L_D(real, fake):
        return -torch.sigmoid(D(real)).log().mean() - (1 - torch.sigmoid(D(fake))).log().mean()

    def fitness(G, x, z):
        fake = G(z).detach()
        gradient = torch.autograd.grad(L_D(x, fake), list(D.parameters()))
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        return torch.sigmoid(D(fake)).mean().item(), -norm.log().item()

    parents = [(G, adam(G)) for G in parents]
    for step in range(1, STEPS + 1):
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, args.n_d * m + args.eval_batch, args.seed)
        for k in range(args.n_d):
            x_k, z = x[k * m : (k + 1) * m], noise(mu, m // mu, rng=rng)
            fake = torch.cat([G(z_j) for (G, _), z_j in zip(parents, z)]).detach()
            loss = L_D(x_k, fake)
            logged = loss.item()  # without the penalty
            if args.gp:
                x_hat = interpolate(x_k, fake, torch.rand(m, generator=rng))
                loss = loss + args.gp * penalty(D, x_hat)
            descend(opt_D, loss)

        z, children = noise(mu * n_m, m, rng=rng), []
        for j, (parent, opt) in enumerate(parents):
            for h, name in enumerate(wanted):
                child = copy.deepcopy(parent)
                child_opt = adam(child, opt.state_dict())
                descend(child_opt, MUTATIONS[name](D(child(z[j * n_m + h]))))
                children.append((child, child_opt))
        z = noise(args.eval_batch, rng=rng)
        F_qd = [fitness(child, x[args.n_d * m :], z) for child, _ in children]
        F_all = [F_q + args.gamma * F_d for F_q, F_d in F_qd]
        if n_m == 1:
            places = list(range(mu))
        elif args.selection == "fitness":
            places = sorted(range(len(children)), key=lambda r: -F_all[r])[:mu]
        else:
            places = torch.randperm(len(children), generator=rng)[:mu].tolist()
        parents = [children[r] for r in places]
    assert_agree(state["D"], D.state_dict(), "D")
    for r, (G, _) in enumerate(parents):
        found = {name: stack[r] for name, stack in state["population"]["params"].items()}
        assert_agree(found, G.state_dict(), f"G_{r}")
    F_q, F_d = F_qd[places[0]]
    shares = {
        f"selected_{name}": sum(r % n_m == h for r in places) / mu for h, name in enumerate(wanted)
    }
    assert_logged(state, L_D=logged, F_q=F_q, F_d=F_d, **shares)


# --- MDMA, §3.1 and §3.2


@pytest.mark.parametrize(
    "flags",
    [
        "--matching-weight 0.3 --matching 2",
        "--matching 0 --weight-decay 0.5 --beta1 0.5 --beta2 0.9",
        "--objective vanilla --ema 0.9 --lr-ratio 0.3",
        "--objective wgan-gp --gp 3 --bucket 1",
        "--g-every 2 --steps 4 --pt log --ema 0.8",
        "--pt softplus --paper-code --warmup 5 --lr-total 4",
        "--model epic --ema 0.9",
    ],
)
def test_mdma(tmp_path, flags):
    train, args, state = trained("mdma", tmp_path / "run", "--lr 1e-3 " + flags)
    G, D = train.build(args)
    shadow = copy.deepcopy(G)
    opt_G = torch.optim.Adam(G.parameters(), betas=(args.beta1, args.beta2), eps=1e-14)
    opt_D = torch.optim.AdamW(
        D.parameters(), betas=(args.beta1, args.beta2), eps=1e-14, weight_decay=args.weight_decay
    )
    jets = train.load_jets("synthetic", args.jet_type, args.num_particles, "none", "train")

    features = jets.particles.clone()
    scale = features[jets.mask][:, 2].median()
    if args.pt == "log":
        features[..., 2] = features[..., 2].log()
    elif args.pt == "softplus":
        features[..., 2] = (features[..., 2] / scale).expm1().log()
    real = features[jets.mask].double()
    features = (features.double() - real.mean(0)) / real.std(0)
    features = torch.where(jets.mask[..., None], features, 0.0)

    for step in range(1, args.steps + 1):
        rng = step_rng(args.seed, step)
        index = train.bucketed_indices(jets.n, args.batch_size, args.seed, step - 1, args.bucket)
        N = args.num_particles if args.paper_code else int(jets.n[index].max())
        rows = N + 4 if args.model == "epic" else N
        z = torch.randn(args.batch_size, rows, 3, generator=rng)
        u = torch.rand(args.batch_size, generator=rng)
        x, mask = features[index, :N], jets.mask[index, :N]
        rate = args.lr * min(1, step / args.warmup)
        rate = rate * (1 + math.cos(math.pi * min(1, step / args.lr_total))) / 2
        opt_D.param_groups[0]["lr"], opt_G.param_groups[0]["lr"] = rate, rate * args.lr_ratio

        fake = G(z, mask)
        (d_real, field_real), (d_fake, _) = D(x, mask), D(fake.detach(), mask)
        if args.objective == "lsgan":
            L_D = ((d_real - 1) ** 2).mean() + (d_fake**2).mean()
        elif args.objective == "vanilla":
            L_D = -torch.sigmoid(d_real).log().mean() - (1 - torch.sigmoid(d_fake)).log().mean()
        else:
            x_hat, score = interpolate(x, fake, u), lambda v, mask=mask: D(v, mask)[0]
            L_D = d_fake.mean() - d_real.mean() + args.gp * penalty(score, x_hat)
        field_real = field_real.detach()
        descend(opt_D, L_D)

        L_G = L_match = 0.0
        if step % args.g_every == 0:
            d_fake, field = D(fake, mask)
            L_G = {
                "lsgan": ((d_fake - 1) ** 2).mean() / 2,
                "wgan-gp": -d_fake.mean(),
                "vanilla": -torch.sigmoid(d_fake).log().mean(),
            }[args.objective]
            L_match = ((field - field_real) ** 2).mean()
            weight = args.matching_weight if step <= args.matching else 0
            descend(opt_G, L_G + weight * L_match)
            for average, p in zip(shadow.parameters(), G.parameters()):
                average.data = args.ema * average.data + (1 - args.ema) * p.data
    assert_agree(state["D"], D.state_dict(), "D")
    assert_agree(state["G"], G.state_dict(), "G")
    assert_logged(state, L_D=L_D, L_G=L_G, L_match=L_match, lr=rate)
    if args.ema:
        assert_agree(state["G_ema"], shadow.state_dict(), "G_ema")


# --- GAN, WGAN, WGAN-GP, SAGAN, SAGAN + WGAN-GP: Eq. 1-4


@pytest.mark.parametrize(
    "flags",
    [
        "--method gan --n-critic 1",
        "--method wgan --lr-d 3e-3 --beta2 0.8",
        "--method wgan --batch-norm g --n-critic-warm 3 --optimizer adam --beta1 0.3",
        "--method wgan_gp --gp 3",
        "--method sagan --lr-decay --beta1 0.2 --beta2 0.8",
        "--method sagan_wgan_gp --steps 4 --sample-every 2",
        "--method sagan --gp 10 --clip 0.02 --n-critic 1",
        "--dataset 25gaussians --method wgan_gp",
        "--dataset swissroll --method gan --clip 0.5 --loss hinge",
    ],
)
def test_sagan_wgangp(tmp_path, flags):
    train, args, state = trained("sagan_wgangp", tmp_path / "run", flags + " --lr-g 2e-3")
    G, D = train.build(args)

    def optimiser(net, lr):
        if args.optimizer == "rmsprop":
            return torch.optim.RMSprop(net.parameters(), lr=lr, alpha=args.beta2)
        return torch.optim.Adam(net.parameters(), lr=lr, betas=(args.beta1, args.beta2))

    opt_G, opt_D = optimiser(G, args.lr_g), optimiser(D, args.lr_d)
    data, B, batch = train.load_data(args), args.batch_size, 0
    for step in range(1, args.steps + 1):
        rng = step_rng(args.seed, step)
        if args.lr_decay:
            opt_G.param_groups[0]["lr"] = args.lr_g * (args.steps - step + 1) / args.steps
            opt_D.param_groups[0]["lr"] = args.lr_d * (args.steps - step + 1) / args.steps
        for _ in range(args.n_critic_warm or args.n_critic):  # warm: the first 25 steps
            x, _ = data.batch(batch, B, args.seed)
            batch += 1
            fake = G(torch.randn(B, args.z_dim, generator=rng)).detach()
            d_real, d_fake = D(x), D(fake)
            fake_mean = d_fake.mean()
            if args.loss == "gan":
                L_D = -torch.sigmoid(d_real).log().mean() - (1 - torch.sigmoid(d_fake)).log().mean()
            elif args.loss == "hinge":
                L_D = (1 - d_real).clamp(min=0).mean() + (1 + d_fake).clamp(min=0).mean()
            else:
                L_D = d_fake.mean() - d_real.mean()
            GP = 0.0
            if args.gp:
                x_hat = interpolate(x, fake, torch.rand(B, generator=rng))
                GP = penalty(D, x_hat)
            descend(opt_D, L_D + args.gp * GP)
            if args.clip:
                for p in D.parameters():
                    p.data.clamp_(-args.clip, args.clip)
        d_fake = D(G(torch.randn(B, args.z_dim, generator=rng)))
        L_G = -torch.sigmoid(d_fake).log().mean() if args.loss == "gan" else -d_fake.mean()
        descend(opt_G, L_G)
    assert_agree(state["G"], G.state_dict(), "G")
    assert_agree(state["D"], D.state_dict(), "D")
    assert state["batch"] == batch
    W = {"W": d_real.mean() - fake_mean} if args.loss == "wasserstein" else {}
    assert_logged(state, L_D=L_D, L_G=L_G, **W, **({"GP": GP} if args.gp else {}))
    gammas = [v for name, v in G.state_dict().items() if name.endswith("gamma")]
    if gammas:
        assert_logged(state, gamma_G=gammas[0])


# --- CA-GAN (17), (18); AC-GAN (1), (2); modified AC-GAN (7), (8)


ADVERSARIAL = {  # of D's output d: f in L_d of x, in L_d of x', in L_g
    "lsgan": (lambda d: (d - 1) ** 2, lambda d: d**2, lambda d: (d - 1) ** 2),
    "minimax": (
        lambda d: -torch.sigmoid(d).log(),
        lambda d: -(1 - torch.sigmoid(d)).log(),
        lambda d: (1 - torch.sigmoid(d)).log(),
    ),
    "vanilla": (
        lambda d: -torch.sigmoid(d).log(),
        lambda d: -(1 - torch.sigmoid(d)).log(),
        lambda d: -torch.sigmoid(d).log(),
    ),
    "hinge": (lambda d: (1 - d).clamp(min=0), lambda d: (1 + d).clamp(min=0), lambda d: -d),
    "wgan-gp": (lambda d: -d, lambda d: d, lambda d: -d),
}
LOSSES = ("ca", "ac", "modified_ac", "modified_ac_with_generated")


@pytest.mark.parametrize(
    "flags",
    [
        *(
            f"--loss {loss} --adv {adv}"
            for loss in LOSSES
            for adv in ADVERSARIAL
            if adv != "wgan-gp"
        ),
        *(f"--loss {loss} --adv wgan-gp --lambda-gp 3 --n-critic 1" for loss in LOSSES),
        "--adv wgan-gp --norm none --n-critic 2 --steps 4 --targets data",
        "--norm batch --mix-from 0 --beta1 0.5 --beta2 0.9 --targets data",
        "--norm batch --norm-inner --mix-ramp 0.3 --unbalanced 2 1 --loss ac",
        "--norm batch --mix-from 1 --unbalanced 2 1 --n-critic 2 --lambda-cls 0.7 --loss modified_ac",
    ],
)
def test_cagan(tmp_path, flags):
    train, args, state = trained("cagan", tmp_path / "run", "--width 4 --lr 2e-3 " + flags)
    G, D = train.build(args, [10])
    opt_G, opt_D = (
        torch.optim.Adam(net.parameters(), lr=args.lr, betas=(args.beta1, args.beta2))
        for net in (G, D)
    )
    data, B = train.load_images("synthetic", "none", "train", size=16, channels=1), args.batch_size
    if args.unbalanced:
        keep = [(data.labels == c).nonzero()[:, 0][: args.unbalanced[c > 0]] for c in range(10)]
        data.images, data.labels = data.images[torch.cat(keep)], data.labels[torch.cat(keep)]
    f_real, f_fake, f_G = ADVERSARIAL[args.adv]
    ca, weight = args.loss == "ca", 1.0 if args.loss == "ac" else args.lambda_cls

    def classified(out, cnd):
        """The mean of −log softmax_c over the classes' heads."""
        probability = out[:, 1:].exp() / out[:, 1:].exp().sum(1, keepdim=True)
        return -((probability * cnd).sum(1)).log().mean()

    for step in range(1, args.steps + 1):
        rng, epoch = step_rng(args.seed, step), (step - 1) * B // len(data)
        x, labels = data.batch(step - 1, B, args.seed)
        z, z_penalty = (torch.randn(B, args.z_dim, generator=rng) for _ in range(2))
        if args.targets == "uniform":
            asked = torch.randint(10, (B,), generator=rng)
        else:
            asked = data.labels[torch.randint(len(data), (B,), generator=rng)]
        cnd, asked = F.one_hot(labels, 10).double(), F.one_hot(asked, 10).double()
        share = min(0.5, args.mix_ramp * epoch) if args.mix_ramp else 0.0
        if args.mix_from is not None and epoch >= args.mix_from:
            share = 0.5
        s = round(share * B)

        fake = G(z, asked)
        first, second = D(torch.cat([x[s:], fake[:s]])), D(torch.cat([fake[s:], x[:s]]))
        d_real = torch.cat([second[B - s :], first[: B - s]])
        d_fake = torch.cat([first[B - s :], second[: B - s]])
        if ca:
            L_D = (cnd * f_real(d_real)).sum() / B + (asked * f_fake(d_fake)).sum() / B
            L_G = (asked * f_G(d_fake)).sum() / B
        else:
            L_D = f_real(d_real[:, 0]).mean() + f_fake(d_fake[:, 0]).mean()
            L_D = L_D + weight * classified(d_real, cnd)
            L_G = f_G(d_fake[:, 0]).mean() + weight * classified(d_fake, asked)
            if args.loss in ("ac", "modified_ac_with_generated"):
                L_D = L_D + weight * classified(d_fake, asked)
        GP = 0.0
        if args.adv == "wgan-gp":
            x_hat = interpolate(x, G(z_penalty, cnd), torch.rand(B, generator=rng))
            out, active = D(x_hat), cnd if ca else torch.ones(B, 1)
            for c in range(active.shape[1]):
                (gradient,) = torch.autograd.grad(out[:, c].sum(), x_hat, create_graph=True)
                norm = gradient.square().flatten(1).sum(1).sqrt()
                GP = GP + args.lambda_gp * (active[:, c] * (norm - 1) ** 2).mean()
        if step % args.n_critic == 0:
            descend(opt_G, L_G, retain_graph=True)
        descend(opt_D, L_D + GP)
    if args.mix_ramp or args.mix_from is not None:
        assert s > 0, "nothing was mixed"
    assert_agree(state["G"], G.state_dict(), "G")
    assert_agree(state["D"], D.state_dict(), "D")
    heads = [
        (out * c).sum() / B if ca else out[:, 0].mean()
        for out, c in ((d_real, cnd), (d_fake, asked))
    ]
    assert_logged(
        state,
        L_d=L_D + GP,
        L_g=L_G,
        D_real=heads[0],
        D_fake=heads[1],
        share=share,
        **({"penalty": GP} if args.adv == "wgan-gp" else {}),
    )


# --- BiGAN, ALI, ALICE and the baselines: §3.4, §4.1, §4.2


@pytest.mark.parametrize(
    "flags",
    [
        "--method bigan --lr-final 0.5 --lr-steps 4",
        "--method bigan --prior normal --cycle 0.7 --lr-ratio 0.3 --weight-decay 0.1",
        "--method bigan --arch conv --beta1 0.8",
        "--method ali --cycle 2 --lr-steps 2",
        "--method ali --arch conv",
        "--method latent-regressor",
        "--method latent-regressor --prior normal --lr-weight 0.9",
        "--method joint-lr --lr-weight 0.6",
        "--method joint-lr --prior normal --weight-decay 0",
        "--method ae-l1",
        "--method ae-l2 --weight-decay 0.3",
        "--dataset 25gaussians --method ali --width 8",
        "--dataset 8gaussians --method bigan --width 8 --cycle 0.5",
    ],
)
def test_bigan(tmp_path, flags):
    train, args, state = trained("bigan", tmp_path / "run", "--lr 2e-3 --sample-every 2 " + flags)
    G, E, D = train.build(args)
    both = [*G.parameters(), *E.parameters()]
    adam = dict(betas=(args.beta1, 0.999), weight_decay=args.weight_decay)
    opt_GE, opt_D = torch.optim.Adam(both, **adam), torch.optim.Adam(D.parameters(), **adam)
    data, B, pairs = train.load_data(args), args.batch_size, args.method in ("bigan", "ali")
    for step in range(1, STEPS + 1):
        second_half = min(1, max(0, 2 * step / args.lr_steps - 1))
        rate = args.lr * args.lr_final**second_half
        opt_D.param_groups[0]["lr"], opt_GE.param_groups[0]["lr"] = rate, rate * args.lr_ratio
        rng = step_rng(args.seed, step)
        x, _ = data.batch(step - 1, B, args.seed)
        if args.prior == "uniform":
            z = 2 * torch.rand(B, args.z_dim, generator=rng) - 1
        else:
            z = torch.randn(B, args.z_dim, generator=rng)
        eps = torch.randn(B, args.z_dim, generator=rng) if args.encoder == "stochastic" else None

        if args.method in ("ae-l1", "ae-l2"):
            error = x - G(E(x))
            L_GE, logged = (error.abs() if args.method == "ae-l1" else error**2).mean(), {}
            descend(opt_GE, L_GE)
            continue
        if pairs:
            code = E(x, eps)
            real, fake = torch.sigmoid(D(x, code)), torch.sigmoid(D(G(z), z))
            L_GE, logged = -((1 - real).log().mean() + fake.log().mean()) / 2, {}
            if args.cycle:
                logged = {"cycle": (x - G(code)).abs().mean()}
                L_GE = L_GE + args.cycle * logged["cycle"]
        else:
            image = G(z)
            real, fake = torch.sigmoid(D(x)), torch.sigmoid(D(image))
            joint = args.method == "joint-lr"
            a = E.logits(image if joint else image.detach())
            if args.prior == "uniform":
                p, q = (z + 1) / 2, torch.sigmoid(a)
                error = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
            else:
                error = ((a - z) ** 2).mean() / 2
            L_GE = -fake.log().mean() + (args.lr_weight * error if joint else error)
            logged = {"L_E": error}
        L_D = -(real.log().mean() + (1 - fake).log().mean()) / 2
        logged |= {"L_D": L_D, "D_real": real.mean(), "D_fake": fake.mean()}
        descend(opt_GE, L_GE, retain_graph=True)
        descend(opt_D, L_D)
    assert_logged(state, L_GE=L_GE, **logged)
    for name, net in (("G", G), ("E", E), ("D", D)):  # the last sampling set new statistics
        assert_agree(state[name], net.state_dict(), name, ignore=("running_", "num_batches"))


# --- PAN: L_D = −log D(y) − log(1 − D(T(x))) + [m − P]⁺, L_T = log(1 − D(T(x))) + P --------------


@pytest.mark.parametrize(
    "flags",
    [
        "--m 9",
        "--same-batch --lambdas 1 2 3 4 --label 0.7 --beta1 0.3 --adversarial nonsaturating",
        "--loss pa-cgan --m 0",
        "--loss l2-cgan --lambda-gan 0.5",
        "--loss l1 --lr-factor 3",
        "--loss context-encoder --task inpainting --size 64",
        "--task inpainting --size 64 --m 9",
    ],
)
def test_pan(tmp_path, flags):
    train, args, state = trained("pan", tmp_path / "run", f"{flags} --lr 1e-3 --sample-every 2")
    T, D = train.build(args)
    betas = (args.beta1, 0.999)
    opt_T = torch.optim.Adam(T.parameters(), lr=1e-3 * args.lr_factor, betas=betas)
    opt_D = torch.optim.Adam(D.parameters(), lr=1e-3, betas=betas)
    data = train.load_data(args)
    plain = args.loss == "l1"  # without D

    def judged(x, image):
        return D(torch.cat([x, image], 1) if args.conditional else image)

    def weighted(real, fake):
        pairs = zip(args.lambdas, real, fake)
        return sum(weight * (a - b).abs().mean() for weight, a, b in pairs)

    for step in range(1, STEPS + 1):
        for_D, for_T = 2 * step - 2, 2 * step - 1
        if args.same_batch:
            for_D = for_T = step - 1
        if not plain:
            x, y = data.batch(for_D, args.batch_size, args.seed)
            fake = T(x).detach()
            real_l, real_F = judged(x, y)
            fake_l, fake_F = judged(x, fake)
            D_y, D_fake = torch.sigmoid(real_l), torch.sigmoid(fake_l)
            L_D = -(args.label * D_y.log() + (1 - args.label) * (1 - D_y).log()).mean()
            L_D = L_D - (1 - D_fake).log().mean()
            if args.m:
                L_D = L_D + (args.m - weighted(real_F, fake_F)).clamp(min=0)
            active = weighted(real_F, fake_F) < args.m
            answers = dict(D_real=D_y.mean(), D_fake=D_fake.mean(), hinge_active=active)
            descend(opt_D, L_D)

        x, y = data.batch(for_T, args.batch_size, args.seed)
        fake = T(x)
        P, L_T = torch.zeros(()), torch.zeros(())
        if not plain:
            real_F = judged(x, y)[1]
            fake_l, fake_F = judged(x, fake)
            D_fake = torch.sigmoid(fake_l)
            P = weighted(real_F, fake_F)
            L_T = (1 - D_fake).log().mean()
            if args.adversarial == "nonsaturating":
                L_T = -D_fake.log().mean()
            L_T = args.lambda_gan * L_T + P
        if args.pixel == "l1":
            L_T = L_T + args.lambda_pixel * (fake - y).abs().mean()
        if args.pixel == "l2":
            L_T = L_T + args.lambda_pixel * ((fake - y) ** 2).mean()
        if args.pixel == "rim-l2":
            weights = torch.ones(32, 32)
            for edge in (weights[:2], weights[-2:], weights[:, :2], weights[:, -2:]):
                edge.fill_(10)
            L_T = L_T + 0.999 * (weights * (fake - y) ** 2).mean()
        descend(opt_T, L_T)

    assert_agree(state["T"], T.state_dict(), "T")
    assert_logged(state, L_T=L_T, pixel_l1=(fake - y).abs().mean())
    if plain:
        assert "D" not in state
    else:
        assert_agree(state["D"], D.state_dict(), "D")
        P_j = {f"P_{j}": (real_F[j - 1] - fake_F[j - 1]).abs().mean() for j in (1, 2, 3, 4)}
        assert_logged(state, L_D=L_D, P=P, **P_j, **answers)
