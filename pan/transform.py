"""T of a user's own images: `python -m pan.eval --ckpt X --transform DIR --out NEW`, or by ONNX."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from tqdm import tqdm

from common.device import autocast
from common.errors import UserError, say_once
from common.folders import attempt, image_kind, list_images, say_if_deep
from common.onnx import BATCH, write_onnx
from common.plots import save_grid

from .pairs import read_image
from .pictures import whole
from .tasks import TASKS


class Transform(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> T(x) as whole images.

    The hole of in-painting is cut here, and of colourisation the luminance is taken. Otherwise an
    image is x as it is: with rain, with noise, outlines, or, for super-resolution, enlarged before
    by tasks.SCALE, bicubically, since T keeps its size.
    """

    def __init__(self, T, task):
        super().__init__()
        self.T, self.task = T, task

    def forward(self, x: Tensor) -> Tensor:
        if self.task in ("inpainting", "colourisation"):
            x, _ = TASKS[self.task].make(x, None)  # these two draw nothing
        return whole(self.task, x, self.T(x).float())


def write_graph(T, trained, out):
    """--onnx: Transform, for images of the sides that T can take."""
    side, free = trained.size, BATCH
    if trained.task != "inpainting":
        side = 2 * T.multiple  # of the example: a side that is 1 pixel inside T would stay fixed
        free = BATCH | {2: T.multiple * Dim("height"), 3: T.multiple * Dim("width")}
    x = torch.zeros(2, trained.channels, side, side)
    about = {"x": f"{trained.task}, in [-1, 1]"}
    write_onnx(out, Transform(T, trained.task), {"x": x}, "transformed", free, about)


def transform_folder(T, trained, args, device):
    """Write T(x) of each image x under --transform into --out, as a PNG of the same name and place.

    Images keep their size: for a T that takes multiples of some number they are mirrored at the
    right and the bottom, and T(x) is cut. See Transform for what x is. What can't be taken is left
    out; after the others are written an error names the first of them.
    """
    source, out = Path(args.transform), Path(args.out)
    files = list_images(source) if source.is_dir() else []
    if not files:
        raise UserError(f"--transform {source}: no images there. Give a folder that holds some")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty: choose another folder")
    targets = {}
    for file in files:
        target = out / file.relative_to(source).with_suffix(".png")
        if target in targets:
            raise UserError(f"{file} and {targets[target]} have one name: move one of them away")
        targets[target] = file

    say_if_deep(source, attempt(image_kind, files, "looking at headers"))
    refused = []
    batch = []
    for target, file in tqdm(targets.items(), disable=None, desc="images"):
        try:
            image = read(file, trained)
        except UserError as e:
            refused.append(str(e))
            continue
        height, width = image.shape[1:]
        image = mirrored(image, getattr(T, "multiple", 1))
        # no more pixels than in a batch of the size of training: photographs may be large
        most = args.batch_size * trained.size**2 // image[0].numel()
        most = min(args.batch_size, max(1, most))
        if batch and (len(batch) == most or image.shape != batch[0][1].shape):
            write(T, batch, trained, args, device)
            batch = []
        batch.append((target, image, height, width))
    if batch:
        write(T, batch, trained, args, device)
    if len(refused) < len(files):
        print(f"{len(files) - len(refused)} of {len(files)} images transformed into {out}")
    if refused:
        more = f" ({len(refused)} such images were left out)" if len(refused) > 1 else ""
        raise UserError(refused[0] + more)


def read(file, trained):
    """x (C, H, W) in [-1, 1]."""
    image = read_image(file, trained.channels)
    if trained.channels == 1 and image_kind(file) == "colour":
        say_once("T was trained on grey images: of coloured ones it takes the luminance")
    side = trained.size
    if trained.task == "inpainting" and image.shape[1:] != (side, side):
        sides = f"{image.shape[2]}x{image.shape[1]}"
        raise UserError(
            f"{file} is {sides}: this network takes images of {side}x{side} pixels. Resize it"
        )
    return image


def mirrored(image, multiple):
    """(C, H, W), continued by mirroring at the right and the bottom to multiples of `multiple`."""
    height, width = image.shape[1:]
    more = ((0, 0), (0, -height % multiple), (0, -width % multiple))
    return torch.from_numpy(np.pad(image.numpy(), more, mode="reflect"))


@torch.no_grad()
def write(T, batch, trained, args, device):
    x = torch.stack([image for _, image, _, _ in batch]).to(device)
    with autocast(device, args.amp):
        fake = Transform(T, trained.task)(x)
    for (target, _, height, width), image in zip(batch, fake):
        save_grid(image[None, :, :height, :width], target, nrow=1, pad=0, zoom=1)
