"""The five methods of Ding's comparison, and the presets of train.py: values of its flags."""

from common.toys import TOYS

# --- the five methods, each with its own paper's optimiser and schedule

PLAIN = dict(
    clip=0.0,
    gp=0.0,
    spectral="none",
    attention="none",
    n_critic=1,
    n_critic_warm=0,
    optimizer="adam",
)
GAN = dict(  # DCGAN, arXiv:1511.06434 §4
    PLAIN,
    loss="gan",
    batch_norm="gd",
    lr_g=2e-4,
    lr_d=2e-4,
    beta1=0.5,
    beta2=0.999,
    init="normal",
    z_dim=100,
)
WGAN = dict(  # WGAN, arXiv:1701.07875 Algorithm 1; the warm-up, α, init, N_z: its authors' code
    PLAIN,
    loss="wasserstein",
    clip=0.01,
    batch_norm="gd",
    n_critic=5,
    n_critic_warm=100,
    optimizer="rmsprop",  # departure 3
    lr_g=5e-5,
    lr_d=5e-5,
    beta1=0.0,
    beta2=0.99,
    init="normal",
    z_dim=100,
)
WGAN_GP = dict(  # WGAN-GP, arXiv:1704.00028 Algorithm 1; init, N_z: its authors' code
    PLAIN,
    loss="wasserstein",
    gp=10.0,
    batch_norm="g",
    n_critic=5,
    lr_g=1e-4,
    lr_d=1e-4,
    beta1=0.0,
    beta2=0.9,
    init="he",
    z_dim=128,
)
SAGAN = dict(  # SAGAN, arXiv:1805.08318 §3, §4; init, N_z: its authors' code
    PLAIN,
    loss="hinge",
    batch_norm="g",
    spectral="gd",
    attention="auto",
    lr_g=1e-4,  # TTUR, departure 7
    lr_d=4e-4,
    beta1=0.0,
    beta2=0.9,
    init="xavier",
    z_dim=128,
)
# Ding §4.3: SAGAN with WGAN-GP's loss, Eq. 4. That D then has no spectral normalisation is ours.
SAGAN_WGAN_GP = dict(SAGAN, loss="wasserstein", gp=10.0, spectral="g")
METHODS = {
    "gan": GAN,
    "wgan": WGAN,
    "wgan_gp": WGAN_GP,
    "sagan": SAGAN,
    "sagan_wgan_gp": SAGAN_WGAN_GP,
}

# --- presets

SMALL_IMAGES = dict(size=32, images=0)
TOY = dict(  # WGAN-GP's authors' code; with a penalty also λ = 0.1
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
)
QUICK = dict(dataset="fashion-mnist", size=32, images=0, width=32, batch_size=32)
QUICK_METHODS = {  # steps of about equal CPU time (within a factor of 2)
    "gan": dict(steps=14_000),
    "wgan": dict(steps=3400, lr_g=2e-4, lr_d=2e-4, n_critic_warm=10),
    "wgan_gp": dict(steps=2100, lr_g=5e-4, lr_d=5e-4),
    "sagan": dict(steps=5000, lr_g=6e-4, lr_d=6e-4),  # no TTUR: better here, results/README.md
    "sagan_wgan_gp": dict(steps=3100, lr_g=6e-4, lr_d=6e-4),
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


def presets(args):
    """What each flag's value sets, given what was typed: see common.cli.parse."""
    toy = dict(TOY, gp=0.1) if METHODS[args.method]["gp"] else TOY
    quick = QUICK_TOY if args.dataset in TOYS else QUICK | QUICK_METHODS[args.method]
    datasets = dict.fromkeys(("fashion-mnist", "mnist", "cifar10"), SMALL_IMAGES)
    datasets |= {"folder": dict(images=0)} | dict.fromkeys(TOYS, toy)
    return {
        "method": METHODS,
        "dataset": datasets,
        "quick": {True: quick},
        "smoke": {True: SMOKE},
    }
