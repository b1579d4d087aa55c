"""Scores of anybody's images against a reference. From the repository's root:

  python -m common.metrics A B                    generated images A, real ones B, by Inception
  python -m common.metrics A.npz B.npz --extractor lenet --dataset fashion-mnist
  python -m common.metrics A B --extractor FILE   features of your own
  python -m common.metrics A B --n 10000 --out scores.json

A, B: a folder, of which all images below it are taken, or an NPZ with uint8 images (N, H, W, C) or
(N, H, W), called `images`, as --export writes, or `arr_0`. Prints FID, KID, Inception score,
precision and recall, and with a LeNet how many images it sees in each class: the numbers that
eval.py prints for the same images. A key ends with the name of B. Features of B are kept in
DATA_DIR/cache.

FILE is a TorchScript module that is given images (B, 3, H, W) in [-1, 1] as large as they are, and
returns features (B, D), or a pair of these and of logits (B, classes) for the Inception score.
"""

import re
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..arguments import FilePath, add_flags, refuse_out_of_range
from ..cli import file_path, new_parser, parse, run_main
from ..data import DATASETS, ImageSet, images_below
from ..device import choose_device
from ..errors import UserError
from ..evaluate import image_scores, print_metrics, refuse_existing
from ..folders import BadImage
from ..runs import environment, write_json
from .extractors import KINDS, load_extractor


@dataclass
class Args:
    # --- what is measured
    # inception, lenet, efficientnet, a TorchScript file, or auto: Inception, else EfficientNet
    extractor: FilePath = "inception"
    dataset: Literal[*DATASETS, "synthetic"] = "fashion-mnist"  # whose LeNet --extractor lenet is
    data_dir: FilePath = "data"  # where weights and features are looked for and put
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    n: int | None = None  # of A only so many images, spread evenly; none: all
    # take each image's centred square and resize it to this side, in [1, 4096]; none: as they are
    size: int | None = None
    channels: Literal[1, 3] | None = None  # 1: grey, 3: colour; none: as they are
    out: FilePath | None = None  # also write the scores into this JSON file

    # --- run
    batch_size: int = 250  # images per forward pass
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps


def parse_args(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("generated", metavar="A", type=file_path, help="folder or NPZ to score")
    parser.add_argument("reference", metavar="B", type=file_path, help="folder or NPZ of real ones")
    add_flags(parser, Args)
    args = parse(parser, argv)
    refuse_out_of_range(args, Args)
    if args.extractor not in KINDS and not Path(args.extractor).is_file():
        raise UserError(
            f"--extractor {args.extractor}: choose one of {', '.join(KINDS)}, or a TorchScript file"
        )
    return args


def load(path, size, channels):
    """An ImageSet of a folder's images, or of an NPZ's; its split is the name of the place."""
    path = Path(path)
    if path.is_dir():
        images = images_below(path, size, channels)
    elif path.is_file():
        pixels = read_npz(path)
        if size is not None:  # as of files: the centred square
            side = min(pixels.shape[2:])
            top, left = ((length - side) // 2 for length in pixels.shape[2:])
            pixels = pixels[:, :, top : top + side, left : left + side]
        images = ImageSet(path.stem, "all", size, channels or pixels.shape[1], images=pixels)
    else:
        raise UserError(f"no folder or file {path}")
    place = path.resolve()
    images.split = re.sub(r"\W+", "-", place.name if place.is_dir() else place.stem)
    return images


def read_npz(path):
    """uint8 (N, C, H, W), the images of an NPZ file."""
    try:
        with np.load(path) as f:
            name = next((name for name in ("images", "arr_0") if name in f), None)
            there, pixels = list(f), None if name is None else f[name]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"can't read {path}: it isn't an NPZ file, or is damaged") from None
    if name is None:
        raise UserError(
            f"{path} has {', '.join(there) or 'nothing'}: `images` or `arr_0` is needed, uint8 "
            "(N, H, W, C) or (N, H, W)"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
        raise UserError(
            f"{path}: `{name}` is {pixels.shape} of {pixels.dtype}; uint8 (N, H, W, C) or "
            "(N, H, W) is needed, C 1 or 3"
        )
    if not len(pixels):
        raise UserError(f"{path} has no images")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def shape_of(images):
    """(channels, H, W) of what an ImageSet returns."""
    return tuple(images.images_at([0])[0].shape)


def main(argv=None):
    args = parse_args(argv)
    if args.out:
        refuse_existing("--out", args.out)
    device = choose_device(args.device)
    try:
        return score(args, device)
    except BadImage as e:
        raise UserError(f"can't decode {e.file} ({e.reason}): replace or remove it") from None


def score(args, device):
    """{key: value}: the scores of A against B."""
    generated, reference = (
        load(path, args.size, args.channels) for path in (args.generated, args.reference)
    )
    n = args.n or len(generated)
    if n > len(generated):
        raise UserError(f"--n {n}: {args.generated} has {len(generated)} images")
    shapes = shape_of(generated), shape_of(reference)
    if shapes[0] != shapes[1]:
        print(
            f"warning: images (C, H, W) of A are {shapes[0]}, of B {shapes[1]}: the scores measure "
            "that, too. --size and --channels make them alike",
            file=sys.stderr,
        )
    extractor = load_extractor(
        args.extractor,
        args.dataset if args.extractor == "lenet" else "folder",
        device,
        args.data_dir,
        args.inception_weights,
        labelled=False,
    )
    if extractor is None:
        raise UserError("--extractor auto: there is none, as the warning says")
    places = torch.arange(n) * len(generated) // n
    batches = (generated.images_at(part, device) for part in places.split(args.batch_size))
    metrics, *_ = image_scores(extractor, reference, batches, n, device, args.data_dir)
    print(
        f"{args.generated}: {n:,} images; {args.reference}: {len(reference):,}; "
        f"features: {extractor.name}"
    )
    print_metrics(metrics)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        result = {
            "generated": args.generated,
            "reference": args.reference,
            "generated_images": n,
            "reference_images": len(reference),
            "extractor": extractor.name,
            "size": args.size,
            "channels": args.channels,
            "metrics": metrics,
            "env": environment(device),
        }
        write_json(args.out, result)
    return metrics


if __name__ == "__main__":
    run_main(main)
