"""The losses that the paper compares, and the two small sizes of run, as flags of train.py."""

NO_P = (0.0, 0.0, 0.0, 0.0)

PAN = dict()  # train.py's defaults
PA_CGAN = dict(conditional=True)  # Table III's ablation: D sees x, too
L1 = dict(lambdas=NO_P, m=0.0, lambda_gan=0.0, pixel="l1", lambda_pixel=1.0)
L2 = dict(lambdas=NO_P, m=0.0, lambda_gan=0.0, pixel="l2", lambda_pixel=1.0)
CGAN = dict(lambdas=NO_P, m=0.0, conditional=True, adversarial="nonsaturating", label=1.0)
PIX2PIX = CGAN | dict(pixel="l1", lambda_pixel=100.0)  # Isola et al. 2017, arXiv:1611.07004
L2_CGAN = CGAN | dict(pixel="l2", lambda_pixel=100.0)  # its weight is not given; pix2pix's
CONTEXT_ENCODER = dict(  # Pathak et al. 2016, arXiv:1604.07379
    lambdas=NO_P,
    m=0.0,
    lambda_gan=0.001,
    adversarial="nonsaturating",
    label=1.0,
    pixel="rim-l2",
    lambda_pixel=0.999,
    lr_factor=10.0,
)
LOSSES = {
    "pan": PAN,
    "l1": L1,
    "l2": L2,
    "cgan": CGAN,
    "l2-cgan": L2_CGAN,
    "pa-cgan": PA_CGAN,
    "pix2pix": PIX2PIX,
    "context-encoder": CONTEXT_ENCODER,
}

QUICK = dict(
    dataset="fashion-mnist",
    task="inpainting",
    size=64,
    width=16,
    width_t=32,
    bottleneck=256,
    batch_size=8,
    steps=3000,
    log_every=50,
    sample_every=250,
)
QUICK_PAIRS = QUICK | dict(task="pairs", steps=1500)  # of --dataset folder; unet6 is slower
QUICK_DERAINING = QUICK | dict(width_t=16, steps=1000)  # at full resolution
SMOKE = dict(
    dataset="synthetic",
    task="deraining",
    size=32,
    width=4,
    width_t=4,
    bottleneck=8,
    batch_size=4,
    steps=12,
    log_every=2,
    sample_every=6,
    save_every=6,
)


def presets(args):
    """{flag: {value: flags}} for common.cli.parse, of what was typed."""
    quick = QUICK if args.task in ("pairs", "inpainting") else QUICK_DERAINING
    if args.task == "pairs" and args.dataset == "folder":
        quick = QUICK_PAIRS
    return {"quick": {True: quick}, "smoke": {True: SMOKE}, "loss": LOSSES}
