"""What the networks are given: x of a data set or mixture, z of the prior, ε of a stochastic E."""

import torch

from common.data import load_images
from common.errors import UserError
from common.toys import MIXTURES, mixture


def load_data(args, split="train"):
    """Images, or a mixture, with batch(step, batch_size, seed, device).

    The train split lacks the class that --hold-out names.
    """
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
        of_class = data.labels == class_index(data, args.hold_out)
        if split == "train":
            data.images = data.images[~of_class]
            data.labels = data.labels[~of_class]
        elif of_class.all() or not of_class.any():
            raise UserError(
                f"--hold-out {args.hold_out}: {'all' if of_class.any() else 'none'} of the "
                f"{len(data):,} test images of {data.name} are of this class, and its anomaly "
                "scores are compared with the others'. Put images of both there"
            )
    return data


def class_index(data, name):
    """Number of the class with this name or number."""
    if data.labels is None:
        raise UserError(
            f"--hold-out {name}: {data.name} has no classes ({data.split} images). "
            "Choose a set that has"
        )
    if data.images is None:
        raise UserError(
            f"--hold-out {name}: the images of {data.name} don't fit into memory. Give a smaller "
            "--size"
        )
    names = [c.lower() for c in data.classes]
    if name.lower() in names:
        return names.index(name.lower())
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UserError(
        f"--hold-out {name}: {data.name} has the classes {', '.join(data.classes)} "
        f"(0 to {len(names) - 1})"
    )


def sample_z(n, args, generator):
    """z ~ p_z, (n, N_z): uniform on [-1, 1] or N(0, 1)."""
    if args.prior == "uniform":
        return torch.rand(n, args.z_dim, generator=generator) * 2 - 1
    return torch.randn(n, args.z_dim, generator=generator)


def sample_eps(n, args, generator, device="cpu"):
    """ε ~ N(0, 1) of a stochastic encoder, (n, N_z), or None. generator: a CPU one."""
    if args.encoder == "stochastic":
        return torch.randn(n, args.z_dim, generator=generator).to(device)
    return None
